"""What an attack is: something that is done to a port, and the answers that are documented for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from faults.attack_answers import answer, is_upgraded
from faults.attack_wire import Peer, drive, request

Size = TypeVar("Size")

PROMPT_SECONDS: Final = 1.5
"""Within what time a server must have done what it does at once, on a slow and busy machine."""

PATIENCE_SECONDS: Final = 3.0
"""How much later than documented a limit of time may strike."""


class Outcome(NamedTuple):
    """One answer, beside those that are allowed."""

    label: str
    answer: str
    allowed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """Where an attack takes place: the port, the options of the transport there, and whether it is of full size."""

    port: int
    options: Mapping[str, Any]
    is_full: bool

    def pick(self, quick: Size, full: Size) -> Size:
        return full if self.is_full else quick

    @property
    def close_seconds(self) -> float:
        """When a client that has been told to go is gone."""
        return float(self.options["close_seconds"]) + PATIENCE_SECONDS

    @property
    def handshake_seconds(self) -> float:
        """When a client that never comes in is gone."""
        return float(self.options["handshake_seconds"]) + self.close_seconds


@dataclass(frozen=True, slots=True)
class Attack:
    """What is done, by a generator of its outcomes, and what it may cost others meanwhile."""

    run: Callable[[Scene], Iterable[Outcome]]
    tls: bool = False
    newcomer_seconds: float = 2.0
    peak_bytes: int = 100_000_000
    """What the server may take more while it goes on."""

    kept_bytes: int = 20_000_000
    """What the server may have more when it is over."""

    lines_each: int = 1
    """Lines of the log that each connection, or each bad message, may cost."""

    @property
    def name(self) -> str:
        return self.run.__name__


@dataclass(frozen=True, slots=True)
class Probe:
    """Bytes to send on a connection of its own, and the answers that are allowed."""

    label: str
    chunks: tuple[bytes, ...]
    allowed: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def closing(peers: list[Peer]) -> Iterator[list[Peer]]:
    """The peers, closed at the end whatever happens."""
    try:
        yield peers
    finally:
        for peer in peers:
            peer.close()


def outcomes(peers: Iterable[Peer], *allowed: str) -> Iterator[Outcome]:
    for peer in peers:
        yield Outcome(peer.label, answer(peer), allowed)


def upgraded(scene: Scene, labels: Iterable[str], **settings: Any) -> list[Peer]:
    """Peers that have been let in, or refused."""
    peers = [Peer(scene.port, (request(),), label=label, **settings) for label in labels]
    drive(peers, scene.handshake_seconds, is_upgraded)
    return peers


def numbered(label: str, count: int) -> list[str]:
    """A label for each of so many peers that do the same."""
    return [label] * count
