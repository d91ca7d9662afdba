"""The bounded queue between the threads that emit events and the one that sends them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

OUTPUT_TYPE = "test/output"


class Emitted(NamedTuple):
    """An event as it was emitted. A named tuple, since a frozen dataclass takes three times as long to make."""

    type: str
    payload: Mapping[str, Any]
    timestamp: int  # milliseconds since the epoch


class Outbox:
    """Events that wait for the sender: `put` costs an append, never blocks, and a full box drops output first.

    There is no condition variable on purpose: waking the sender for every event would hand it the interpreter lock
    in the middle of a test. The sender comes by itself every few milliseconds.
    """

    def __init__(self, capacity: int) -> None:
        self.dropped = 0
        self._capacity = capacity
        self._queue: deque[Emitted] = deque()
        self._queued_outputs = 0
        self._taken = 0
        # Guards the head of the queue and the counts. An ordinary `put` doesn't take it: appending is atomic.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, event: Emitted) -> None:
        """Append the event, or count it as dropped if there is no room and no queued output to drop instead."""
        is_output = event.type == OUTPUT_TYPE
        if is_output or len(self._queue) >= self._capacity:
            with self._lock:
                if not self._has_room(is_output=is_output):
                    self.dropped += 1
                    return
                self._queued_outputs += is_output
                self._queue.append(event)
            return
        self._queue.append(event)

    def close(self) -> None:
        """From now on, everything that is put is dropped."""
        self._capacity = -1

    def take(self, limit: int) -> list[Emitted]:
        """Remove and return up to `limit` events, oldest first."""
        with self._lock:
            taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
            self._queued_outputs -= sum(event.type == OUTPUT_TYPE for event in taken)
            self._taken += len(taken)
        return taken

    @property
    def accepted(self) -> int:
        """How many events have been put and not dropped, whether they wait here or were taken."""
        with self._lock:
            return self._taken + len(self._queue)

    def _has_room(self, *, is_output: bool) -> bool:
        if len(self._queue) < self._capacity:
            return True
        if is_output or not self._queued_outputs or self._capacity < 0:
            return False
        self._drop_outputs()
        return True

    def _drop_outputs(self) -> None:
        # Other threads may append while this runs, but only at the tail; the head is ours while the lock is held.
        snapshot = self._queue.copy()
        for _ in snapshot:
            self._queue.popleft()
        kept = [event for event in snapshot if event.type != OUTPUT_TYPE]
        self._queue.extendleft(reversed(kept))
        self.dropped += len(snapshot) - len(kept)
        self._queued_outputs = 0
