"""Delivery to reporters: each follows the log by a cursor of its own, at its own pace, and is retried in order."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio

from testorch_core import events as ev
from testorch_core.errors import StorageFailedError
from testorch_core.events import RESERVED_PREFIX, RecordedEvent
from testorch_core.interfaces.reporter import Permanent, Reporter, Retryable, RunReader
from testorch_core.interfaces.storage import Cursor, EventStore, ResultFilter
from testorch_core.results import Result
from testorch_core.tail import LogTail, StoredRun

FIRST_RETRY_SECONDS: Final = 0.5
LONGEST_RETRY_SECONDS: Final = 60.0
UNEXPECTED_TRIES: Final = 3
"""How often a call is made that fails with anything but `Retryable` or `Permanent`: a defect seldom heals itself."""

GATHER_SECONDS: Final = 0.05
"""How long a reporter that has caught up lets the log grow before it reads again: nobody sees it, and it spares a read of
the store for each of many small commits."""

EVENTS_AT_A_TIME: Final = 64
SAVE_CURSORS_SECONDS: Final = 2.0
_REGISTERED: Final = ""
"""The project under which it is noted that a reporter is not new, even if no project has a log yet."""

Call = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class DeliveryCounts:
    """What became of a reporter's calls."""

    delivered: int = 0
    retried: int = 0
    failed: int = 0
    last_error: str | None = None


class ReporterFeed:
    """Feeds one reporter from the log."""

    def __init__(self, reporter: Reporter, store: EventStore, tail: LogTail, log: Any) -> None:
        self.reporter = reporter
        self.counts = DeliveryCounts()
        self.offsets: dict[str, int] = {}
        self._saved: dict[str, int] = {}
        self._store = store
        self._tail = tail
        self._log = log.bind(plugin=reporter.name)
        kind = type(reporter)
        self._wants_events = kind.events is not Reporter.events
        self._wants_tests = kind.test_finished is not Reporter.test_finished
        self._moved = trio.Event()

    async def open(self) -> None:
        """Read the cursors. A new instance starts at the log's head, or at its beginning with `start = "beginning"`."""
        self._saved = dict(await self._store.cursors(self.reporter.name))
        self.offsets = {project: offset for project, offset in self._saved.items() if project != _REGISTERED}
        if self._saved:
            return
        if getattr(self.reporter.options, "start", "head") == "head":
            self.offsets = dict(self._tail.heads)
        self.offsets[_REGISTERED] = 0
        await self.save()

    async def run(self) -> None:
        """Follow the log for ever. When cancelled, the call under way will be made again after the next start."""
        while True:
            growth = self._tail.growth()
            behind = [
                project
                for project, head in self._tail.heads.items()
                if self.offsets.get(project, 0) < head and not project.startswith(RESERVED_PREFIX)
            ]
            for project in behind:
                await self._deliver_page(project)
            if not behind:
                await growth.wait()
                await trio.sleep(GATHER_SECONDS)

    async def caught_up(self) -> None:
        """Wait until the reporter has been told everything that is committed now."""
        goal = {one: head for one, head in self._tail.heads.items() if not one.startswith(RESERVED_PREFIX)}
        while any(self.offsets.get(project, 0) < head for project, head in goal.items()):
            await self._moved.wait()

    def unsaved(self) -> list[Cursor]:
        """The cursors that have moved since they were last saved."""
        return [
            Cursor(reporter=self.reporter.name, project=project, offset=offset)
            for project, offset in self.offsets.items()
            if self._saved.get(project) != offset
        ]

    async def save(self) -> None:
        """Save the cursors outside a commit. A store that can't now is tried again on the next beat."""
        cursors = self.unsaved()
        if not cursors:
            return
        try:
            await self._store.save_cursors(cursors)
        except StorageFailedError as failure:
            self._log.warning("cursors_not_saved", error=str(failure))
            return
        self._saved |= {cursor.project: cursor.offset for cursor in cursors}

    async def _deliver_page(self, project: str) -> None:
        after = self.offsets.get(project, 0)
        batches = await self._retried(lambda: self._tail.read(project, after=after))
        page = [event for batch in batches or () for event in batch.events() if event.offset > after]
        if self._wants_events and page:
            await self._tell(lambda: self.reporter.events(page))
        results = await self._results_of(project, page) if self._wants_tests else {}
        runs: dict[str, RunReader | None] = {}
        for index, event in enumerate(page):
            call = await self._call_for(event, results, runs)
            if call is not None:
                await self._tell(call)
                self._move(project, event.offset)
            if call is not None or index % EVENTS_AT_A_TIME == 0:
                # A reporter that awaits nothing must not hold up the others for longer than one call takes.
                await trio.lowlevel.checkpoint()
        if batches:
            self._move(project, batches[-1].last_offset)

    def _move(self, project: str, offset: int) -> None:
        self.offsets[project] = offset
        self._moved.set()
        self._moved = trio.Event()

    async def _call_for(
        self,
        event: RecordedEvent,
        results: Mapping[tuple[str, str, int], Result],
        runs: dict[str, RunReader | None],
    ) -> Call | None:
        """The call that an event causes. `runs` keeps what was read of the page's runs: once a page is often enough."""
        if event.run_id is None or event.type not in (ev.RUN_START, ev.RUN_END, ev.TEST_END):
            return None
        key = _attempt_of(event)
        result = results.get(key) if key is not None else None
        if event.type == ev.TEST_END and result is None:
            return None
        if event.run_id not in runs:
            runs[event.run_id] = await self._run(event.project, event.run_id)
        run = runs[event.run_id]
        if run is None:  # deleted since
            return None
        if event.type == ev.RUN_START:
            return partial(self.reporter.run_started, run)
        if event.type == ev.RUN_END:
            return partial(self.reporter.run_finished, run)
        return partial(self.reporter.test_finished, run, result) if result is not None else None

    async def _run(self, project: str, run_id: str) -> RunReader | None:
        row = await self._retried(lambda: self._store.run(project, run_id))
        return StoredRun(self._store, row.run_status()) if row is not None else None

    async def _results_of(self, project: str, page: Sequence[RecordedEvent]) -> dict[tuple[str, str, int], Result]:
        wanted: dict[str, set[tuple[str, int]]] = {}
        for event in page:
            key = _attempt_of(event)
            if key is not None:
                wanted.setdefault(key[0], set()).add(key[1:])
        found: dict[tuple[str, str, int], Result] = {}
        for run_id, attempts in wanted.items():
            where = ResultFilter(attempts=sorted(attempts))
            read = partial(self._store.results, project, run_id, where, limit=len(attempts))
            rows = await self._retried(read)
            for row in rows.rows if rows else ():
                found[run_id, row.test_id, row.attempt] = Result.from_row(project, row)
        return found

    async def _retried(self, read: Callable[[], Awaitable[Any]]) -> Any:
        """A read of the store, tried until it works: a store that fails for a while must not end a reporter."""
        while True:
            try:
                return await read()
            except StorageFailedError as failure:
                self._log.warning("reporter_waits_for_store", error=str(failure))
                await trio.sleep(FIRST_RETRY_SECONDS)

    async def _tell(self, call: Call) -> None:
        """Make one call of the reporter until it succeeds or is given up."""
        tries = unexpected = 0
        while True:
            try:
                await call()
                self.counts.delivered += 1
                return None
            except Permanent as failure:
                return self._give_up(failure)
            except (Retryable, StorageFailedError) as failure:  # the store may fail while the reporter reads its run
                wait = failure.after_seconds if isinstance(failure, Retryable) else None
                self._note("reporter_retries", failure)
            # A reporter's defect must harm nobody else; it is counted and shown. Some libraries exit like commands.
            except (Exception, SystemExit) as failure:
                unexpected += 1
                if unexpected >= UNEXPECTED_TRIES:
                    return self._give_up(failure)
                wait = None
                self._note("reporter_raised", failure)
            tries += 1
            self.counts.retried += 1
            backoff = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(tries, 10)) * random.uniform(0.5, 1.0)
            await trio.sleep(backoff if wait is None else wait)

    def _give_up(self, failure: BaseException) -> None:
        self.counts.failed += 1
        self._note("reporter_gave_up", failure)

    def _note(self, event: str, failure: BaseException) -> None:
        self.counts.last_error = f"{type(failure).__name__}: {failure}"
        self._log.warning(event, error=self.counts.last_error)


def _attempt_of(event: RecordedEvent) -> tuple[str, str, int] | None:
    """(run id, test id, attempt) of a test's end, as far as it names them soundly."""
    if event.type != ev.TEST_END or event.run_id is None:
        return None
    test_id, attempt = event.payload.get("testId"), event.payload.get("attempt", 1)
    if not isinstance(test_id, str):
        return None
    return event.run_id, test_id, attempt if type(attempt) is int and attempt >= 1 else 1
