"""The transport family: what accepts connections and hands each to the core."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from testorch_core.interfaces.plugin import Plugin


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What is known of a peer before its first message. Header names are in lower case; secrets are not among them.

    `token` is a bearer token, `ticket` a one-time ticket that the server has given out.

    `deadline`, on trio's clock, is when it must be known who this is; after it the connection is closed with 4408.
    """

    address: str
    transport: str
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = "/"
    token: str | None = field(default=None, repr=False)
    ticket: str | None = field(default=None, repr=False)
    deadline: float = math.inf


class Connection(ABC):
    """One client's connection, as a transport hands it to the core. Used by one session."""

    @property
    @abstractmethod
    def handshake(self) -> Handshake:
        """What is known of the peer."""

    @property
    def heard_at(self) -> float | None:
        """When anything last came from the peer, even part of a message or a pong, on trio's clock.

        None where the transport can't tell; then only whole messages count as signs of life.
        """
        return None

    def admitted(self) -> None:  # noqa: B027 - a transport need not care
        """Told by the session once it is known who this is. Until then a transport may be stricter with a connection."""

    @abstractmethod
    async def receive(self) -> bytes | str:
        """The next whole message, in the order sent.

        Text as `str` or its UTF-8 as `bytes`. Raises `ConnectionClosedError` when the peer has gone and everything that
        it sent has been received. When cancelled, no message is lost: the next call returns it.
        """

    @abstractmethod
    async def send(self, message: bytes) -> None:
        """Send one message, UTF-8 JSON. Messages of several tasks arrive whole.

        Raises `ConnectionClosedError` when the peer has gone. When cancelled, the message may have been sent in part:
        the connection can only be closed.
        """

    @abstractmethod
    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Close, telling the peer why. Idempotent; bounded in time by itself; releases even when cancelled."""


Serve = Callable[[Connection], Awaitable[None]]
"""Given to a transport: serves one connection to its end, closes it, and raises nothing but cancellation."""


class Transport(Plugin):
    """Accepts connections and calls `serve` for each, in a task of its own.

    Start order is last, so that everything behind is ready. Stopping is in two steps: `stop_accepting`, then, when the
    core has drained and closed the sessions, `aclose`. One bad connection is one log line, never the transport's end.
    """

    serve: Serve
    """Set by the core before `start`."""

    @abstractmethod
    async def stop_accepting(self) -> None:
        """Take no new connections; those that are open go on. Idempotent, works unstarted."""

    @property
    @abstractmethod
    def addresses(self) -> tuple[str, ...]:
        """Where clients connect, as URLs; empty before `start`."""
