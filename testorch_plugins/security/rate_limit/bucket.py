"""GCRA, the generic cell rate algorithm, with the time passed in. Pure.

After ITU-T Recommendation I.371 (2004), annex A, in its form as a virtual scheduling algorithm: all that is kept of a client
is its theoretical arrival time (TAT), the moment at which everything that it has sent would be due, had it kept to the rate.
A leaky bucket that needs no timer: a TAT that lies in the past is a bucket that is full again.

Two things are added. A message is charged as a whole, by so many cells (events, or bytes). And one that is larger than the
burst needs a full bucket and no more, or it could never pass; it is charged in full, so that the rate holds all the same. In
any window of `w` seconds pass at most `rate * w + max(burst, the largest message)` cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """Cells a second that may come for ever, and `burst` of them at once after a pause. Both are above 0."""

    per_second: float
    burst: float


class Limits:
    """What one level, named by what it counts by, allows: a rate of events and one of bytes; None for no limit."""

    __slots__ = ("bytes", "bytes_interval", "bytes_tolerance", "events", "events_interval", "events_tolerance", "name")

    def __init__(self, name: str, events: Rate | None, bytes: Rate | None) -> None:
        self.name = name
        self.events = events
        self.bytes = bytes
        self.events_interval, self.events_tolerance = _parameters(events)
        self.bytes_interval, self.bytes_tolerance = _parameters(bytes)

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return self.events is not None or self.bytes is not None


def _parameters(rate: Rate | None) -> tuple[float, float]:
    """GCRA's T, in seconds a cell, and tau, by how many seconds the TAT may run ahead. Unlimited cells cost nothing."""
    if rate is None:
        return 0.0, math.inf
    return 1 / rate.per_second, rate.burst * (1 / rate.per_second)


class Bucket:
    """The two TATs of one client at one level, in seconds of the clock that `now` comes from.

    A message passes when there is room for its events and for its bytes. `now` may not go back.
    """

    __slots__ = ("bytes_tat", "events_tat")

    def __init__(self, now: float) -> None:
        self.events_tat = now
        self.bytes_tat = now

    def take(self, limits: Limits, now: float, events: int, size_bytes: int) -> bool:
        """Charge a message if it conforms as it is; False, and nothing is charged, if it must wait or is above the burst."""
        events_tat, bytes_tat = self.events_tat, self.bytes_tat
        events_tat = (events_tat if events_tat > now else now) + events * limits.events_interval
        bytes_tat = (bytes_tat if bytes_tat > now else now) + size_bytes * limits.bytes_interval
        if events_tat - now > limits.events_tolerance or bytes_tat - now > limits.bytes_tolerance:
            return False
        self.events_tat, self.bytes_tat = events_tat, bytes_tat
        return True

    def wait(self, limits: Limits, now: float, events: int, size_bytes: int) -> float:
        """In how many seconds a message conforms; negative where there is room to spare. Changes nothing.

        Of a message of no events and no bytes: by how much the client is beyond its burst already.
        """
        by_events = _wait(self.events_tat - now, events * limits.events_interval, limits.events_tolerance)
        by_bytes = _wait(self.bytes_tat - now, size_bytes * limits.bytes_interval, limits.bytes_tolerance)
        return max(by_events, by_bytes)

    def charge(self, limits: Limits, now: float, events: int, size_bytes: int) -> None:
        """Count a message that passes, now or after its wait."""
        self.events_tat = max(self.events_tat, now) + events * limits.events_interval
        self.bytes_tat = max(self.bytes_tat, now) + size_bytes * limits.bytes_interval

    def give_back(self, limits: Limits, events: int, size_bytes: int) -> None:
        """Undo what was charged last: the message does not pass for another reason."""
        self.events_tat -= events * limits.events_interval
        self.bytes_tat -= size_bytes * limits.bytes_interval

    def is_idle(self, now: float) -> bool:
        """Whether it is full again, and so as good as a new one."""
        return self.events_tat <= now and self.bytes_tat <= now


def _wait(ahead: float, cost: float, tolerance: float) -> float:
    """In seconds all three: how far the TAT is ahead, what a message adds, and how far the TAT may be ahead after it."""
    return max(ahead, 0.0) + min(cost, tolerance) - tolerance
