"""All security policies as one: every one must agree, and the first refusal counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testorch_core.errors import PluginFailedError, Problem, Refusal
from testorch_core.events import WireEvent
from testorch_core.interfaces.security import (
    ALLOW,
    ANONYMOUS,
    AccessRequest,
    Admission,
    Allow,
    Delay,
    Principal,
    SecurityPolicy,
)  # fmt: skip
from testorch_core.interfaces.transport import Handshake


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policies said of a message, and which one decided."""

    admission: Admission
    policy: str | None = None


class Gate:
    """The configured policies, in the order of the configuration.

    A policy that raises is a defect that could let anything in, so it becomes `PluginFailedError`, which stops the
    server. Policies that do not override a method are not asked.
    """

    def __init__(self, policies: Sequence[SecurityPolicy]) -> None:
        self._authenticators = [one for one in policies if one.authenticates]
        self._admitters = [one for one in policies if type(one).admit is not SecurityPolicy.admit]
        self._validators = [
            (one, one.validate) for one in policies if type(one).validate is not SecurityPolicy.validate
        ]
        self._amenders = [one for one in policies if type(one).amend is not SecurityPolicy.amend]

    async def authenticate(self, handshake: Handshake) -> Principal | None:
        """Who this is: the first policy that knows; `ANONYMOUS` where no policy authenticates; None for a stranger."""
        if not self._authenticators:
            return ANONYMOUS
        for policy in self._authenticators:
            try:
                principal = await policy.authenticate(handshake)
            except Exception as failure:
                raise _failed(policy, failure) from failure
            if principal is not None:
                return principal
        return None

    def admit(self, request: AccessRequest) -> Verdict:
        """The first policy's objection; else the longest delay that any asks for; else `ALLOW`."""
        longest: Verdict = Verdict(ALLOW)
        for policy in self._admitters:
            try:
                said = policy.admit(request)
            except Exception as failure:
                raise _failed(policy, failure) from failure
            if isinstance(said, Delay):
                if not isinstance(longest.admission, Delay) or said.seconds > longest.admission.seconds:
                    longest = Verdict(said, policy.name)
            elif not isinstance(said, Allow):
                return Verdict(said, policy.name)
        return longest

    def check(self, event: WireEvent) -> Refusal | None:
        """The first policy's refusal of what is inside an event, or None."""
        for policy, validate in self._validators:
            try:
                problems = validate(event)
            except Exception as failure:
                raise _failed(policy, failure) from failure
            if problems:
                return invalid_event(event, problems, policy=policy.name)
        return None

    @property
    def admits(self) -> bool:
        """Whether any policy wants to be asked about messages."""
        return bool(self._admitters)

    @property
    def amends(self) -> bool:
        """Whether any policy changes events at all."""
        return bool(self._amenders)

    def amend(self, event: WireEvent) -> WireEvent:
        """The event as all policies leave it."""
        for policy in self._amenders:
            try:
                event = policy.amend(event)
            except Exception as failure:
                raise _failed(policy, failure) from failure
        return event


def invalid_event(event: Any, problems: Sequence[Problem], *, policy: str | None = None) -> Refusal:
    """The refusal of one event, naming it as far as it can be named."""
    event_id = event.get("id") if isinstance(event, Mapping) else None
    known = event_id if isinstance(event_id, str) else None
    first = problems[0]
    return Refusal("invalid_event", str(first), details=tuple(problems), event_id=known, policy=policy)


def _failed(policy: SecurityPolicy, failure: Exception) -> PluginFailedError:
    return PluginFailedError(f"security policy `{policy.name}` failed: {type(failure).__name__}: {failure}")
