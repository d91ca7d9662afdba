"""How a client comes in: by what its handshake shows, by the token of its `hello`, or by a one-time ticket."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from testorch_core.access import Access, CloseConversation
from testorch_core.errors import PolicyFailedError, refuse
from testorch_core.events import AUDIT_AUTHENTICATION
from testorch_core.interfaces.security import Principal
from testorch_core.interfaces.transport import Handshake
from testorch_core.orchestrator import Orchestrator
from testorch_core.protocol import CLOSE_INTERNAL, CLOSE_TOO_MANY, CLOSE_UNAUTHENTICATED
from testorch_core.text import clip, visible
from testorch_core.tickets import TICKET_SECONDS

MAX_LINE_CHARACTERS: Final = 200


class Entrance:
    """Lets one client in, and counts it out again. The same words for a token that is unknown, expired or revoked.

    The methods raise `CloseConversation` for a stranger, for one too many, and where a policy fails to say who it is.
    """

    def __init__(self, orchestrator: Orchestrator, handshake: Handshake, access: Access) -> None:
        self._orchestrator = orchestrator
        self._handshake = handshake
        self._access = access
        self._inside: Principal | None = None
        self.address = _line(handshake.address)
        self.agent = _line(handshake.headers.get("user-agent", ""))

    async def by_handshake(self) -> bool:
        """Let a client in by its handshake; False if that shows nothing, where a policy wants to know."""
        handshake, gate = self._handshake, self._orchestrator.gate
        if handshake.ticket is not None:
            self._let_in(self._orchestrator.tickets.take(handshake.ticket))
            return True
        principal = await self._known(handshake)
        if principal is None and handshake.token is None and gate.authenticates:
            return False
        self._let_in(principal)
        return True

    async def by_token(self, token: str) -> None:
        """Let a client in by the token of its `hello`."""
        self._let_in(await self._known(replace(self._handshake, token=token)))

    def ticket(self) -> dict[str, Any]:
        """A one-time ticket for who came in. Raises `RefusedError` (`forbidden`)."""
        if self._inside is None or self._inside.issuer is None:
            raise refuse("forbidden", "this server asks nobody who they are, so tickets are of no use")
        return {"ticket": self._orchestrator.tickets.give(self._inside), "expiresInMs": round(TICKET_SECONDS * 1000)}

    def leave(self) -> None:
        """The client has gone. Works twice."""
        if self._inside is not None:
            self._orchestrator.crowd.give_back(self._inside)
            self._inside = None

    async def _known(self, handshake: Handshake) -> Principal | None:
        try:
            return await self._orchestrator.gate.authenticate(handshake)
        except PolicyFailedError:  # which is in the log; whoever is there learns nothing
            raise CloseConversation(CLOSE_INTERNAL, "") from None

    def _let_in(self, principal: Principal | None) -> None:
        if principal is None:
            self._note("unauthenticated", None)
            raise CloseConversation(CLOSE_UNAUTHENTICATED, "unauthenticated")
        if not self._orchestrator.crowd.take(principal):
            self._note("rate_limited", principal)
            raise CloseConversation(CLOSE_TOO_MANY, "too many connections of this principal")
        self._inside = principal
        self._access.become(principal)
        self._handshake = replace(self._handshake, token=None, ticket=None)
        self._note("let_in", principal)

    def _note(self, outcome: str, principal: Principal | None) -> None:
        if outcome != "let_in":
            self._orchestrator.refusals.count(outcome)
        facts = {} if principal is None else {"principal": principal.name, "policy": principal.issuer}
        credential = principal.credential if principal is not None else None
        self._orchestrator.audit.note(
            AUDIT_AUTHENTICATION, outcome=outcome, address=self.address, credential=credential, **facts
        )


def _line(text: str) -> str:
    """What a peer says of itself, as the log keeps it."""
    return clip(visible(text[:MAX_LINE_CHARACTERS]), MAX_LINE_CHARACTERS)
