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
    characters: int = 0  # what `characters_in` says of the payload


def characters_in(payload: object) -> int:
    """How many characters of text a payload holds, as far as that can be told at the price of looking.

    Counted are the strings among its members, in a member that is a list, and in the objects and lists in such a
    list: a chunk of output, an attachment's body, the errors with their stacks, the properties. Keys, numbers and what
    is nested deeper or isn't a plain `dict`, `list` or `str` are not; no foreign code is called.
    """
    if type(payload) is not dict:
        return 0
    characters = 0
    for value in list(payload.values()):
        if type(value) is str:
            characters += len(value)
        elif type(value) is list:
            for item in value:
                if type(item) is str:
                    characters += len(item)
                elif type(item) is dict:
                    characters += sum([len(text) for text in list(item.values()) if type(text) is str])
                elif type(item) is list:
                    characters += sum([len(text) for text in item if type(text) is str])
    return characters


class Outbox:
    """Events that wait for the sender: `put` costs an append, never waits for it, and a full box drops output first.

    The box is full with `max_events` events, or with `max_characters` in all by `characters_in`; so its memory is
    bounded as far as events are made of text: up to four bytes a character, and some hundred bytes an event besides.

    There is no condition variable on purpose: waking the sender for every event would hand it the interpreter lock
    in the middle of a test. The sender comes by itself every few milliseconds.
    """

    def __init__(self, *, max_events: int, max_characters: int) -> None:
        self.dropped = 0
        self._max_events = max_events
        self._max_characters = max_characters
        self._queue: deque[Emitted] = deque()
        self._characters = 0
        self._queued_outputs = 0
        self._taken = 0
        self._is_closed = False
        # Held for a microsecond at a time. Reentrant, since a signal handler may emit while its own thread holds it.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, event: Emitted) -> None:
        """Append the event, or count it as dropped if there is no room and no queued output to drop instead."""
        with self._lock:
            if self._is_closed or not self._make_room(event):
                self.dropped += 1
                return
            self._queue.append(event)
            self._characters += event.characters
            self._queued_outputs += event.type == OUTPUT_TYPE

    def close(self) -> None:
        """From now on, everything that is put is dropped."""
        with self._lock:
            self._is_closed = True

    def take(self) -> Emitted | None:
        """Remove and return the oldest event; None if there is none."""
        with self._lock:
            if not self._queue:
                return None
            event = self._queue.popleft()
            self._characters -= event.characters
            self._queued_outputs -= event.type == OUTPUT_TYPE
            self._taken += 1
            return event

    @property
    def accepted(self) -> int:
        """How many events have been put and not dropped, whether they wait here or were taken."""
        with self._lock:
            return self._taken + len(self._queue)

    def _has_room(self, event: Emitted) -> bool:
        return len(self._queue) < self._max_events and self._characters + event.characters <= self._max_characters

    def _make_room(self, event: Emitted) -> bool:
        if self._has_room(event):
            return True
        if event.type == OUTPUT_TYPE or not self._queued_outputs or event.characters > self._max_characters:
            return False
        self._drop_outputs()
        return self._has_room(event)

    def _drop_outputs(self) -> None:
        kept = [event for event in self._queue if event.type != OUTPUT_TYPE]
        self.dropped += len(self._queue) - len(kept)
        self._queue = deque(kept)
        self._characters = sum(event.characters for event in kept)
        self._queued_outputs = 0
