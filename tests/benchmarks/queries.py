"""Queries against a store of millions of events, timed in the server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.asking import NOTHING, round_trips_ms, server_ms
from benchmarks.client import Client
from benchmarks.crew import Crew
from benchmarks.failures import FailedRunError, NotSupportedError, require_equal
from benchmarks.ingest import pump
from benchmarks.lab import Lab
from benchmarks.scripts import test_id, write_script
from benchmarks.seeding import copy_run
from benchmarks.servers import Server
from benchmarks.streams import Stream

NAME = "queries"
TESTS_A_RUN = 1_000
LARGE_RUN_TESTS = 100_000
EVENTS_A_TEST = 2.1
"""A tenth of the tests has an event with output, too."""

PAGE = 50
ASKED = 300
QUICK_ASKED = 60
LONG_SECONDS = 600.0


def measure(lab: Lab) -> None:
    with lab.ours() as server:
        _fill(server, "large", LARGE_RUN_TESTS, origin=1)
        _fill(server, "small", TESTS_A_RUN, origin=2)
        server.stop()
        copies = max(1, round(lab.settings.store_events / (TESTS_A_RUN * EVENTS_A_TEST)) - 1)
        began = time.monotonic()
        path = server.folder / "testorch.db"
        copy_run(path, "small", copies)
        size = path.stat().st_size / 1e9
        lab.say(f"queries: a store of {copies + 1:,} runs, {size:.1f} GB, in {time.monotonic() - began:.0f} s")
        server.start()
        events = round((copies + 1) * TESTS_A_RUN * EVENTS_A_TEST + LARGE_RUN_TESTS * EVENTS_A_TEST)
        with Client(server.address) as client:
            _ask_all(lab, client, copies, f"{events / 1e6:.1f} million events")
        server.stop()


def _fill(server: Server, run_id: str, tests: int, *, origin: int) -> None:
    with Crew([partial(_send, server.address, run_id, tests, origin)]) as crew:
        for _ in range(3):
            crew.step()


def _send(address: tuple[str, int], run_id: str, tests: int, origin: int, pipe: Connection) -> Iterator[Any]:
    script = write_script(round(tests * EVENTS_A_TEST), batch=100, origin=origin)
    stream = Stream(address, script, window=2_000, run_id=run_id)
    yield None
    yield pump([stream], LONG_SECONDS)
    stream.check_counts(stream.finish())
    yield None
    stream.close()


def _ask_all(lab: Lab, client: Client, copies: int, store: str) -> None:
    asked = QUICK_ASKED if lab.settings.quick else ASKED
    dice = random.Random(7)
    status = client.ask("getRunStatus", {"runId": "large"})
    require_equal("tests of the large run", status["counts"]["total"], LARGE_RUN_TESTS)
    cases: dict[str, Callable[[], Any]] = {
        f"getRunStatus of a run of {LARGE_RUN_TESTS:,} tests": lambda: ("getRunStatus", {"runId": "large"}),
        "getRunStatus of any run": lambda: ("getRunStatus", {"runId": f"small-{dice.randint(1, copies):06d}"}),
        f"the newest {PAGE} runs": lambda: ("getRuns", {"limit": PAGE}),
        f"a test's newest {PAGE} results": lambda: ("getHistory", {"testId": _any_test(dice), "limit": PAGE}),
        f"{PAGE} results of a run": lambda: (
            "getResults",
            {"runId": f"small-{dice.randint(1, copies):06d}", "limit": PAGE},
        ),
        f"{PAGE} results of the large run": lambda: ("getResults", {"runId": "large", "limit": PAGE}),
        f"{PAGE} failures of the large run": lambda: (
            "getResults",
            {"runId": "large", "limit": PAGE, "status": "failed"},
        ),
    }
    for name, make in cases.items():
        _ask(lab, client, f"{store}: {name}", [make() for _ in range(asked)])
    for kind, payload in (
        ("getRuns", {}),
        ("getResults", {"runId": "large"}),
        ("getHistory", {"testId": _any_test(dice)}),
    ):
        _ask_deep_page(lab, client, f"{store}: a later page of {kind}", kind, payload, asked)


def _any_test(dice: random.Random) -> str:
    return test_id(2, dice.randrange(TESTS_A_RUN))


def _ask(lab: Lab, client: Client, case: str, requests: list[tuple[str, Any]]) -> None:
    """One query, with requests that do nothing between its own, so that both meet the machine in the same mood."""
    kind = requests[0][0]
    try:
        taken: list[float] = []
        nothing: list[float] = []
        for _, payload in requests:
            taken += round_trips_ms(client, kind, [payload])
            nothing += round_trips_ms(client, NOTHING, [None])
        lab.report.row(NAME, case, "testorch").add(server_ms(taken, nothing))
    except NotSupportedError as reason:
        lab.report.left_out.append(f"{case}: {reason}")


def _ask_deep_page(lab: Lab, client: Client, case: str, kind: str, payload: dict[str, Any], asked: int) -> None:
    """A page that begins where the tenth ends."""
    try:
        cursor = None
        for _ in range(10):
            page = client.ask(kind, payload | {"limit": PAGE} | ({"cursor": cursor} if cursor else {}))
            if cursor_of(page) is None:
                break
            cursor = cursor_of(page)
    except NotSupportedError as reason:
        lab.report.left_out.append(f"{case}: {reason}")
        return
    if cursor is not None:
        _ask(lab, client, case, [(kind, payload | {"limit": PAGE, "cursor": cursor})] * asked)


def cursor_of(page: Any) -> str | None:
    """The cursor of the next page."""
    for name in ("next", "cursor", "nextCursor"):
        if name in page:
            cursor: str | None = page[name]
            return cursor
    raise FailedRunError(f"a page without a cursor: {sorted(page)}")
