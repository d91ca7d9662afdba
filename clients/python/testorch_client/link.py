"""What the sender needs of a connection. Knows no library, so that it costs nothing to import."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class Link(Protocol):
    """A connection in use by one thread, except for `abort`, which any thread may call."""

    def send(self, text: str) -> None:
        """Send one message; waits while the other side doesn't read. Raises `Closed`."""

    def receive(self, timeout_seconds: float) -> str | None:
        """The next message, None if none comes in time (0: if none is there). Raises `Closed`."""

    def abort(self) -> None:
        """End the connection at once, whatever its own thread waits for. Never raises."""


# Opens a connection within so many seconds. Raises `Unreachable` or `Rejected` when entered.
Connect = Callable[[float], AbstractContextManager[Link]]
