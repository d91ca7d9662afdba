"""Runs to report and to render: events folded by the core's own fold, read as a reporter reads a stored run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from testorch_core import events as ev
from testorch_core.events import RecordedEvent, Source
from testorch_core.fold import Draft
from testorch_core.results import Result
from testorch_core.runs import RunState, RunStatus
from testorch_core.testing import hostile

Told = tuple[str, Mapping[str, Any]]
"""A type and a payload; the rest of an event is added."""

STARTED_MS: Final = 1_766_000_000_000
STEP_MS: Final = 250
"""How much later, by the server's clock, every event is than the one before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """A stored run in memory: the `RunReader` that a reporter is given."""

    status: RunStatus
    all_results: tuple[Result, ...]
    all_events: tuple[RecordedEvent, ...]

    async def results(self, *, final_only: bool = False) -> AsyncGenerator[Result, None]:
        """As `RunReader.results`."""
        for result in self.all_results:
            if result.final or not final_only:
                yield result

    async def events(self) -> AsyncGenerator[RecordedEvent, None]:
        """As `RunReader.events`."""
        for event in self.all_events:
            yield event


def recorded_run(
    told: Sequence[Told] | None = None,
    *,
    run_id: str = "run-1",
    project: str = ev.DEFAULT_PROJECT,
    name: str | None = "Nightly",
    ended: bool = True,
) -> RecordedRun:
    """A run of which clients have told `told`; without it, one test of every kind, with hostile names among them.

    The run's start, and with `ended` its end, are added. `ended=False` gives a run that still goes on.
    """
    opening = (ev.RUN_START, {"name": name, "participant": "connection-1", "metadata": {"branch": hostile.MARKUP}})
    whole = [opening, *(every_kind() if told is None else told)]
    if ended:
        whole.append((ev.RUN_LEAVE, {"participant": "connection-1", "reason": "ended"}))
        whole.append((ev.RUN_END, {"status": ev.FAILED, "complete": True}))
    return _record(whole, project=project, run_id=run_id)


def every_kind() -> list[Told]:
    """Tests with every status, expected and not, retried and flaky, never ended, and with hostile names."""
    told: list[Told] = [(ev.RUN_PLAN, {"total": 200})]
    for status in ev.SEVERITY:
        told += _test(f"tests/test_shop.py::test_{status}", status, errors=[_error(status)])
        told += _test(f"tests/test_shop.py::test_expected_{status}", status, expectedStatus=status)
    for number, name in enumerate(hostile.NAMES):
        facts = {"testName": name, "filePath": name, "suitePath": [name], "tags": [name], "errors": [_error(name)]}
        told += _test(name, ev.FAILED if number % 2 else ev.PASSED, **facts)
        told.append((ev.TEST_OUTPUT, {"testId": name, "text": name, "stream": "stdout"}))
    for number, last in enumerate((ev.PASSED, ev.FAILED)):
        test_id = f"tests/test_shop.py::test_retried[{number}]"
        told += _test(test_id, ev.FAILED, attempt=1, errors=[_error("first")], willRetry=True)
        told += _test(test_id, last, attempt=2, errors=[_error("second")])
    told.append((ev.TEST_START, {"testId": "tests/test_shop.py::test_that_never_ends"}))
    told.append((ev.TEST_END, {"testId": "tests/test_shop.py::test_without_a_start", "status": "a new word"}))
    told.append(
        (ev.TEST_END, {"testId": "tests/test_shop.py::test_with_odd_fields", "errors": "none", "durationMs": "1"})
    )
    told.append((ev.RUN_ERROR, {"errors": [_error("a worker died")]}))
    told.append(("test/attachment", {"testId": hostile.QUOTES, "name": "a.png", "url": "https://example.org/a.png"}))
    told.append(("x-vendor/of-a-newer-client", {"anything": [None]}))
    return told


def _test(test_id: str, status: str, **facts: Any) -> list[Told]:
    identity = {"testId": test_id, "attempt": facts.pop("attempt", 1)}
    begin = identity | {key: facts[key] for key in ("testName", "filePath", "suitePath") if key in facts}
    return [(ev.TEST_START, begin), (ev.TEST_END, identity | {"status": status, "durationMs": 12.5, **facts})]


def _error(message: str) -> Mapping[str, Any]:
    return {"type": "AssertionError", "message": message, "stack": f"Traceback:\n  {message}\n", "line": 3}


def _record(told: Sequence[Told], *, project: str, run_id: str) -> RecordedRun:
    state, source = RunState(project, run_id), Source("connection-1")
    draft, events = Draft(state), []
    for offset, (kind, payload) in enumerate(told, start=1):
        now = STARTED_MS + offset * STEP_MS
        wire = draft.with_attempt({"id": f"e{offset:05}", "type": kind, "timestamp": now, "payload": payload})
        draft.fold(wire, offset=offset, received_at=now, source=source)
        events.append(RecordedEvent(project, offset, now, source, run_id, wire))
    rows = sorted(draft.result_rows(), key=lambda row: (row.test_id, row.attempt))
    results = tuple(Result.from_row(project, row) for row in rows)
    return RecordedRun(status=draft.merge()[1], all_results=results, all_events=tuple(events))
