"""What one client may do: its principal, what it addresses, and what the policies say of its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from testorch_core.addressing import Addressing
from testorch_core.errors import TestorchError, refuse, within
from testorch_core.gate import Gate
from testorch_core.interfaces.security import AccessRequest, Allow, Close, Delay, Principal, Refuse
from testorch_core.interfaces.transport import Handshake

MAX_REASON_BYTES: Final = 123
"""What a Close frame has room for beside its code (RFC 6455, 5.5)."""


class CloseConversation(TestorchError):  # noqa: N818 - an order to the session, not a failure
    """A policy wants the connection closed."""

    code = "close"

    def __init__(self, close_code: int, reason: str) -> None:
        self.close_code = close_code
        self.reason = reason
        super().__init__(reason)


class Access:
    """One client's access. Made anew when it is known who the client is."""

    def __init__(self, gate: Gate, handshake: Handshake, principal: Principal, new_id: Callable[[], str]) -> None:
        self._gate = gate
        self._handshake = handshake
        self.principal = principal
        self.addressing = Addressing(principal.projects, new_id)

    def may_see(self, project: str) -> bool:
        """Whether a project is one of those that the principal may touch."""
        return self.principal.projects is None or project in self.principal.projects

    async def admit(
        self, action: str, project: str, *, run_id: str | None = None, events: int = 0, size_bytes: int = 0
    ) -> None:
        """Ask the policies whether a message may pass, and wait as long as they want.

        Raises `RefusedError` when it may not, `CloseConversation` when the client must go.
        """
        if not self._gate.admits:
            return
        request = AccessRequest(
            principal=self.principal,
            handshake=self._handshake,
            action=action,
            project=project,
            run_id=run_id,
            events=events,
            size_bytes=size_bytes,
        )
        verdict = self._gate.admit(request)
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
