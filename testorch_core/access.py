"""What one client may do: its principal, what it addresses, and what the policies say of its messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import trio

from testorch_core.addressing import Addressing
from testorch_core.errors import RefusedError, TestorchError, refuse, within
from testorch_core.events import RESERVED_PREFIX
from testorch_core.gate import Gate
from testorch_core.interfaces.security import AccessRequest, Allow, Close, Delay, Principal, Refuse
from testorch_core.interfaces.transport import Handshake
from testorch_core.protocol import CLOSE_UNAUTHENTICATED

MAX_REASON_BYTES: Final = 123
"""What a Close frame has room for beside its code (RFC 6455, 5.5)."""

INGEST, OBSERVE, ADMIN = "ingest", "observe", "admin"

SCOPE_OF: Final = {
    "event": INGEST, "events": INGEST, "startTestRun": INGEST, "endTestRun": INGEST, "cancelTestRun": INGEST,
    "streamEnd": INGEST, "getActiveRuns": OBSERVE, "getRunStatus": OBSERVE, "getRuns": OBSERVE, "getResults": OBSERVE,
    "getHistory": OBSERVE, "getStatistics": OBSERVE, "subscribe": OBSERVE,
}  # fmt: skip
"""The scope that a message needs. What is not here every principal may say, as far as the policies agree."""


class CloseConversation(TestorchError):  # noqa: N818 - an order to the session, not a failure
    """A policy wants the connection closed."""

    code = "close"

    def __init__(self, close_code: int, reason: str) -> None:
        self.close_code = close_code
        self.reason = reason
        super().__init__(reason)


class Access:
    """One client's access. `principal` is None until it is known who the client is: then it may do nothing."""

    def __init__(self, gate: Gate, handshake: Handshake, connection: str, new_id: Callable[[], str]) -> None:
        self._gate = gate
        self._handshake = handshake
        self._connection = connection
        self.principal: Principal | None = None
        self.message_bytes = 0
        """The size of the message that is being done, where who asks doesn't say another one."""
        self.addressing = Addressing(frozenset(), new_id)

    @property
    def name(self) -> str:
        """The principal's name, for the log."""
        return self.principal.name if self.principal is not None else ""

    @property
    def is_bound(self) -> bool:
        """Whether the client may touch some projects only."""
        return self.principal is not None and self.principal.projects is not None

    def become(self, principal: Principal) -> None:
        """It is known who the client is."""
        self.principal = principal
        self.addressing.bind(principal.projects)
        self._handshake = replace(self._handshake, token=None)  # nobody needs it any more

    def refreshed(self) -> Principal | None:
        """The principal as its credential stands now; None for a client that is not, or no longer, known."""
        if self.principal is not None and self.principal.issuer is not None:
            now = self._gate.current(self.principal)
            if now is not self.principal:
                self.principal = now
                self.addressing.bind(now.projects if now is not None else frozenset())
        return self.principal

    def may_see(self, project: str) -> bool:
        """Whether a project is one of those that the principal may look into."""
        principal = self.refreshed()
        if principal is None or OBSERVE not in principal.scopes:
            return False
        if project.startswith(RESERVED_PREFIX) and ADMIN not in principal.scopes:
            return False
        return principal.projects is None or project in principal.projects

    def allows(self, action: str, project: str) -> bool:
        """Whether a message about a project would be let pass: for those that name none and may be about several."""
        principal = self.refreshed()
        if principal is None or not self.may_see(project):
            return False
        if not self._gate.admits:
            return True
        said = self._gate.admit(self._request(principal, action, project, asking=True)).admission
        return isinstance(said, Allow | Delay) or (isinstance(said, Refuse) and said.retry_after_ms is not None)

    def require_scope_to_report(self, project: str) -> None:
        """Raises `RefusedError` (`forbidden`) for a client that may not report at all in a project."""
        if self.principal is not None:
            _require_scope(self.principal, "event", project)

    def _request(
        self, principal: Principal, action: str, project: str, run_id: str | None = None, **facts: Any
    ) -> AccessRequest:
        return AccessRequest(
            principal=principal,
            handshake=self._handshake,
            action=action,
            project=project,
            run_id=run_id,
            connection=self._connection,
            **facts,
        )

    async def admit(
        self, action: str, project: str, *, run_id: str | None = None, events: int = 0, size_bytes: int = 0
    ) -> None:
        """Ask the policies whether a message may pass, and wait as long as they want.

        Raises `RefusedError` when it may not, `CloseConversation` when the client must go.
        """
        principal = self.refreshed()
        if principal is None:
            raise CloseConversation(CLOSE_UNAUTHENTICATED, "unauthenticated")
        _require_scope(principal, action, project)
        if not self._gate.admits:
            return
        size_bytes = size_bytes or self.message_bytes
        verdict = self._gate.admit(
            self._request(principal, action, project, run_id, events=events, size_bytes=size_bytes)
        )
        said = verdict.admission
        if isinstance(said, Allow):
            return
        if isinstance(said, Delay):
            await trio.sleep(said.seconds)
        elif isinstance(said, Refuse):
            raise refuse(
                said.code,
                said.reason,
                temporary=said.retry_after_ms is not None,
                retry_after_ms=said.retry_after_ms,
                policy=verdict.policy,
            )
        elif isinstance(said, Close):
            raise CloseConversation(said.code, within(said.reason, MAX_REASON_BYTES, MAX_REASON_BYTES))


def _require_scope(principal: Principal, action: str, project: str) -> None:
    needed = SCOPE_OF.get(action)
    if needed is not None and needed not in principal.scopes:
        raise _forbidden(principal, f"`{action}` needs the scope `{needed}`")
    if project.startswith(RESERVED_PREFIX):
        if needed != OBSERVE:
            raise _forbidden(principal, f"projects whose names begin with `{RESERVED_PREFIX}` are the server's own")
        if ADMIN not in principal.scopes:
            raise _forbidden(principal, f"project `{project}` is not open to you")


def _forbidden(principal: Principal, words: str) -> RefusedError:
    return refuse("forbidden", words, policy=principal.issuer)
