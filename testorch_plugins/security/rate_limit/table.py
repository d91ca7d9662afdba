"""What is remembered of clients, as much as fits. Pure.

An entry that is idle says nothing, so it can be forgotten without anybody noticing. One that is not is never forgotten to
make room: else who has many addresses could push out those that are limited, and begin anew.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final, Generic, Protocol, TypeVar

from testorch_plugins.security.rate_limit.bucket import Bucket

FEW: Final = 256
"""So many are kept without looking which could be forgotten."""

SWEEP_SECONDS: Final = 0.1
"""When there is no room, the time between two looks at all entries: a look takes a millisecond for 10,000 of them."""


class Fading(Protocol):
    """Something that matters for a while."""

    def is_idle(self, now: float) -> bool: ...


Entry = TypeVar("Entry", bound=Fading)


class Table(Generic[Entry]):
    """At most `most` entries by key. Those in use decide how many there are: idle ones are forgotten as others come."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sweep_at = min(FEW, most)
        self._next_sweep = -math.inf
        self._entries: dict[Hashable, Entry] = {}
        self.get = self._entries.get
        """The entry of a key, or None."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: Hashable, entry: Entry, now: float) -> bool:
        """Remember an entry of a key that has none. False if there is no room."""
        if len(self._entries) >= self._sweep_at and now >= self._next_sweep:
            self._sweep(now)
        if len(self._entries) >= self._most:
            return False
        self._entries[key] = entry
        return True

    def _sweep(self, now: float) -> None:
        """Forget what is idle. The next time is when there is twice as much as is left: a constant for each, on average."""
        for key in [key for key, entry in self._entries.items() if entry.is_idle(now)]:
            del self._entries[key]
        self._sweep_at = min(max(FEW, 2 * len(self._entries)), self._most)
        self._next_sweep = now + SWEEP_SECONDS if len(self._entries) >= self._most else -math.inf


class Buckets(Table[Bucket]):
    """The buckets of one level. When there is no room, newcomers share one: better limited too much than not at all."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._shared = Bucket(-math.inf)

    def new(self, key: Hashable, now: float) -> Bucket:
        """The bucket of a key that is not known yet."""
        bucket = Bucket(now)
        return bucket if self.add(key, bucket, now) else self._shared
