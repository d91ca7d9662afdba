"""All security policies as one: every one must agree, and the first refusal counts. A policy that fails refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from testorch_core.errors import PolicyFailedError, Problem, Refusal, RefusedError
from testorch_core.events import WireEvent
from testorch_core.interfaces.security import (
    ALLOW,
    ANONYMOUS,
    AccessRequest,
    Admission,
    Allow,
    Delay,
    Principal,
    Refuse,
    SecurityPolicy,
)  # fmt: skip
from testorch_core.interfaces.transport import Handshake
from testorch_core.logs import library_log
from testorch_core.said import admission_in, event_in, principal_in, problems_in

POLICY_RETRY_MS: Final = 1_000
"""When to ask again after a policy has failed to decide about a message."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policies said of a message, and which one decided."""

    admission: Admission
    policy: str | None = None


class Gate:
    """The configured policies, in the order of the configuration. Policies that do not override a method are not asked.

    A policy that raises, whatever it is, or that answers nonsense, fails closed for what it was asked about and for
    nothing else: one hostile message that trips it must not end the server. The log has a line with the exception's type
    and place, and never its words, which may hold what a client sent.
    """

    def __init__(self, policies: Sequence[SecurityPolicy], *, log: Any = None) -> None:
        self._log = log if log is not None else library_log()
        self._policies = tuple(policies)
        self._authenticators = [one for one in policies if one.authenticates]
        self._admitters = [one for one in policies if type(one).admit is not SecurityPolicy.admit]
        self._validators = [
            (one, one.validate) for one in policies if type(one).validate is not SecurityPolicy.validate
        ]
        self._amenders = [one for one in policies if type(one).amend is not SecurityPolicy.amend]

    @property
    def authenticates(self) -> bool:
        """Whether any policy wants to know who is there."""
        return bool(self._authenticators)

    async def authenticate(self, handshake: Handshake) -> Principal | None:
        """Who this is: the first policy that knows; `ANONYMOUS` where no policy authenticates; None for a stranger.

        Raises `PolicyFailedError`: then nobody may come in, since the policy that failed might have known better.
        """
        if not self._authenticators:
            return ANONYMOUS
        for policy in self._authenticators:
            try:
                principal = principal_in(await policy.authenticate(handshake))
            except Exception as failure:  # whatever a policy raises is an answer about this client
                self._note(policy, "authenticate", failure)
                raise PolicyFailedError(policy.name, "authenticate") from None
            if principal is not None:
                return principal if principal.issuer == policy.name else replace(principal, issuer=policy.name)
        return None

    def current(self, principal: Principal) -> Principal | None:
        """A principal as its credential stands now; None when it is good no more, or when its policy fails to say."""
        for policy in self._authenticators:
            if policy.name == principal.issuer:
                try:
                    found = principal_in(policy.current(principal))
                except Exception as failure:  # whatever a policy raises is an answer about this client
                    self._note(policy, "current", failure)
                    return None
                if found is not None and found.issuer != policy.name:
                    return replace(found, issuer=policy.name)
                return found
        return None

    def admit(self, request: AccessRequest) -> Verdict:
        """The first policy's objection; else the longest delay that any asks for; else `ALLOW`.

        A policy that fails objects for a while: the message was not looked at, and may well pass when it comes again.
        """
        longest: Verdict = Verdict(ALLOW)
        for policy in self._admitters:
            try:
                said = admission_in(policy.admit(request))
            except Exception as failure:  # whatever a policy raises is an answer about this message
                self._note(policy, "admit", failure)
                words = "a security policy failed to decide; the server's log says more"
                return Verdict(Refuse("internal", words, retry_after_ms=POLICY_RETRY_MS), policy.name)
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
                if problems != ():
                    problems = problems_in(problems)
            except Exception as failure:  # whatever a policy's schema raises is an answer about this event
                self._note(policy, "validate", failure)
                return _beyond(policy, event)
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
        """The event as all policies leave it. Raises `RefusedError` (`invalid_event`) where one fails to."""
        try:
            return self._amended(event)
        except _AmendError as failed:
            self._note(failed.policy, "amend", failed.failure)
            raise RefusedError(_beyond(failed.policy, event)) from None

    def shown(self, event: WireEvent) -> WireEvent | None:
        """What the policies leave of an event that was refused; None where one fails to say."""
        try:
            return self._amended(event)
        except _AmendError:
            return None

    def _amended(self, event: WireEvent) -> WireEvent:
        for policy in self._amenders:
            try:
                event = event_in(policy.amend(event), event)
            except Exception as failure:  # whatever a policy raises is an answer about this event
                raise _AmendError(policy, failure) from None
        return event

    def counts(self) -> dict[str, dict[str, int]]:
        """What policies have counted, by their names; without those that count nothing."""
        found: dict[str, dict[str, int]] = {}
        for policy in self._policies:
            try:
                counted = {str(name): int(count) for name, count in policy.counts().items()}
            except Exception as failure:  # statistics must not fail for it
                self._note(policy, "counts", failure)
                continue
            if counted:
                found[policy.name] = counted
        return found

    def _note(self, policy: SecurityPolicy, method: str, failure: Exception) -> None:
        self._log.error(
            "policy_failed", policy=policy.name, method=method, error=type(failure).__name__, place=_place_of(failure)
        )


class _AmendError(Exception):
    def __init__(self, policy: SecurityPolicy, failure: Exception) -> None:
        self.policy = policy
        self.failure = failure
        super().__init__(policy.name)


def invalid_event(event: Any, problems: Sequence[Problem], *, policy: str | None = None) -> Refusal:
    """The refusal of one event, naming it as far as it can be named."""
    event_id = event.get("id") if isinstance(event, Mapping) else None
    known = event_id if isinstance(event_id, str) else None
    first = problems[0]
    return Refusal("invalid_event", str(first), details=tuple(problems), event_id=known, policy=policy)


def _beyond(policy: SecurityPolicy, event: Any) -> Refusal:
    """The refusal of an event that a policy failed on. It is for good: the same event would trip it again."""
    words = "the policy failed to judge this event; the server's log says more"
    return invalid_event(event, [Problem("", words)], policy=policy.name)


def _place_of(failure: Exception) -> str:
    """Where an exception was raised: file, line and function, without anything that was in them."""
    trace = failure.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    code = trace.tb_frame.f_code
    return f"{Path(code.co_filename).name}:{trace.tb_lineno} in {code.co_name}"
