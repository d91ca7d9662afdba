"""Memory: the idle server, an idle connection, a test of an open run; and what a kill -9 in that run costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.asking import round_trips_ms, server_ms
from benchmarks.client import Client
from benchmarks.crew import Crew
from benchmarks.failures import require_equal
from benchmarks.holding import idle_connections
from benchmarks.ingest import pump
from benchmarks.lab import Lab
from benchmarks.processes import raise_file_limit
from benchmarks.scripts import write_script
from benchmarks.servers import Server
from benchmarks.streams import BEAT_SECONDS, Stream

NAME = "memory"
CONNECTIONS = 1_000
WARM_UP_TESTS = 5_000
TESTS = 200_000
QUICK_TESTS = 50_000
BATCH = 100
WINDOW = 2_000
LONG_SECONDS = 600.0
ASKED = 50
SETTLE_SECONDS = 1.0


def measure(lab: Lab) -> None:
    raise_file_limit(2 * CONNECTIONS)
    tests = QUICK_TESTS if lab.settings.quick else TESTS
    with lab.all_servers() as servers:
        for server in servers[:2]:  # how the Node server commits makes no difference to what it keeps
            row = lab.report.row(NAME, "idle server", server.name)
            row.add({"MB": _settled_bytes(server) / 1e6})
            row = lab.report.row(NAME, f"idle connection (of {CONNECTIONS:,})", server.name)
            row.add({"KB each": _connection_bytes(server) / 1e3})
            with _open_run(server, "warm-up", WARM_UP_TESTS, origin=1):
                before = _settled_bytes(server)
            with _open_run(server, "large", tests, origin=2):
                after = _settled_bytes(server)
                row = lab.report.row(NAME, f"test of an open run (of {tests:,}, ids of 80 characters)", server.name)
                row.add({"KB each": (after - before) / tests / 1e3, "MB": after / 1e6})
                row = lab.report.row(NAME, "getRunStatus of that run, in the server", server.name)
                row.add(_status_ms(server, "large", tests))
                if server is servers[0]:
                    _survive(lab, server, tests)


def _settled_bytes(server: Server) -> float:
    time.sleep(SETTLE_SECONDS)
    return server.rss_bytes


def _connection_bytes(server: Server) -> float:
    before = server.rss_bytes
    with Crew([idle_connections(server.address, CONNECTIONS)]) as crew:
        crew.step()
        return (_settled_bytes(server) - before) / CONNECTIONS


@contextmanager
def _open_run(server: Server, run_id: str, tests: int, *, origin: int) -> Iterator[None]:
    """A run in which that many tests have passed, and whose stream stays and says nothing more."""
    with Crew([partial(_send, server.address, run_id, tests, origin)]) as crew:
        crew.step()
        crew.step()
        crew.tell()
        yield


def _send(address: tuple[str, int], run_id: str, tests: int, origin: int, pipe: Connection) -> Iterator[Any]:
    stream = Stream(
        address, write_script(2 * tests, batch=BATCH, origin=origin, plain=True), window=WINDOW, run_id=run_id
    )
    yield None
    pump([stream], LONG_SECONDS)
    yield None
    while not pipe.poll(BEAT_SECONDS):
        with suppress(OSError):  # the server has been killed, as was meant
            stream.beat()


def _status_ms(server: Server, run_id: str, tests: int) -> dict[str, float]:
    with Client(server.address) as client:
        status = client.ask("getRunStatus", {"runId": run_id})
        require_equal(f"tests that passed in `{run_id}`", status["counts"]["passed"], tests)
        nothing = round_trips_ms(client, "nothing", [None] * ASKED)
        return server_ms(round_trips_ms(client, "getRunStatus", [{"runId": run_id}] * ASKED), nothing)


def _survive(lab: Lab, server: Server, tests: int) -> None:
    """kill -9, start again, ask for the run: everything that was acknowledged must be there."""
    server.kill()
    row = lab.report.row(NAME, "after kill -9 in that run, to listening", server.name)
    row.add({"s": server.start()})
    before = time.perf_counter()
    with Client(server.address) as client:
        status = client.ask("getRunStatus", {"runId": "large"})
        first = time.perf_counter() - before
    require_equal("tests that passed, after kill -9", status["counts"]["passed"], tests)
    row = lab.report.row(NAME, "getRunStatus after kill -9, in the server", server.name)
    row.add({**_status_ms(server, "large", tests), "first ms": first * 1000})
