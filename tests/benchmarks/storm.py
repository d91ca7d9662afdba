"""A reconnect storm: the connections of thousands of streams are cut at once, and all come back at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.active import MOST_SECONDS, QUICK_SECONDS, Acknowledged, active_client, warm_up
from benchmarks.crew import Crew, Work
from benchmarks.herd import Herd
from benchmarks.lab import Lab
from benchmarks.pacing import CONNECTIONS
from benchmarks.processes import raise_file_limit
from benchmarks.servers import Server, Setup
from benchmarks.streams import now
from benchmarks.visits import Member

NAME = "storm"
STREAMS_A_RUN = 100
FILES_BESIDE = 500
AT_ONCE_AT_FIRST = 100
BEFORE_SECONDS = 3.0
GONE_SECONDS = 60.0
SETTLE_SECONDS = 1.0

SETUP = Setup(server={"silence_seconds": 120.0})
"""The streams say nothing between storms, so that the heartbeats of thousands are not in the numbers."""


def measure(lab: Lab) -> None:
    count = lab.settings.clients
    raise_file_limit(2 * count + FILES_BESIDE)
    for case, streams_a_run in ((f"{count:,} streams without a run", 0), (_in_runs(count), STREAMS_A_RUN)):
        with lab.ours(SETUP) as server:
            warm_up(server)  # so that what the first load costs for good is not in the memory
            storms = lab.settings.repetitions
            with Crew([herd(server.address, count, streams_a_run=streams_a_run, storms=storms)]) as crew:
                crew.step()
                crew.tell()
                row = lab.report.row(NAME, case, server.name)
                for _ in range(storms):
                    row.add(_storm(server, crew, QUICK_SECONDS if lab.settings.quick else MOST_SECONDS))
                crew.step()


def _in_runs(count: int) -> str:
    return f"{count:,} streams of {-(-count // STREAMS_A_RUN)} runs, an event each"


def _storm(server: Server, crew: Crew, seconds: float) -> dict[str, float]:
    before, open_before = _settled_bytes(server), server.sockets
    with Crew([active_client(server.address, seconds)]) as active:
        active.step()
        began, cpu = now(), server.cpu_seconds
        active.tell()
        time.sleep(BEFORE_SECONDS)
        cut, cpu_cut = now(), server.cpu_seconds
        [found] = crew.step()
        server.await_sockets(open_before + CONNECTIONS, GONE_SECONDS)
        over, cpu_over = now(), server.cpu_seconds
        [acknowledged] = active.step()
        active.hear()
    usual = (cpu_cut - cpu) / (cut - began)
    spent = cpu_over - cpu_cut - usual * (over - cut)
    return {
        "s until all are back": found.pop("s"),
        "s until the old are gone": over - cut,
        "server's CPU µs each": 1e6 * spent / found.pop("clients"),
        **found,
        **_latencies(acknowledged, began, cut, over),
        "MB before": before / 1e6,
        "MB after": _settled_bytes(server) / 1e6,
    }


def _latencies(acknowledged: Acknowledged, began: float, cut: float, over: float) -> dict[str, float]:
    before = acknowledged.latencies_ms(began, cut, "before")
    return before | acknowledged.latencies_ms(cut, over, "during")


def _settled_bytes(server: Server) -> float:
    time.sleep(SETTLE_SECONDS)
    return server.rss_bytes


def herd(address: tuple[str, int], count: int, *, streams_a_run: int, storms: int) -> Work:
    """Streams that come and stay, and each time they are told to go on are cut and come back; the last time, they leave.

    Yields nothing once all are there; then, storm by storm, how long it took until all were welcome, how many had to try
    again, and what it cost this process.
    """
    runs = [f"herd-{number // streams_a_run}" if streams_a_run else None for number in range(count)]
    return partial(_be_herd, address, [Member(number, run) for number, run in enumerate(runs)], storms)


def _be_herd(address: tuple[str, int], members: list[Member], storms: int, pipe: Connection) -> Iterator[Any]:
    flock = Herd(address, members)
    flock.bring(at_once=AT_ONCE_AT_FIRST)
    yield None
    for _ in range(storms):
        flock.hold(pipe.poll)
        yield _rage(flock)
    flock.hold(pipe.poll)
    flock.cut()
    yield None


def _rage(flock: Herd) -> dict[str, float]:
    began, cpu = now(), time.process_time()
    flock.cut()
    flock.bring()
    tries = [member.tries for member in flock.members]
    return {
        "s": now() - began,
        "clients": len(tries),
        "tried again": sum(1 for one in tries if one > 1),
        "most tries": max(tries),
        "clients' CPU s": time.process_time() - cpu,
    }
