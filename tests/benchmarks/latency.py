"""Acknowledgement latency under a steady load: one event a message over eight connections, open loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.crew import Crew
from benchmarks.lab import Lab, Settings
from benchmarks.numbers import latencies_ms
from benchmarks.pacing import CONNECTIONS, Pacer, paced_scripts
from benchmarks.scripts import Script
from benchmarks.servers import Server
from benchmarks.streams import Stream, close_all, now

NAME = "latency"
RATE = 1_000.0
WARM_UP_SECONDS = 1.0
SECONDS = 10.0
QUICK_SECONDS = 4.0


def measure(lab: Lab) -> None:
    with lab.all_servers() as servers:
        for _ in range(lab.settings.repetitions):
            for server in servers:
                row = lab.report.row(NAME, f"{RATE:,.0f} events/s, {CONNECTIONS} connections", server.name)
                row.add(steady(server, lab.settings))


def steady(server: Server, settings: Settings) -> dict[str, float]:
    """The latencies of one steady load; returns its numbers."""
    seconds = QUICK_SECONDS if settings.quick else SECONDS
    works = [
        partial(_generate, server.address, scripts=paced_scripts(int(RATE * length)))
        for length in (WARM_UP_SECONDS, seconds)
    ]
    for work in works:  # the first is the warm-up: the numbers of the second are returned
        with Crew([work]) as crew:
            crew.step()
            before, cpu = now(), server.cpu_seconds
            [found] = crew.step()
            busy = 100 * (server.cpu_seconds - cpu) / (now() - before)
            crew.step()
    return {**found, "server's CPU %": busy}


def _generate(address: tuple[str, int], pipe: Connection, *, scripts: Sequence[Script]) -> Iterator[Any]:
    streams = [Stream(address, script, window=1_000_000) for script in scripts]
    yield None
    pacer = Pacer(streams, RATE)
    cpu, began = time.process_time(), now()
    pacer.run()
    share = 100 * (time.process_time() - cpu) / (now() - began)
    yield {**latencies_ms(pacer.latencies), "generator's CPU %": share}
    for stream in streams:
        stream.check_counts(stream.finish())
    yield None
    close_all(streams)
