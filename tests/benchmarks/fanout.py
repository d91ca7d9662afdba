"""Fan-out: an event that is sent until each subscriber of its run has received it."""

from __future__ import annotations

import re
import selectors
import time
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.client import RECEIVE_BYTES, Client
from benchmarks.crew import Crew
from benchmarks.failures import FailedRunError, require_equal
from benchmarks.frames import PING, PONG, TEXT, client_frame
from benchmarks.lab import Lab
from benchmarks.numbers import percentile
from benchmarks.pacing import CONNECTIONS, STUCK_SECONDS, Pacer, paced_scripts
from benchmarks.scripts import Script
from benchmarks.servers import NodeEachServer, Server
from benchmarks.streams import Stream, close_all, now

NAME = "fan-out"
RATE = 1_000.0
SECONDS = 10.0
QUICK_SECONDS = 3.0
SUBSCRIBERS = (1, 10, 100)
_EVENT = re.compile(rb'"id": ?"evt-(\d{4})-(\d{15})"')


def measure(lab: Lab) -> None:
    with lab.all_servers() as servers:
        for count in SUBSCRIBERS:
            for _ in range(lab.settings.repetitions):
                for server in servers:
                    if not isinstance(server, NodeEachServer):  # fan-out doesn't depend on how it commits
                        row = lab.report.row(NAME, f"{count} subscribers, {RATE:,.0f} events/s", server.name)
                        row.add(fan_out(server, count, QUICK_SECONDS if lab.settings.quick else SECONDS))


def fan_out(server: Server, count: int, seconds: float) -> dict[str, float]:
    """One load with that many subscribers; returns its numbers. Raises `FailedRunError` where an event is missing."""
    scripts = paced_scripts(int(RATE * seconds))
    total = sum(script.events for script in scripts)
    run_id = f"run-{time.time_ns()}"
    publishing = partial(_publish, server.address, run_id, scripts=scripts)
    subscribing = partial(_subscribe, server.address, run_id, count=count, total=total)
    with Crew([publishing]) as publisher, Crew([subscribing]) as subscribers:
        publisher.step()
        subscribers.step()
        cpu, began = server.cpu_seconds, now()
        subscribers.tell()
        [began_at] = publisher.step()
        [(places, share)] = subscribers.hear()
        busy = 100 * (server.cpu_seconds - cpu) / (now() - began)
        publisher.step()
    found = {name: (place - began_at) * 1000 for name, place in places.items()}
    return {**found, "server's CPU %": busy, "subscribers' CPU %": share}


def _publish(address: tuple[str, int], run_id: str, pipe: Connection, *, scripts: Sequence[Script]) -> Iterator[Any]:
    streams = [Stream(address, script, window=1_000_000, run_id=run_id) for script in scripts]
    yield None
    pacer = Pacer(streams, RATE)
    pacer.run()
    yield pacer.began
    for stream in streams:
        stream.finish()
    yield None
    close_all(streams)


def _subscribe(address: tuple[str, int], run_id: str, pipe: Connection, *, count: int, total: int) -> Iterator[Any]:
    """Yields the percentiles of (arrival - k / rate) over events k: the publisher's start is taken off elsewhere."""
    subscribers = [Subscriber(address, run_id) for _ in range(count)]
    yield None
    cpu, began = time.process_time(), now()
    _listen(subscribers, total)
    share = 100 * (time.process_time() - cpu) / (now() - began)
    for one in subscribers:
        require_equal("events that a subscriber received", (one.received, len(one.lags)), (total, total))
    ordered = sorted(lag for one in subscribers for lag in one.lags)
    named = {f"p{percent} ms": percentile(ordered, percent) for percent in (50, 95, 99)}
    yield {**named, "max ms": ordered[-1]}, share
    for one in subscribers:
        one.client.close()


class Subscriber:
    """A connection that follows one run."""

    def __init__(self, address: tuple[str, int], run_id: str) -> None:
        self.client = Client(address)
        answer = self.client.ask("subscribe", {"runId": run_id})
        require_equal("`recovered` of a new subscription", answer["recovered"], True)
        self.client.socket.setblocking(False)
        self.lags = array("d")
        self.received = 0
        self._last = [0] * CONNECTIONS

    def hear(self) -> None:
        """Take in what has arrived. Raises `FailedRunError` for an event that is missing, doubled or out of order."""
        received = self.client.socket.recv(RECEIVE_BYTES)
        if not received:
            raise FailedRunError("the server closed a subscriber's connection")
        arrived = now()
        for opcode, payload in self.client.reader.feed(received):
            if opcode == PING:
                self.client.socket.send(client_frame(payload, PONG))
            elif opcode == TEXT and b'"published"' in payload:
                self._take(payload, arrived)
            else:
                raise FailedRunError(f"a subscriber heard {payload[:500]!r}")

    def _take(self, payload: bytes, arrived: float) -> None:
        for origin_digits, seq_digits in _EVENT.findall(payload):
            origin, seq = int(origin_digits), int(seq_digits)
            if seq != self._last[origin] + 1:
                raise FailedRunError(f"a subscriber heard event {seq} of stream {origin} after {self._last[origin]}")
            self._last[origin] = seq
            self.lags.append(arrived - ((seq - 1) * CONNECTIONS + origin) / RATE)
            self.received += 1


def _listen(subscribers: Sequence[Subscriber], total: int) -> None:
    with selectors.DefaultSelector() as selector:
        for one in subscribers:
            selector.register(one.client.socket, selectors.EVENT_READ, one)
        going = set(subscribers)
        while going:
            ready = selector.select(STUCK_SECONDS)
            if not ready:
                least = min(one.received for one in going)
                raise FailedRunError(f"no event for {STUCK_SECONDS:.0f} s; a subscriber has {least} of {total}")
            for key, _ in ready:
                key.data.hear()
                if key.data.received == total:
                    going.discard(key.data)
