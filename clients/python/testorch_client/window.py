"""What was taken from the outbox and isn't confirmed yet, so that it can be sent again: pure book-keeping."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoded:
    """One event as it goes over the wire. `number` counts from 1 in the process; `text` is a JSON object."""

    event_id: str
    number: int
    text: str
    size_bytes: int


class Window:
    """Events on their way: waiting, in flight (sent, not confirmed), or postponed (refused for now).

    An answer to a request confirms all that was sent before the request. `mark` is taken when the request goes out,
    `confirm` is called with it when the answer comes.
    """

    def __init__(self) -> None:
        self._waiting: deque[Encoded] = deque()
        self._in_flight: dict[str, tuple[int, Encoded]] = {}
        self._postponed: list[Encoded] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight) + len(self._postponed)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def add(self, event: Encoded) -> None:
        self._waiting.append(event)

    def batch(self, *, max_events: int, max_bytes: int) -> list[Encoded]:
        """Move the next events from waiting into flight and return them: at least one if any waits, in order."""
        taken: list[Encoded] = []
        size_bytes = 0
        while self._waiting and len(taken) < max_events:
            size_bytes += self._waiting[0].size_bytes
            if taken and size_bytes > max_bytes:
                break
            taken.append(self._waiting.popleft())
        if taken:
            self._serial += 1
            for event in taken:
                self._in_flight[event.event_id] = (self._serial, event)
        return taken

    def mark(self) -> int:
        return self._serial

    def confirm(self, mark: int) -> int:
        """Forget what was in flight when `mark` was taken; return how many events that was."""
        confirmed = []
        for event_id, (serial, _) in self._in_flight.items():
            if serial > mark:
                break
            confirmed.append(event_id)
        for event_id in confirmed:
            del self._in_flight[event_id]
        return len(confirmed)

    def refuse(self, event_id: str) -> bool:
        """Forget an event that the server will never take; False if it isn't in flight."""
        return self._in_flight.pop(event_id, None) is not None

    def refuse_all(self) -> None:
        """Forget what is in flight."""
        self._in_flight.clear()

    def postpone(self, event_id: str) -> bool:
        """Keep an event that was refused for now until `resume`; False if it isn't in flight."""
        found = self._in_flight.pop(event_id, None)
        if found is None:
            return False
        self._postponed.append(found[1])
        return True

    def resume(self) -> None:
        """Let what was postponed wait again, in the order in which it was emitted."""
        if self._postponed:
            self._waiting = deque(sorted([*self._postponed, *self._waiting], key=_number))
            self._postponed = []

    def rewind(self) -> None:
        """After a connection is lost: all that isn't confirmed waits again, in the order in which it was emitted."""
        unconfirmed = [event for _, event in self._in_flight.values()]
        self._waiting = deque(sorted([*unconfirmed, *self._postponed, *self._waiting], key=_number))
        self._in_flight = {}
        self._postponed = []


def _number(event: Encoded) -> int:
    return event.number
