"""Thousands of clients that vanish at once, without FIN or RST: only their silence tells."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

from benchmarks.active import MOST_SECONDS, QUICK_SECONDS, active_client, warm_up
from benchmarks.crew import Crew, Work
from benchmarks.holding import idle_connections
from benchmarks.lab import Lab
from benchmarks.network import NEAR, Machines, entering, two_machines, within
from benchmarks.pacing import CONNECTIONS
from benchmarks.processes import raise_file_limit
from benchmarks.servers import Server, Setup, Value
from benchmarks.streams import now

NAME = "vanish"
PINGS = {"ping_seconds": 2.0, "missed_pings": 2}
PATIENT = {"silence_seconds": 120.0}
"""A load generator that had to wait for a core is not to be taken for a stream that fell silent: pings find the others."""
FILES_BESIDE = 500
BEFORE_SECONDS = 3.0
GONE_SECONDS = 120.0
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Place:
    """Where server and clients are, and how clients vanish from there."""

    machines: Machines | None

    @property
    def how(self) -> str:
        return "the link is down" if self.machines else "stopped by SIGSTOP"

    @property
    def setup(self) -> Setup:
        """The server's, wherever it is."""
        if self.machines is None:
            return Setup(server=PATIENT, transport=PINGS)
        transport: dict[str, Value] = {**PINGS, "host": NEAR, "allow_anonymous": True}
        return Setup(server=PATIENT, transport=transport, prefix=entering(self.machines.near))

    def beside(self, work: Work) -> Work:
        """Work on the server's machine."""
        return within(self.machines.near, work) if self.machines else work

    def away(self, work: Work) -> Work:
        """Work on the machine that will vanish."""
        return within(self.machines.far, work) if self.machines else work

    def vanish(self, crew: Crew) -> None:
        """All at once: no packet of theirs arrives any more, or at least no answer."""
        if self.machines is None:
            crew.signal(signal.SIGSTOP)
        else:
            self.machines.unplug()


def measure(lab: Lab) -> None:
    count = lab.settings.clients
    raise_file_limit(2 * count + FILES_BESIDE)
    for _ in range(lab.settings.repetitions):
        with two_machines() as machines:
            place = Place(machines)
            row = lab.report.row(NAME, f"{count:,} connections, {place.how}", "testorch")
            with lab.ours(place.setup) as server:
                warm_up(server, place.beside)  # so that what the first load costs for good is not in the memory
                row.add(_vanished(server, place, count, QUICK_SECONDS if lab.settings.quick else MOST_SECONDS))


def _vanished(server: Server, place: Place, count: int, seconds: float) -> dict[str, float]:
    before, open_before = _settled_bytes(server), server.sockets
    with (
        Crew([place.away(idle_connections(server.address, count))]) as idle,
        Crew([place.beside(active_client(server.address, seconds))]) as active,
    ):
        idle.step()
        idle.tell()
        there = _settled_bytes(server)
        active.step()
        began = now()
        active.tell()
        time.sleep(BEFORE_SECONDS)
        gone = now()
        place.vanish(idle)
        server.await_sockets(open_before + CONNECTIONS, GONE_SECONDS)
        over = now()
        [acknowledged] = active.step()
        active.hear()
        idle.signal(signal.SIGKILL)  # it can't be told any more
    server.await_sockets(open_before, GONE_SECONDS)
    return {
        "s until all are let go": over - gone,
        **acknowledged.latencies_ms(began, gone, "before"),
        **acknowledged.latencies_ms(gone, over, "meanwhile"),
        "MB before": before / 1e6,
        "MB with them": there / 1e6,
        "MB after": _settled_bytes(server) / 1e6,
    }


def _settled_bytes(server: Server) -> float:
    time.sleep(SETTLE_SECONDS)
    return server.rss_bytes
