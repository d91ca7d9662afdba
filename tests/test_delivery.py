"""Delivery to reporters: in order, at least once, from a cursor that survives; one reporter's trouble is nobody else's."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from testorch_core.config import ServerOptions
from testorch_core.delivery import LONGEST_RETRY_SECONDS, UNEXPECTED_TRIES
from testorch_core.events import RecordedEvent, Source
from testorch_core.gate import Gate
from testorch_core.hosting import HostedPlugin
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.reporter import Permanent, Reporter, Retryable, RunReader
from testorch_core.interfaces.storage import EventStore
from testorch_core.items import Submission
from testorch_core.logs import library_log
from testorch_core.orchestrator import Orchestrator
from testorch_core.results import Result
from testorch_plugins.storage.memory.plugin import MemoryStore

NODE = Source("node")


@dataclass(frozen=True)
class Start:
    start: str = "head"


class Recorder(Reporter):
    """Writes down what it is told; `trouble` is raised by the calls that it names, as often as it says."""

    def __init__(self, name: str = "recorder", options: Any = Start(), trouble: Sequence[Exception] = ()) -> None:
        super().__init__(name, options)
        self.told: list[str] = []
        self.at: list[float] = []
        self.trouble = list(trouble)

    async def start(self, context: PluginContext) -> None: ...

    async def aclose(self) -> None: ...

    def _tell(self, words: str) -> None:
        self.at.append(trio.current_time())
        if self.trouble:
            raise self.trouble.pop(0)
        self.told.append(words)

    async def run_started(self, run: RunReader) -> None:
        self._tell(f"started {run.status.run_id}")

    async def test_finished(self, run: RunReader, result: Result) -> None:
        self._tell(f"{result.name} {result.status}")

    async def run_finished(self, run: RunReader) -> None:
        finals = [one.test_id async for one in run.results(final_only=True)]
        self._tell(f"finished {run.status.run_id} {run.status.status} {finals}")


class Everything(Recorder):
    async def events(self, events: Sequence[RecordedEvent]) -> None:
        self.told += [f"{one.offset} {one.type}" for one in events]


@asynccontextmanager
async def open_store() -> AsyncIterator[EventStore]:
    store = MemoryStore("m", None)
    hosted = HostedPlugin(store, close_seconds=5, log=library_log())
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: hosted.run(folder=Path(), task_status=task_status))
        yield store
        await hosted.close()


@asynccontextmanager
async def node(store: EventStore, *reporters: Reporter) -> AsyncIterator[Orchestrator]:
    made = Orchestrator(store, gate=Gate(()), reporters=reporters, options=ServerOptions(), log=library_log())
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        await made.drain(1000)
        nursery.cancel_scope.cancel()


async def run_of_two(orchestrator: Orchestrator, run_id: str) -> None:
    await orchestrator.start_run("p", {"runId": run_id}, participant="me", source=NODE)
    events = [
        ({"id": f"{run_id}{kind}{test}", "type": f"test/{kind}", "timestamp": 1, "payload": payload}, b"x")
        for test in ("a", "b")
        for kind, payload in (
            ("start", {"testId": test, "testName": test.upper()}),
            ("end", {"testId": test, "status": "passed"}),
        )
    ]
    await orchestrator.submit(Submission("p", run_id, events, source=NODE, received_at=1))
    await orchestrator.end_run("p", run_id, participant="me", source=NODE)


TOLD = ["started r1", "A passed", "B passed", "finished r1 passed ['a', 'b']"]


async def test_a_reporter_is_told_in_the_order_of_the_log(autojump_clock: trio.testing.MockClock):
    reporter = Recorder()
    async with open_store() as store, node(store, reporter) as orchestrator:
        await run_of_two(orchestrator, "r1")
    assert reporter.told == TOLD


async def test_a_reporter_of_events_sees_every_one(autojump_clock: trio.testing.MockClock):
    """P4: no offset is left out."""
    reporter = Everything()
    async with open_store() as store, node(store, reporter) as orchestrator:
        await run_of_two(orchestrator, "r1")
        heads = await store.heads()
    offsets = [int(words.split()[0]) for words in reporter.told if words[0].isdigit()]
    assert offsets == list(range(1, heads["p"] + 1))


async def test_a_new_reporter_starts_at_the_head_and_one_that_is_known_where_it_stood(
    autojump_clock: trio.testing.MockClock,
):
    first, second, late, eager = Recorder("a"), Recorder("a"), Recorder("b"), Recorder("c", Start("beginning"))
    async with open_store() as store:
        async with node(store, first) as orchestrator:
            await run_of_two(orchestrator, "r1")
        async with node(store) as orchestrator:
            await run_of_two(orchestrator, "r2")
        async with node(store, second, late, eager) as orchestrator:
            await run_of_two(orchestrator, "r3")
    assert first.told == TOLD
    assert [words for words in second.told if words.startswith("started")] == ["started r2", "started r3"]
    assert [words for words in late.told if words.startswith("started")] == ["started r3"]
    assert [words for words in eager.told if words.startswith("started")] == ["started r1", "started r2", "started r3"]


async def test_a_reporter_that_is_new_on_an_empty_store_misses_nothing_after_a_crash(
    autojump_clock: trio.testing.MockClock,
):
    """P4: a cursor outlives its server."""

    class Stuck(Recorder):
        async def run_started(self, run: RunReader) -> None:
            await trio.sleep_forever()

    after = Recorder("a")
    async with open_store() as store:
        made = Orchestrator(store, gate=Gate(()), reporters=[Stuck("a")], options=ServerOptions(), log=library_log())
        async with trio.open_nursery() as nursery:  # never drained: a crash
            await nursery.start(made.run)
            await run_of_two(made, "r1")
            nursery.cancel_scope.cancel()
        async with node(store, after):
            pass
    assert after.told == TOLD


async def test_what_may_succeed_later_is_tried_again_in_order(autojump_clock: trio.testing.MockClock):
    reporter = Recorder(trouble=[Retryable("busy"), Retryable("busy", after_seconds=30)])
    async with open_store() as store, node(store, reporter) as orchestrator:
        await run_of_two(orchestrator, "r1")
    assert reporter.told == TOLD
    assert reporter.at[2] - reporter.at[1] == 30
    assert 0.5 <= reporter.at[1] - reporter.at[0] <= 1.0


async def test_back_off_is_bounded(autojump_clock: trio.testing.MockClock):
    reporter = Recorder(trouble=[Retryable("busy")] * 15)
    async with open_store() as store, node(store, reporter) as orchestrator:
        await run_of_two(orchestrator, "r1")
    assert reporter.told == TOLD
    assert (
        max(after - before for before, after in zip(reporter.at, reporter.at[1:], strict=False))
        <= LONGEST_RETRY_SECONDS
    )


@pytest.mark.parametrize("trouble", [[Permanent("no such channel")], [ValueError("a defect")] * UNEXPECTED_TRIES])
async def test_what_will_never_succeed_is_counted_and_skipped(
    trouble: list[Exception], autojump_clock: trio.testing.MockClock
):
    reporter = Recorder(trouble=trouble)
    async with open_store() as store, node(store, reporter) as orchestrator:
        await run_of_two(orchestrator, "r1")
        await orchestrator.drain(1000)
        (feed,) = orchestrator._feeds
        assert (feed.counts.failed, feed.counts.delivered) == (1, 3)
        assert feed.counts.last_error == f"{type(trouble[0]).__name__}: {trouble[0]}"
    assert reporter.told == TOLD[1:]


async def test_a_reporter_that_hangs_delays_nobody_else(autojump_clock: trio.testing.MockClock):
    """P5: a reporter delays only itself."""

    class Hangs(Recorder):
        async def run_started(self, run: RunReader) -> None:
            await trio.sleep_forever()

    other = Recorder("other")
    async with open_store() as store, node(store, Hangs("hangs"), other) as orchestrator:
        await run_of_two(orchestrator, "r1")
    assert other.told == TOLD


async def test_a_deleted_run_is_passed_over(autojump_clock: trio.testing.MockClock):
    reporter = Recorder("late", Start("beginning"))
    async with open_store() as store:
        async with node(store) as orchestrator:
            await run_of_two(orchestrator, "r1")
            await run_of_two(orchestrator, "r2")
        await store.delete_runs("p", ["r1"])
        async with node(store, reporter):
            pass
    assert [words for words in reporter.told if words.startswith("started")] == ["started r2"]
