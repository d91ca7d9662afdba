"""A client at work beside something else: a steady load whose acknowledgements can be looked at by their time."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.crew import Crew, Work
from benchmarks.numbers import latencies_ms
from benchmarks.pacing import Pacer, paced_scripts
from benchmarks.scripts import Script
from benchmarks.servers import Server
from benchmarks.streams import BEAT_SECONDS, Stream, close_all

RATE = 250.0
WARM_UP_SECONDS = 1.0
MOST_SECONDS = 60.0
QUICK_SECONDS = 15.0
"""How long it can be at work, since its events are made beforehand; if it takes longer, the rest is not seen."""


@dataclass(frozen=True)
class Acknowledged:
    """What became of a steady load: when each event was to be sent, and how long its acknowledgement took then; seconds."""

    began: float
    due: array[float]
    """After `began`."""
    taken: array[float]

    def latencies_ms(self, start: float, end: float, when: str) -> dict[str, float]:
        """Of the events that were due within two moments; named by `when`. Nothing if there were none."""
        pairs = zip(self.due, self.taken, strict=True)
        found = [taken for due, taken in pairs if start <= self.began + due < end]
        named = latencies_ms(found) if found else {}
        return {f"{name.removesuffix(' ms')} {when} ms": number for name, number in named.items() if "p95" not in name}


def active_client(address: tuple[str, int], seconds: float) -> Work:
    """250 events/s over eight connections, one a message, until it is told to go on or the time is over.

    Yields what was `Acknowledged`. Then every receipt and count is checked.
    """
    return partial(_be_active, address, RATE, paced_scripts(int(RATE * seconds)))


def _be_active(address: tuple[str, int], rate: float, scripts: Sequence[Script], pipe: Connection) -> Iterator[Any]:
    streams = [Stream(address, script, window=1_000_000) for script in scripts]
    yield None
    pacer = Pacer(streams, rate)
    pacer.run(is_over=pipe.poll)
    while not pipe.poll(BEAT_SECONDS):  # its events are sent, and it is still needed
        for stream in streams:
            stream.beat()
    yield Acknowledged(pacer.began, pacer.dues, pacer.latencies)
    for stream in streams:
        stream.check_counts(stream.finish())
    yield None
    close_all(streams)


def warm_up(server: Server, place: Callable[[Work], Work] = lambda work: work) -> None:
    """The same, for a moment and unmeasured. `place` says where."""
    with Crew([place(active_client(server.address, WARM_UP_SECONDS))]) as crew:
        crew.step()
        crew.tell()
        time.sleep(WARM_UP_SECONDS)
        crew.step()
        crew.hear()
