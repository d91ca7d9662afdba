"""The security family: who may come in, what may come in, and how it may be changed on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testorch_core.errors import Problem
from testorch_core.events import WireEvent
from testorch_core.interfaces.plugin import Plugin
from testorch_core.interfaces.transport import Handshake


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who is on a connection. `name` is 1 to 200 characters; `projects` bounds what it may touch, None means all.

    `scopes` are `ingest` (report tests), `observe` (ask and subscribe) and `admin` (read the audit trail); the core holds
    them. `roles` are for policies that decide by them. `issuer` is the instance that made the principal, and `credential`
    what it knows it by: the id of a token, say, never the secret itself. `expires_at` is in seconds since the epoch.
    """

    name: str
    scopes: frozenset[str] = frozenset({"ingest", "observe"})
    projects: frozenset[str] | None = None
    roles: frozenset[str] = frozenset()
    issuer: str | None = None
    credential: str | None = None
    expires_at: float | None = None


ANONYMOUS = Principal(name="anonymous")
"""Whoever connects where no policy authenticates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """One message that asks to be admitted: its type (`action`), what it is about, and how much it brings.

    `connection` is the connection's id. `run_id` is None where the message names no run, or many. With `asking` the core
    only wants to know whether such a message would pass, of one that is about several projects: nothing is to be counted.
    """

    principal: Principal
    handshake: Handshake
    action: str
    project: str
    run_id: str | None = None
    events: int = 0
    size_bytes: int = 0
    connection: str = ""
    asking: bool = False


@dataclass(frozen=True, slots=True)
class Allow:
    """The message may pass."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The message may pass after a wait, which ends some time; the session waits, and reads nothing meanwhile."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """The message is refused with an `error`; with `retry_after_ms` the refusal is temporary."""

    code: str
    reason: str
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is closed with a WebSocket close code of 4000 to 4999, or 1008 to 1013."""

    code: int
    reason: str = ""


Admission = Allow | Delay | Refuse | Close
ALLOW = Allow()


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a policy would say of a request, and why, in words for whoever wrote the configuration; clients never see them.

    `place` is the part of the instance's table that decides, such as `rules.2` for the second of an array of tables.
    """

    decision: Admission
    words: str
    place: str | None = None


class SecurityPolicy(Plugin):
    """Implements what it is about and inherits the rest. All policies must agree; the first refusal counts.

    The methods decide at once: they are synchronous or do not wait long, raise nothing, and change nothing but counters
    of their own. A policy that raises all the same, or answers anything else than is said here, fails closed for what it
    was asked about, and the server goes on: `authenticate` costs the connection (1011), `admit` a temporary error
    (`internal`), `validate` and `amend` the event, which is refused for good. The log tells the exception's type and place.

    Whatever `validate` and `amend` are given has passed the decoder: JSON's own types, numbers within ±(2^53-1), at most 64
    levels, no NUL and no lone surrogate.
    """

    authenticates: bool = False
    """True for a policy that knows principals; where none does, everybody is `ANONYMOUS`."""

    async def authenticate(self, handshake: Handshake) -> Principal | None:
        """Who this is, or None if this policy doesn't know. Asked in the order of the configuration."""
        return None

    def current(self, principal: Principal) -> Principal | None:
        """A principal that this policy made, as its credential stands now: the same, a narrower one, or None when it was
        revoked or has expired. Asked for messages, before events are sent, and of the silent every few seconds.
        """
        return principal

    def admit(self, request: AccessRequest) -> Admission:
        """Whether a message may pass now. Asked once a message, before its contents are looked at."""
        return ALLOW

    def explain(self, request: AccessRequest) -> Explanation | None:
        """What `admit` would say of a request, and why; None from a policy that can't tell.

        For `testorch acl explain`: asked of a policy that was constructed and not started. Counts nothing.
        """
        return None

    def counts(self) -> Mapping[str, int]:
        """What it has counted since the start, for statistics; shown to whoever may ask for them."""
        return {}

    def validate(self, event: WireEvent) -> Sequence[Problem]:
        """What is wrong inside an event whose envelope is right; empty for a good one. Must not change it."""
        return ()

    def amend(self, event: WireEvent) -> WireEvent:
        """The event as it is to be stored; the same object where nothing changes, else another one that JSON can hold.

        `id`, `type`, `runId`, `project` and `seq` must stay.
        """
        return event
