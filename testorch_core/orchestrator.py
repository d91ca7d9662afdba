"""The orchestrator: the service that transports, embedders and the command line call. Everything behind it is derived
from the log; everything in front of it is a conversation."""

from __future__ import annotations

import functools
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from testorch_core import lifecycle
from testorch_core.committer import Committer
from testorch_core.config import ServerOptions
from testorch_core.delivery import SAVE_CURSORS_SECONDS, ReporterFeed
from testorch_core.errors import StorageFailedError, Tally, refuse
from testorch_core.events import RUNNING, SERVER_SOURCE, RecordBatch, Source, WireEvent
from testorch_core.gate import Gate
from testorch_core.interfaces.reporter import Reporter
from testorch_core.interfaces.storage import EventStore, RunFilter
from testorch_core.items import Decision, Item, Submission
from testorch_core.protocol import STORAGE_RETRY_MS
from testorch_core.registry import RunRegistry
from testorch_core.runs import ACTIVE, RunStatus
from testorch_core.summary import statistics_of
from testorch_core.tail import LogTail

DEFAULT_WINDOW = 200
RATE_SECONDS = 10


def new_id() -> str:
    """A random identifier of 96 bits, for runs and for the server's own events."""
    return secrets.token_hex(12)


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Orchestrator:
    """One node's live state, over a store that is open.

    `run` is its task; everything else may be called once that has started. Methods that change something return after
    the commit. Errors of content are `RefusedError`s.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        gate: Gate,
        reporters: Sequence[Reporter],
        options: ServerOptions,
        log: Any,
        clock_ms: Callable[[], int] = wall_clock_ms,
        make_id: Callable[[], str] = new_id,
    ) -> None:
        self.gate = gate
        self.options = options
        self.log = log
        self.clock_ms = clock_ms
        self.new_id = make_id
        self.refusals = Tally()
        self.clients: set[str] = set()
        self._store = store
        self._registry = RunRegistry(store, finished_kept=options.finished_runs_kept)
        self._reporters = reporters
        self._feeds: list[ReporterFeed] = []
        self._committer: Committer
        self._tail: LogTail
        self._nursery: trio.Nursery
        self._present: dict[tuple[str, str, str], str] = {}
        self._is_running = False
        self._recent: deque[tuple[float, int]] = deque()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit, deliver and keep time until cancelled; call `drain` first, or what has not been committed is lost."""
        self._tail = LogTail(self._store, await self._store.heads())
        self._committer = Committer(
            self._store,
            self._registry,
            max_queued_events=self.options.max_queued_events,
            max_commit_events=self.options.max_commit_events,
            clock_ms=self.clock_ms,
            new_id=self.new_id,
            publish=self._publish,
            cursors=lambda: [cursor for feed in self._feeds for cursor in feed.unsaved()],
            log=self.log,
        )
        try:
            await self._run(task_status)
        finally:
            self._is_running = False

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as self._nursery:
            for reporter in self._reporters:
                feed = ReporterFeed(reporter, self._store, self._tail, self.log)
                await feed.open()
                self._feeds.append(feed)
                self._nursery.start_soon(feed.run, name=f"feed of {reporter.name}")
            await self._nursery.start(self._committer.run)
            self._nursery.start_soon(self._save_cursors)
            self._is_running = True
            await self._expect_returns()
            task_status.started()

    async def drain(self, seconds: float) -> None:
        """Commit what has been queued and let the reporters catch up, for at most `seconds`; then save the cursors."""
        with trio.move_on_after(seconds):
            await self._ask(Decision("", lambda ledger: None))
            for feed in self._feeds:
                await feed.caught_up()
        with trio.move_on_after(seconds):
            for feed in self._feeds:
                await feed.save()

    # What clients do.

    async def submit(self, submission: Submission) -> None:
        """Queue events; `submission.done` tells when they are committed. Waits while the queue is full."""
        if self._registry.get(submission.project, submission.run_id) is None:
            await self._load(submission.project, submission.run_id)
        await self._committer.submit(submission)

    async def start_run(
        self, project: str, request: Mapping[str, Any], *, participant: str, source: Source
    ) -> RunStatus:
        """Open or join a run; see `lifecycle.start`."""
        asked = request.get("runId")
        run_id = await self._ask(
            Decision(
                project,
                functools.partial(
                    lifecycle.start, project=project, request=request, participant=participant, source=source
                ),
                runs=[asked] if asked else [],
                keys=[request["key"]] if "key" in request else [],
            )
        )
        self._present[project, run_id, participant] = source.connection
        return self.status(project, run_id)

    async def end_run(
        self, project: str, run_id: str, *, participant: str, source: Source, force: bool = False
    ) -> RunStatus:
        """End the participant's part; see `lifecycle.end`."""
        await self._decide(lifecycle.end, project, run_id, participant=participant, source=source, force=force)
        self._present.pop((project, run_id, participant), None)
        state = self._registry.get(project, run_id)
        if state is not None and lifecycle.is_waiting_for_more(state.head):
            self._later(self.options.join_timeout_seconds, lifecycle.give_up_waiting, project, run_id)
        return self.status(project, run_id)

    async def cancel_run(self, project: str, run_id: str, *, source: Source, reason: str | None) -> RunStatus:
        """End a run at once, as interrupted."""
        await self._decide(lifecycle.cancel, project, run_id, source=source, reason=reason)
        return self.status(project, run_id)

    def entered(self, project: str, run_id: str, participant: str, connection: str) -> None:
        """A participant is present on a connection, without having said `startTestRun`: its events opened the run."""
        self._present.setdefault((project, run_id, participant), connection)

    async def presence(self, project: str, kind: str, payload: Mapping[str, Any], *, source: Source) -> None:
        """Write that a client came or went. A store that can't keep it now loses only this note, which is logged."""
        if not self._is_running:
            return  # a session that outlived the drain; its client is found missing after the next start
        item: Item = Decision(project, lambda ledger: ledger.note_presence(project, kind, payload, source=source))
        await self._committer.submit(item)
        await item.done.wait()
        if item.failure is not None:
            self.log.warning("presence_not_stored", type=kind, error=item.failure.message)

    async def host_event(self, project: str, wire: WireEvent, *, source: Source) -> None:
        """Write a presence event that an embedding host has sent. Raises `RefusedError` (`storage_failed`)."""
        await self._ask(
            Decision(
                project,
                lambda ledger: ledger.record(project, None, wire, b"", received_at=self.clock_ms(), source=source),
            )
        )

    async def departed(self, project: str, run_id: str, *, participant: str, source: Source) -> None:
        """A participant's connection has gone without an `endTestRun`.

        A run that the connection had opened implicitly loses it at once; any other after a grace in which it may return.
        """
        address = (project, run_id, participant)
        if not self._is_running or self._present.get(address) != source.connection:
            return
        del self._present[address]
        state = self._registry.get(project, run_id)
        if state is not None and state.head.implicit:
            await self._decide(
                lifecycle.leave, project, run_id, participant=participant, source=source, reason="disconnected"
            )
        else:
            self._later(self.options.lost_grace_seconds, self._lose, project, run_id, participant=participant)

    # What clients ask.

    def status(self, project: str, run_id: str) -> RunStatus:
        """A run from memory. Raises `RefusedError` (`unknown_run`)."""
        found = self.snapshot().get((project, run_id))
        if found is None:
            raise refuse("unknown_run", f"no run `{run_id}` in project `{project}`")
        return found

    def snapshot(self) -> Mapping[tuple[str, str], RunStatus]:
        """The statuses as of the last commit, by (project, run id); immutable, safe from any thread."""
        return self._registry.statuses

    async def query_run(self, project: str, run_id: str) -> RunStatus:
        """A run from memory or from the store. Raises `RefusedError` (`unknown_run`, `storage_failed`)."""
        if (project, run_id) not in self.snapshot():
            row = await _answered(self._store.run, project, run_id)
            if row is not None:
                stored: RunStatus = row.run_status()
                return stored
        return self.status(project, run_id)

    async def active_runs(self, project: str | None = None) -> list[RunStatus]:
        """The open runs, the oldest first, of one project or of all."""
        found = {(one.project, one.run_id): one for one in self.snapshot().values()}
        cursor: str | None = None
        while True:
            page = await _answered(
                self._store.runs, RunFilter(project=project, status=RUNNING), limit=200, cursor=cursor
            )
            for row in page.rows:
                found.setdefault((row.project, row.run_id), row.run_status())
            cursor = page.next
            if cursor is None:
                break
        wanted = (one for one in found.values() if not one.is_over and project in (None, one.project))
        return sorted(wanted, key=lambda one: (one.started_at or 0, one.run_id))

    async def statistics(self, project: str | None = None, *, window: int = DEFAULT_WINDOW) -> dict[str, Any]:
        """Statistics over the newest `window` runs, and what the server knows of itself."""
        page = await _answered(self._store.runs, RunFilter(project=project), limit=window)
        return {
            "project": project,
            "window": window,
            **statistics_of(page.rows),
            "eventsPerSecond": self._events_per_second(),
            "connectedClients": len(self.clients),
            "refusals": dict(self.refusals.by_code),
            "reporters": {feed.reporter.name: feed.counts.delivered for feed in self._feeds},
        }

    # Inside.

    async def _ask(self, decision: Decision[Any]) -> Any:
        await self._committer.submit(decision)
        await decision.answer()
        return decision.result

    async def _decide(self, decide: Callable[..., None], project: str, run_id: str, **facts: Any) -> None:
        decision = functools.partial(decide, project=project, run_id=run_id, **facts)
        await self._ask(Decision(project, decision, runs=[run_id]))

    async def _load(self, project: str, run_id: str) -> None:
        """Fold a run that is not in memory before its events are queued, so that only those who touch it wait for it."""
        try:
            await self._registry.ensure(project, run_id)
        except StorageFailedError:
            return  # the committer will meet the same failure, and tells the client

    def _later(self, seconds: float, decide: Callable[..., None], project: str, run_id: str, **facts: Any) -> None:
        async def wait_and_decide() -> None:
            await trio.sleep(seconds)
            decision = Decision(
                project,
                functools.partial(decide, project=project, run_id=run_id, source=SERVER_SOURCE, **facts),
                runs=[run_id],
            )
            await self._committer.submit(decision)

        self._nursery.start_soon(wait_and_decide)

    def _lose(self, ledger: lifecycle.Ledger, project: str, run_id: str, participant: str, source: Source) -> None:
        if (project, run_id, participant) not in self._present:
            lifecycle.leave(ledger, project, run_id, participant=participant, source=source, reason="lost")

    async def _expect_returns(self) -> None:
        """Give the participants of runs that a dead server left open a time to come back."""
        left_open = await self.active_runs()
        self._registry.show(left_open)
        for status in left_open:
            for one in status.participants:
                if one["state"] == ACTIVE:
                    self._later(
                        self.options.resume_seconds, self._lose, status.project, status.run_id, participant=one["id"]
                    )
            if not any(one["state"] == ACTIVE for one in status.participants):
                self._later(self.options.join_timeout_seconds, lifecycle.give_up_waiting, status.project, status.run_id)

    async def _save_cursors(self) -> None:
        while True:
            await trio.sleep(SAVE_CURSORS_SECONDS)
            for feed in self._feeds:
                await feed.save()

    def _publish(self, batches: Sequence[RecordBatch]) -> None:
        count = sum(batch.count for batch in batches)
        self._recent.append((trio.current_time(), count))
        self._forget_old_rates()
        self._tail.publish(batches)

    def _forget_old_rates(self) -> None:
        while self._recent and self._recent[0][0] < trio.current_time() - RATE_SECONDS:
            self._recent.popleft()

    def _events_per_second(self) -> float:
        self._forget_old_rates()
        return round(sum(count for _, count in self._recent) / RATE_SECONDS, 1)


async def _answered(query: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """A query's answer; a store that can't answer now becomes a temporary refusal."""
    try:
        return await query(*args, **settings)
    except StorageFailedError as failure:
        raise refuse("storage_failed", str(failure), temporary=True, retry_after_ms=STORAGE_RETRY_MS) from failure
