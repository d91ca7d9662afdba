"""Runs to report: events folded by the core's own fold into a real store, and the context that a plugin is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
import trio

from testorch_core.events import RecordBatch, Source
from testorch_core.fold import Draft
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.storage import Commit, Slice
from testorch_core.options import Options
from testorch_core.results import Result, ResultRow
from testorch_core.runs import RunState
from testorch_core.tail import LogTail, StoredRun
from testorch_plugins.storage.memory.plugin import MemoryStore

STARTED_MS = 1_766_000_000_000


class Log:
    """A project's log in a `MemoryStore`, with one run. An event takes a second of the server's time."""

    def __init__(self, *, run_id: str = "run-1", project: str = "default", name: str | None = "Nightly") -> None:
        self.store = MemoryStore("memory", Options())
        self.store._is_open = True
        self.state = RunState(project, run_id)
        self.tail = LogTail(self.store, {})
        self.offset = 0
        self._start: Mapping[str, Any] = {"name": name, "participant": "c1"}

    async def start(self) -> None:
        await self.tell("run/start", self._start)

    async def tell(self, *told: Any) -> None:
        """Commit events at once: type, payload, type, payload …"""
        pairs = list(zip(told[::2], told[1::2], strict=True))
        draft, source, before = Draft(self.state), Source("c1"), self.offset
        wires = []
        for kind, payload in pairs:
            self.offset += 1
            now = STARTED_MS + 1000 * (self.offset - 1)
            wire = {"id": f"e{self.offset}", "type": kind, "timestamp": now, "payload": payload}
            wire = dict(draft.with_attempt(wire))
            draft.fold(wire, offset=self.offset, received_at=now, source=source)
            wires.append(wire)
        batch = RecordBatch(
            project=self.state.project,
            first_offset=before + 1,
            count=len(wires),
            run_id=self.state.run_id,
            source=source,
            received_at=STARTED_MS + 1000 * before,
            body=orjson.dumps(wires),
        )
        part = Slice(
            project=self.state.project,
            expected_head=before,
            batches=[batch],
            runs=[draft.run_row()],
            results=draft.result_rows(),
        )
        await self.store.append(Commit(slices=[part]))
        draft.merge()
        self.tail.publish([batch])

    async def end(self, status: str = "passed", **payload: Any) -> None:
        await self.tell("run/end", {"status": status, "complete": True, **payload})

    def reader(self) -> StoredRun:
        return StoredRun(self.store, self.state.status())

    async def result(self, test_id: str, attempt: int = 1) -> Result:
        found = [result async for result in self.reader().results()]
        return next(result for result in found if (result.test_id, result.attempt) == (test_id, attempt))


@pytest.fixture(scope="session")
def make_log() -> type[Log]:
    return Log


@pytest.fixture(scope="session")
def results_of() -> Callable[..., tuple[RunState, list[Result]]]:
    """Results as the core would store them, without a store: for what is pure. Takes payloads of `test/end`."""

    def results(*ends: Mapping[str, Any]) -> tuple[RunState, list[Result]]:
        state = RunState("default", "run-1")
        draft = Draft(state)
        for number, payload in enumerate(({}, *ends, None), 1):
            kind = "run/start" if number == 1 else "run/end" if payload is None else "test/end"
            said = {"status": "failed" if draft.head.unexpected else "passed"} if payload is None else payload
            wire = {"id": f"e{number}", "type": kind, "timestamp": STARTED_MS, "payload": said}
            draft.fold(wire, offset=number, received_at=STARTED_MS, source=Source("c1"))
        rows: list[ResultRow] = sorted(draft.result_rows(), key=lambda row: (row.test_id, row.attempt))
        draft.merge()
        return state, [Result.from_row("default", row) for row in rows]

    return results


@pytest.fixture
def make_context(tmp_path: Path) -> Callable[..., PluginContext]:
    """A context; with `inline=True` its threads are none, for virtual time."""

    def make(*, spawn: Any = None, read_only: bool = False, inline: bool = False) -> PluginContext:
        async def run_inline(work: Callable[[], Any]) -> Any:
            await trio.lowlevel.checkpoint()
            return work()

        return PluginContext(
            spawn=spawn,
            in_thread=run_inline if inline else trio.to_thread.run_sync,
            folder=tmp_path,
            log=structlog.get_logger(),
            read_only=read_only,
        )

    return make
