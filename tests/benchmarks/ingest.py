"""Ingest: durable acknowledged events a second, ours and the Node server's, interleaved."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.crew import Crew
from benchmarks.failures import FailedRunError
from benchmarks.lab import Lab, Settings
from benchmarks.scripts import LAUNCH_EVENTS, LAUNCH_TESTS, Script, write_launches, write_script
from benchmarks.servers import NodeEachServer, Server
from benchmarks.streams import BEAT_SECONDS, Stream, close_all, now

NAME = "ingest"
MOST_EVENTS_A_SECOND = 100_000
"""How many events are encoded for each second of a repetition: more than any server here takes."""

MOST_ALONE = 40_000
"""The same where every event is a message."""

WARM_UP_SECONDS = 0.7
LAUNCH_BATCH = 4
"""5,100 logical events in ReportPortal's 1,253 requests."""

STUCK_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """A case: what each connection sends. Every connection is a stream with a run of its own, unless the run is shared."""

    name: str
    batch: int
    connections: int
    random_ids: bool = False
    shared_run: bool = False
    launches: bool = False
    in_quick: bool = True

    def is_for(self, server: Server) -> bool:
        """A server that commits each event by itself takes most of a minute for what others have in flight of batches."""
        return self.batch == 1 or not isinstance(server, NodeEachServer)


LOADS = (
    Load(name="1 a message, 1 connection", batch=1, connections=1),
    Load(name="1 a message, 8 connections", batch=1, connections=8),
    Load(name="1 a message, 8 connections, random ids", batch=1, connections=8, random_ids=True, in_quick=False),
    Load(name="1 a message, 64 connections", batch=1, connections=64),
    Load(name="100 a message, 1 connection", batch=100, connections=1),
    Load(name="100 a message, 8 connections", batch=100, connections=8),
    Load(name="100 a message, 8 connections, random ids", batch=100, connections=8, random_ids=True),
    Load(name="100 a message, 8 shards of one run", batch=100, connections=8, shared_run=True, in_quick=False),
    Load(name="100 a message, 64 connections", batch=100, connections=64),
    Load(name="ReportPortal's workload, 8 connections", batch=LAUNCH_BATCH, connections=8, launches=True),
)


def measure(lab: Lab) -> None:
    """Every load on every server, repetition by repetition side by side."""
    for load in LOADS:
        if _is_wanted(load, lab.settings):
            measure_load(lab, load)


def _is_wanted(load: Load, settings: Settings) -> bool:
    named = not settings.loads or any(one in load.name for one in settings.loads)
    return named and (load.in_quick or not settings.quick)


def measure_load(lab: Lab, load: Load) -> None:
    """One load on every server: a warm-up, and then the repetitions, the servers taking turns."""
    scripts = scripts_of(load, lab.settings)
    with lab.all_servers() as all_servers:
        servers = [server for server in all_servers if load.is_for(server)]
        for server in servers:
            run_load(server, load, scripts, lab.settings, seconds=WARM_UP_SECONDS)
        for repetition in range(lab.settings.repetitions):
            for server in servers:
                found = run_load(server, load, scripts, lab.settings, seconds=lab.settings.seconds)
                lab.report.row(NAME, load.name, server.name).add(found)
                lab.say(f"ingest: {load.name}: {server.name}, {repetition + 1}: {found['events/s']:,.0f} events/s")


def scripts_of(load: Load, settings: Settings) -> list[Script]:
    """What each connection of a load has to send, made once for all servers and repetitions."""
    most = int((MOST_ALONE if load.batch == 1 else MOST_EVENTS_A_SECOND) * settings.seconds)
    share = max(load.batch, most // load.connections)
    if load.launches:
        launches = max(1, round(share / LAUNCH_EVENTS))
        return [write_launches(launches, batch=load.batch, origin=one) for one in range(load.connections)]
    return [
        write_script(share, batch=load.batch, origin=one, random_ids=load.random_ids) for one in range(load.connections)
    ]


def window_of(load: Load, settings: Settings) -> int:
    """Events that one connection may have in flight: never less than two messages, so that the server never waits."""
    return max(2 * load.batch, min(settings.window, settings.window_of_all // load.connections))


def run_load(
    server: Server, load: Load, scripts: Sequence[Script], settings: Settings, *, seconds: float
) -> dict[str, float]:
    """One repetition; returns its numbers. Raises `FailedRunError` when anything that was answered is wrong."""
    run_id = f"run-{time.time_ns()}" if load.shared_run else None
    count = min(settings.generators, len(scripts))
    window = window_of(load, settings)
    works = [
        partial(_generate, server.address, scripts[part::count], window=window, run_id=run_id, seconds=seconds)
        for part in range(count)
    ]
    with Crew(works) as crew:
        crew.step()
        cpu = server.cpu_seconds
        timings = crew.step()
        cpu = server.cpu_seconds - cpu
        crew.step()
    return _numbers(timings, cpu, load)


def _numbers(timings: Sequence[dict[str, float]], cpu: float, load: Load) -> dict[str, float]:
    events = sum(one["events"] for one in timings)
    elapsed = max(one["ended"] for one in timings) - min(one["began"] for one in timings)
    found = {
        "events/s": events / elapsed,
        "CPU µs/event": cpu / events * 1e6,
        "server's CPU %": 100 * cpu / elapsed,
        "generator's CPU %": 100 * sum(one["cpu"] for one in timings) / elapsed,
    }
    if load.launches:
        found["tests/s"] = found["events/s"] * LAUNCH_TESTS / LAUNCH_EVENTS
    return found


def _generate(
    address: tuple[str, int],
    scripts: Sequence[Script],
    pipe: Connection,
    *,
    window: int,
    run_id: str | None,
    seconds: float,
) -> Iterator[Any]:
    """The work of one generator process: connect; send and hear; compare."""
    streams = [Stream(address, script, window=window, run_id=run_id) for script in scripts]
    yield None
    yield pump(streams, seconds)
    for stream in streams:
        status = stream.finish()
        if run_id is None:
            stream.check_counts(status)
        for other in streams:
            other.beat()
    yield None
    close_all(streams)


def pump(streams: Sequence[Stream], seconds: float) -> dict[str, float]:
    """Keep every stream's window full for a time, and wait until all that was sent is acknowledged."""
    cpu, began = time.process_time(), now()
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream.socket, selectors.EVENT_READ, stream)
        _pump(selector, streams, deadline=began + seconds)
    return {
        "events": sum(stream.acked for stream in streams),
        "began": began,
        "ended": now(),
        "cpu": time.process_time() - cpu,
    }


def _pump(selector: selectors.BaseSelector, streams: Sequence[Stream], *, deadline: float) -> None:
    going, stopped = set(streams), False
    for stream in streams:
        _send(selector, stream)
    heard = beaten = now()
    while going:
        ready = selector.select(BEAT_SECONDS if stopped else min(BEAT_SECONDS, max(0.0, deadline - now())))
        moment = now()
        if ready:
            heard = moment
        elif moment > heard + STUCK_SECONDS:
            raise FailedRunError(f"no acknowledgement for {STUCK_SECONDS:.0f} s")
        if moment > beaten + BEAT_SECONDS:
            beaten = moment
            for stream in streams:
                stream.beat()
        if not stopped and moment >= deadline:
            stopped = True
            for stream in streams:
                stream.stop()
            going = {stream for stream in streams if not stream.is_done}
        for key, mask in ready:
            stream = key.data
            if mask & selectors.EVENT_READ:
                stream.hear()
            _send(selector, stream)
            if stream.is_done:
                going.discard(stream)


def _send(selector: selectors.BaseSelector, stream: Stream) -> None:
    """Send what the window allows; ask for a word when the socket takes more only where it was full."""
    stream.fill_window()
    wants = selectors.EVENT_READ if stream.send() else selectors.EVENT_READ | selectors.EVENT_WRITE
    if selector.get_key(stream.socket).events != wants:
        selector.modify(stream.socket, wants, stream)
