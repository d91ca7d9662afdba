"""What was encoded and isn't acknowledged yet, so that it can be sent again: pure book-keeping."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoded:
    """One event as it goes over the wire. `seq` is its place in the stream; `text` is a JSON object."""

    seq: int
    event_id: str
    text: str
    size_bytes: int


class Window:
    """The unacknowledged end of a stream, in order and without holes: first what is in flight, then what waits.

    In flight is what was sent on the present connection. An acknowledgement is cumulative, so it takes away from the
    front only; a rewind moves the border between the two parts back, and never changes the order.
    """

    def __init__(self) -> None:
        self.acked_seq = 0
        self.last_seq = 0
        self.sent_seq = 0  # the highest that was ever sent, on whatever connection
        self.size_bytes = 0
        self._in_flight: deque[Encoded] = deque()
        self._waiting: deque[Encoded] = deque()

    def __len__(self) -> int:
        return len(self._in_flight) + len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def add(self, event: Encoded) -> None:
        """Let an event wait; its `seq` is `last_seq` + 1."""
        self.last_seq = event.seq
        self.size_bytes += event.size_bytes
        self._waiting.append(event)

    def batch(self, *, max_events: int, max_bytes: int) -> list[Encoded]:
        """Move the next events from waiting into flight and return them.

        At least one if any waits and `max_events` isn't 0, however big it is.
        """
        taken: list[Encoded] = []
        size_bytes = 0
        while self._waiting and len(taken) < max_events:
            size_bytes += self._waiting[0].size_bytes + 1  # and a comma
            if taken and size_bytes > max_bytes:
                break
            taken.append(self._waiting.popleft())
        if taken:
            self._in_flight.extend(taken)
            self.sent_seq = max(self.sent_seq, taken[-1].seq)
        return taken

    def acknowledge(self, seq: int) -> None:
        """Forget everything up to `seq`, which is at most `sent_seq`; what is older than the last one does nothing."""
        while self.acked_seq < seq:
            # After a rewind, what is acknowledged may wait already: its acknowledgement was on the way.
            event = (self._in_flight or self._waiting).popleft()
            self.acked_seq = event.seq
            self.size_bytes -= event.size_bytes

    def rewind(self, seq: int) -> None:
        """Let everything from `seq` on wait again."""
        while self._in_flight and self._in_flight[-1].seq >= seq:
            self._waiting.appendleft(self._in_flight.pop())

    def replace(self, event: Encoded) -> None:
        """Put another text in the place of the one with the same `seq`, if that isn't acknowledged yet."""
        for part in (self._in_flight, self._waiting):
            if part and part[0].seq <= event.seq <= part[-1].seq:
                index = event.seq - part[0].seq
                self.size_bytes += event.size_bytes - part[index].size_bytes
                part[index] = event
