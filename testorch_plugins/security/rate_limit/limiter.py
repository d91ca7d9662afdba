"""What becomes of a message: it passes, waits, is refused, or costs its connection. Pure: the time is passed in.

A message is asked about at every level, and passes when all have room. Only what passes is charged, at every level. What is
refused costs nothing: else two clients of one principal that keep each other's bucket empty would never be let in again, and
one that hammers would shut out the others of its principal or address. Closing bounds what hammering costs the server.

Small messages find room where a large one doesn't, so a large one could be refused for ever beside many small ones of the
same principal. Therefore the size is not held against the message of a connection that was refused and has waited as told:
it passes, after the longest delay, unless others are beyond the burst by more than that already. So what passes in any
window of `w` seconds is at most `rate * w + burst` and one message, the largest, more.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final

from testorch_core.interfaces.security import ALLOW, Admission, Close, Delay, Refuse
from testorch_plugins.security.rate_limit.bucket import Bucket, Limits, Rate
from testorch_plugins.security.rate_limit.refusals import Refusals
from testorch_plugins.security.rate_limit.table import Buckets

TOO_MANY: Final = 4429

SHORTEST_DELAY_SECONDS: Final = 0.01
"""A client that must wait for less waits so long, and may then send for as long without waiting. Small messages that each
wait for a fraction of a millisecond would each be a commit of its own, and cost the server half as much again."""

Levels = tuple[Limits, Limits, Limits]
Keys = tuple[Hashable, Hashable, str | None]
Charged = list[tuple[Limits, Bucket]]
"""What a message is held against."""


class Limiter:
    """All levels, their buckets, and the connections that were refused. At most `most` of each are remembered."""

    def __init__(self, levels: Levels, *, max_delay_seconds: float, max_early: int, most: int) -> None:
        self._tables = [(at, level, Buckets(most)) for at, level in enumerate(levels) if level]
        self._max_delay = max_delay_seconds
        self._refusals = Refusals(max_early=max_early, most=most)

    def sizes(self) -> dict[str, int]:
        """How many are remembered at each level, and of those that were refused."""
        return {level.name: len(table) for _, level, table in self._tables} | {"refused": len(self._refusals)}

    def ask(self, keys: Keys, now: float, events: int, size_bytes: int) -> Admission:
        """What becomes of a message of a principal, an address and a connection, at `now` seconds.

        A connection of None isn't known: it has no limit of its own, and is never closed.
        """
        taken = 0
        for at, level, table in self._tables:
            key = keys[at]
            if key is None:
                continue
            bucket = table.get(key) or table.new(key, now)
            if not bucket.take(level, now, events, size_bytes):
                return self._ask_beyond(keys, now, events, size_bytes, taken)
            taken += 1
        if self._refusals.are_any:
            self._refusals.passed(keys[2])
        return ALLOW

    def _ask_beyond(self, keys: Keys, now: float, events: int, size_bytes: int, taken: int) -> Admission:
        """The same for a message that doesn't simply pass; `taken` levels have charged it already."""
        charged = [
            (level, table.get(keys[at]) or table.new(keys[at], now))
            for at, level, table in self._tables
            if keys[at] is not None
        ]
        for level, bucket in charged[:taken]:
            bucket.give_back(level, events, size_bytes)
        wait = max(bucket.wait(level, now, events, size_bytes) for level, bucket in charged)
        if wait > self._max_delay and not self._is_turn(charged, keys[2], now):
            return self._refuse(charged, keys[2], now, wait, events, size_bytes)
        for level, bucket in charged:
            bucket.charge(level, now, events, size_bytes)
        self._refusals.passed(keys[2])
        return ALLOW if wait <= 0 else Delay(min(max(wait, SHORTEST_DELAY_SECONDS), self._max_delay))

    def _is_turn(self, charged: Charged, connection: str | None, now: float) -> bool:
        """Whether a message that is too large for now passes all the same, because its connection has waited as told."""
        if not self._refusals.has_waited(connection, now):
            return False
        return all(bucket.wait(level, now, 0, 0) <= self._max_delay for level, bucket in charged)

    def _refuse(
        self, charged: Charged, connection: str | None, now: float, wait: float, events: int, size_bytes: int
    ) -> Refuse | Close:
        retry_ms = math.ceil(wait * 1000)
        if connection is not None and self._refusals.refused(connection, now, retry_ms / 1000):
            return Close(TOO_MANY, "too many messages were sent before `retryAfterMs` was over")
        level, _ = max(charged, key=lambda pair: pair[1].wait(pair[0], now, events, size_bytes))
        return Refuse("rate_limited", _reason(level), retry_after_ms=retry_ms)


def _reason(level: Limits) -> str:
    """In words, what a level allows."""
    kinds: tuple[tuple[str, Rate | None], ...] = (("events", level.events), ("bytes", level.bytes))
    said = [f"{rate.per_second:,.15g} {kind} a second and {rate.burst:,.15g} at once" for kind, rate in kinds if rate]
    return f"more than one {level.name} may send ({', '.join(said)}); send again after `retryAfterMs`"
