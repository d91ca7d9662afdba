"""One-time tickets: a browser can't send a header with a WebSocket's upgrade, and a token doesn't belong into an address."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from typing import Final

import trio

from testorch_core.interfaces.security import Principal

TICKET_SECONDS: Final = 30.0
MAX_TICKETS: Final = 10_000


class Tickets:
    """Tickets that were given out and not used yet, in memory: a restart forgets them. Kept as SHA-256."""

    def __init__(self) -> None:
        self._given: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    def give(self, principal: Principal) -> str:
        """A ticket that lets its bearer in as `principal`, once, within `TICKET_SECONDS`."""
        ticket = secrets.token_urlsafe(32)
        self._given[_digest(ticket)] = principal, trio.current_time() + TICKET_SECONDS
        while len(self._given) > MAX_TICKETS:
            self._given.popitem(last=False)
        return ticket

    def take(self, ticket: str) -> Principal | None:
        """Who a ticket was given to; None for one that is unknown, used or too old."""
        principal, until = self._given.pop(_digest(ticket), (None, 0.0))
        return principal if trio.current_time() < until else None


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
