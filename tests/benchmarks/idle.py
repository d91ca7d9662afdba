"""Ten thousand idle connections: what they cost at rest, and what they cost those that are at work."""

from __future__ import annotations

import time

from benchmarks.crew import Crew
from benchmarks.holding import idle_connections
from benchmarks.lab import Lab
from benchmarks.latency import steady
from benchmarks.processes import raise_file_limit
from benchmarks.servers import Server

NAME = "idle"
CONNECTIONS = 10_000
FILES_BESIDE = 500
REST_SECONDS = 10.0


def measure(lab: Lab) -> None:
    if lab.settings.quick:
        lab.report.left_out.append(f"{NAME}: {CONNECTIONS:,} connections take too long for --quick")
        return
    allowed = raise_file_limit(CONNECTIONS + FILES_BESIDE)
    count = min(CONNECTIONS, allowed - FILES_BESIDE)
    with lab.ours() as server:
        alone = lab.report.row(NAME, "no idle connections, 1,000 events/s", server.name)
        alone.add(_rest(server) | steady(server, lab.settings))
        before = server.rss_bytes
        with Crew([idle_connections(server.address, count)]) as crew:
            crew.step()
            crew.tell()
            time.sleep(1)  # what the last connections caused is not idleness
            beside = lab.report.row(NAME, f"{count:,} idle connections, 1,000 events/s", server.name)
            held = {"KB each": (server.rss_bytes - before) / count / 1e3}
            beside.add(held | _rest(server) | steady(server, lab.settings))
            crew.tell()
            crew.hear()


def _rest(server: Server) -> dict[str, float]:
    """The CPU of a server to which nobody speaks."""
    cpu, began = server.cpu_seconds, time.monotonic()
    time.sleep(REST_SECONDS)
    return {"idle CPU %": 100 * (server.cpu_seconds - cpu) / (time.monotonic() - began)}
