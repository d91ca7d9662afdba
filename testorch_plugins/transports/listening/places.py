"""How many may come in: in all, from one address, and on their way in at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from testorch_plugins.transports.listening.requests import RejectedError


class Newcomer:
    """A connection on its way in. `scope` bounds everything until it is let in."""

    __slots__ = ("scope", "since")

    def __init__(self, seconds: float) -> None:
        self.since = trio.current_time()
        self.scope = trio.CancelScope(deadline=self.since + seconds)


class Places:
    """Counts the connections of one transport."""

    def __init__(self, *, total: int, per_address: int, newcomers: int, seconds: float, hurried_seconds: float) -> None:
        self.open = 0
        self._total = total
        self._per_address = per_address
        self._most_newcomers = newcomers
        self._seconds = seconds
        self._hurried_seconds = hurried_seconds
        self._by_address: Counter[str] = Counter()
        self._newcomers: dict[Newcomer, None] = {}
        self._left = trio.Event()

    async def room(self) -> None:
        """Wait until another newcomer may be taken in.

        While there is none, the one that has been on its way the longest gets less time: an honest client needs
        milliseconds, so who is slow on purpose can't keep the others out for long.
        """
        while len(self._newcomers) >= self._most_newcomers:
            oldest = next(iter(self._newcomers))
            oldest.scope.deadline = min(oldest.scope.deadline, oldest.since + self._hurried_seconds)
            self._left = trio.Event()
            await self._left.wait()

    def take(self) -> Newcomer:
        """A place for a connection that has just been accepted; give it back with `give_back`.

        Raises `RejectedError` (503) when all places are taken.
        """
        if self.open >= self._total:
            raise RejectedError(503, "all places are taken (`max_connections`)")
        self.open += 1
        newcomer = Newcomer(self._seconds)
        self._newcomers[newcomer] = None
        return newcomer

    def let_in(self, newcomer: Newcomer) -> None:
        """It is known who this is: no newcomer any more. Idempotent."""
        if self._newcomers.pop(newcomer, self) is None:
            self._left.set()

    def give_back(self, newcomer: Newcomer) -> None:
        self.let_in(newcomer)
        self.open -= 1

    @contextmanager
    def of(self, address: str) -> Iterator[None]:
        """A place among those of one address. Raises `RejectedError` (429) when there is none left."""
        if self._by_address[address] >= self._per_address:
            raise RejectedError(429, "too many connections from this address (`max_connections_per_address`)")
        self._by_address[address] += 1
        try:
            yield
        finally:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
