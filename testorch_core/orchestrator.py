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
from testorch_core.attendance import Attendance
from testorch_core.audit import Audit
from testorch_core.committer import Committer
from testorch_core.config import ServerOptions
from testorch_core.crowd import Crowd
from testorch_core.delivery import SAVE_CURSORS_SECONDS, ReporterFeed
from testorch_core.errors import InvalidCursorError, StorageFailedError, Tally, refuse
from testorch_core.events import (
    AUDIT_PROJECT,
    CLIENT_CONNECT,
    DEFAULT_PROJECT,
    RESERVED_PREFIX,
    RUNNING,
    SERVER_SOURCE,
    RecordBatch,
    Source,
    WireEvent,
)
from testorch_core.gate import Gate
from testorch_core.interfaces.reporter import Reporter
from testorch_core.interfaces.storage import EventStore, Page, ResultFilter, RunFilter
from testorch_core.items import Decision, Item, StreamSubmission, Submission
from testorch_core.protocol import STORAGE_RETRY_MS
from testorch_core.registry import RunRegistry
from testorch_core.results import ResultRow, RunRow
from testorch_core.runs import RunStatus
from testorch_core.streams import StreamState
from testorch_core.summary import statistics_of
from testorch_core.tail import LogPage, LogTail
from testorch_core.tickets import Tickets
from testorch_core.transaction import Bounds

DEFAULT_WINDOW = 200
RATE_SECONDS = 10
LEAVING_AT_ONCE = 128
"""Sessions that end at the same time: when thousands do at once, those that go on must have their turns between."""

FEATURES = ("events", "streams", "subscriptions")
"""What a client may rely on, beyond the plain conversation."""


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
        self.leaving = trio.CapacityLimiter(LEAVING_AT_ONCE)
        self.crowd = Crowd(options.max_connections_per_principal)
        self.tickets = Tickets()
        self.audit = Audit(self._write_audit, enabled=gate.authenticates or gate.admits)
        self.subscribers = 0
        """Subscriptions that are open on this node."""
        self._store = store
        self._registry = RunRegistry(store, finished_kept=options.finished_runs_kept)
        self._reporters = reporters
        self._feeds: list[ReporterFeed] = []
        self._committer: Committer
        self._tail: LogTail
        self._nursery: trio.Nursery
        self.attendance: Attendance
        self._is_running = False
        self._recent: deque[tuple[float, int]] = deque()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit, deliver and keep time until cancelled; call `drain` first, or what has not been committed is lost."""
        self._tail = LogTail(self._store, await self._store.heads())
        self._committer = Committer(
            self._store,
            self._registry,
            max_queued_events=self.options.max_queued_events,
            max_queued_bytes=self.options.max_queued_bytes,
            max_commit_events=self.options.max_commit_events,
            bounds=Bounds(
                max_projects=self.options.max_projects,
                max_open_runs=self.options.max_open_runs,
                max_participants=self.options.max_participants,
                max_run_tests=self.options.max_run_tests,
            ),
            clock_ms=self.clock_ms,
            new_id=self.new_id,
            publish=self._publish,
            cursors=lambda: [cursor for feed in self._feeds for cursor in feed.unsaved()],
            log=self.log,
        )
        await self._run(task_status)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as self._nursery:
            for reporter in self._reporters:
                feed = ReporterFeed(reporter, self._store, self._tail, self.log)
                await feed.open()
                self._feeds.append(feed)
                self._nursery.start_soon(feed.run, name=f"feed of {reporter.name}")
            await self._nursery.start(self._committer.run)
            self.attendance = Attendance(
                self.options,
                find_stream=functools.partial(_answered, self._store.stream),
                settled=self._settled,
                opener_of=self._opener_of,
                decide=self.decide,
                nursery=self._nursery,
            )
            self._nursery.start_soon(self._save_cursors)
            self._nursery.start_soon(self.audit.run)
            self._is_running = True
            self._nursery.start_soon(self._notice_the_end)
            await self._expect_returns()
            task_status.started()

    async def _notice_the_end(self) -> None:
        """From the moment of cancellation nothing is asked of tasks that have ended: they would never answer."""
        try:
            await trio.sleep_forever()
        finally:
            self._is_running = False
            self.attendance.close()

    async def drain(self, seconds: float) -> None:
        """Commit what has been queued and let the reporters catch up, for at most `seconds`; then save the cursors."""
        with trio.move_on_after(seconds):
            await self.audit.flush()
            await self._settled()
            for feed in self._feeds:
                await feed.caught_up()
        with trio.move_on_after(seconds):
            for feed in self._feeds:
                await feed.save()

    # What clients do.

    async def submit(self, submission: Submission | StreamSubmission) -> None:
        """Queue events; `submission.done` tells when they are committed. Waits while the queue is full."""
        await self._load(submission.project, submission.run_id)
        await self._committer.submit(submission)

    def grow(self, submission: StreamSubmission, more: StreamSubmission) -> bool:
        """Let a submission that is still queued take in one that follows it; False if it can't."""
        return self._committer.grow(submission, more)

    async def start_run(
        self, project: str, request: Mapping[str, Any], *, participant: str, source: Source
    ) -> RunStatus:
        """Open or join a run; see `lifecycle.start`."""
        asked = request.get("runId")
        if asked:
            await self._load(project, asked)
        run_id = await self._ask(
            Decision(
                project,
                functools.partial(
                    lifecycle.start, project=project, request=request, participant=participant, source=source
                ),
                runs=[asked] if asked else [],
                keys=[request["key"]] if "key" in request else [],
                lane=source.connection,
            )
        )
        self.attendance.entered(project, run_id, participant, source.connection)
        return self.status(project, run_id)

    async def end_run(
        self, project: str, run_id: str, *, participant: str, source: Source, force: bool = False
    ) -> RunStatus:
        """End the participant's part; see `lifecycle.end`."""
        await self.decide(lifecycle.end, project, run_id, participant=participant, source=source, force=force)
        self._ended(project, run_id, participant)
        return self.status(project, run_id)

    async def cancel_run(self, project: str, run_id: str, *, source: Source, reason: str | None) -> RunStatus:
        """End a run at once, as interrupted."""
        await self.decide(lifecycle.cancel, project, run_id, source=source, reason=reason)
        return self.status(project, run_id)

    async def _opener_of(self, project: str, run_id: str, stream_id: str) -> str | None:
        """The principal that opened a stream, as the log tells."""
        await self._load(project, run_id)
        stream = self.stream(project, run_id, stream_id)
        return stream.principal if stream is not None else None

    async def resume_stream(self, project: str, run_id: str, *, source: Source) -> int:
        """A stream has come back: heal what it left open. Returns the `seq` up to which it is committed."""
        participant = source.stream or source.connection
        self.attendance.entered(project, run_id, participant, source.connection)
        await self._committer.settled()  # what the connection before has sent may still be waiting, in its own lane
        await self.decide(lifecycle.resume_stream, project, run_id, participant=participant, source=source)
        stream = self.stream(project, run_id, participant)
        return 0 if stream is None else stream.acked_seq

    async def end_stream(
        self, project: str, run_id: str, request: Mapping[str, Any], *, participant: str, source: Source
    ) -> dict[str, Any]:
        """End a stream, and with it its part in the run; returns its receipt. See `lifecycle.end_stream`."""
        receipt: dict[str, Any] = await self.decide(
            lifecycle.end_stream, project, run_id, request=request, participant=participant, source=source
        )
        self._ended(project, run_id, participant)
        return receipt

    def welcome(self) -> dict[str, Any]:
        """What every client is told of this server when it says `hello`."""
        return {
            "epoch": self._store.epoch,
            "heartbeatMs": round(self.options.heartbeat_seconds * 1000),
            "maxMessageBytes": self.options.max_message_bytes,
            "maxInFlight": self.options.max_in_flight,
            "durability": self._store.durability,
            "features": FEATURES,
        }

    def stream(self, project: str, run_id: str, stream_id: str) -> StreamState | None:
        """A stream of a run that is in memory, as of the last commit."""
        state = self._registry.get(project, run_id)
        return state.streams.get(stream_id) if state is not None else None

    def connected(self, project: str, payload: Mapping[str, Any], *, source: Source) -> trio.Event:
        """Have it written that a client came. Nobody waits for that: a full queue must not keep a client from asking.

        Returns an event that is set once it is written.
        """
        written = trio.Event()

        async def note() -> None:
            await self.presence(project, CLIENT_CONNECT, payload, source=source)
            written.set()

        if self._is_running:
            self._nursery.start_soon(note)
        else:
            written.set()
        return written

    async def presence(self, project: str, kind: str, payload: Mapping[str, Any], *, source: Source) -> None:
        """Write that a client came or went, in a project that has a log already, else in the default one.

        A store that can't keep it now loses only this note, which is logged.
        """
        if not self._is_running:
            return  # a session that outlived the drain; its client is found missing after the next start
        home = project if project in self._tail.heads else DEFAULT_PROJECT
        await self._write_own(home, kind, payload, source=source)

    async def _write_audit(self, kind: str, facts: Mapping[str, Any]) -> None:
        if not self._is_running:
            return
        await self._write_own(AUDIT_PROJECT, kind, facts, source=SERVER_SOURCE)

    async def _write_own(self, project: str, kind: str, payload: Mapping[str, Any], *, source: Source) -> None:
        item: Item = Decision(
            project, lambda ledger: ledger.note_presence(project, kind, payload, source=source), lane=source.connection
        )
        await self._committer.submit(item)
        await item.done.wait()
        if item.failure is not None:
            self.log.warning("note_not_stored", type=kind, error=item.failure.message)

    async def host_event(self, project: str, wire: WireEvent, *, source: Source) -> None:
        """Write a presence event that an embedding host has sent. Raises `RefusedError` (`storage_failed`)."""
        await self._ask(
            Decision(
                project, lambda ledger: ledger.record_host_event(project, wire, source=source), lane=source.connection
            )
        )

    async def departed(self, project: str, run_id: str, *, participant: str, source: Source) -> None:
        """A participant's connection has gone without an end; see `Attendance.departed`."""
        if not self._is_running:
            return
        state = self._registry.get(project, run_id)
        implicit = state is not None and state.head.implicit and source.stream is None
        await self.attendance.departed(project, run_id, participant, source, implicit=implicit)

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

    async def run_exists(self, project: str, run_id: str) -> bool:
        """Whether the log knows a run. Raises `RefusedError` (`storage_failed`)."""
        return (project, run_id) in self.snapshot() or await _answered(self._store.run, project, run_id) is not None

    async def runs(self, where: RunFilter, *, limit: int, cursor: str | None) -> Page[RunRow]:
        """A page of runs. Raises `RefusedError` (`invalid_message` for a cursor that is none, `storage_failed`)."""
        page: Page[RunRow] = await _answered(self._store.runs, where, limit=limit, cursor=cursor)
        return page

    async def results(
        self, project: str, run_id: str, where: ResultFilter, *, limit: int, cursor: str | None
    ) -> Page[ResultRow]:
        """A page of a run's results. Raises `RefusedError` (`unknown_run`, and as `runs`)."""
        if not await self.run_exists(project, run_id):
            raise refuse("unknown_run", f"no run `{run_id}` in project `{project}`")
        page: Page[ResultRow] = await _answered(
            self._store.results, project, run_id, where, limit=limit, cursor=cursor
        )  # fmt: skip
        return page

    async def history(self, project: str, test_id: str, *, limit: int, cursor: str | None) -> Page[ResultRow]:
        """A page of one test's results, the newest run first. Raises `RefusedError` (as `runs`)."""
        page: Page[ResultRow] = await _answered(self._store.history, project, test_id, limit=limit, cursor=cursor)
        return page

    # What readers follow.

    @property
    def epoch(self) -> str:
        """A random word made with the database; another one means another log."""
        return self._store.epoch

    def head_of(self, project: str) -> int:
        """The last committed offset of a project."""
        return self._tail.heads.get(project, 0)

    def projects(self) -> list[str]:
        """The projects that have a log, without the server's own."""
        return [one for one in self._tail.heads if not one.startswith(RESERVED_PREFIX)]

    async def run_of_key(self, project: str, key: str) -> str | None:
        """The newest run with a key. Raises `RefusedError` (`storage_failed`)."""
        await _answered(self._registry.ensure_key, project, key)
        return self._registry.newest_of_key(project, key)

    def growth(self) -> trio.Event:
        """An event that is set by the next commit. Take it before reading, and nothing is missed."""
        return self._tail.growth()

    async def read_log(self, project: str, *, after: int, run_id: str | None) -> LogPage:
        """The next page of a project's log, or of one run's; see `LogTail.page`."""
        return await self._tail.page(project, after=after, run_id=run_id)

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
            "policies": self.gate.counts(),
            "reporters": {feed.reporter.name: feed.counts.delivered for feed in self._feeds},
        }

    # Inside.

    async def _settled(self) -> None:
        """Wait until everything that has been queued so far is committed."""
        await self._committer.settled()

    async def _ask(self, decision: Decision[Any]) -> Any:
        await self._committer.submit(decision)
        await decision.answer()
        return decision.result

    async def decide(self, decide: Callable[..., Any], project: str, run_id: str, **facts: Any) -> Any:
        """Have a decision of `lifecycle` about one run made and committed; returns its result."""
        await self._load(project, run_id)
        decision = functools.partial(decide, project=project, run_id=run_id, **facts)
        source: Source | None = facts.get("source")
        lane = source.connection if source is not None else None
        return await self._ask(Decision(project, decision, runs=[run_id], lane=lane))

    def _ended(self, project: str, run_id: str, participant: str) -> None:
        self.attendance.ended(project, run_id, participant)
        state = self._registry.get(project, run_id)
        if state is not None and lifecycle.is_waiting_for_more(state.head):
            self.attendance.await_more(project, run_id)

    async def _load(self, project: str, run_id: str) -> None:
        """Fold a run that is not in memory before anything about it is queued, so that only who touches it waits for it."""
        if self._registry.get(project, run_id) is not None:
            return
        try:
            await self._registry.ensure(project, run_id)
        except StorageFailedError:
            return  # the committer will meet the same failure, and tells the client

    async def _expect_returns(self) -> None:
        left_open = await self.active_runs()
        self._registry.show(left_open)
        for status in left_open:
            self.attendance.expect_back(status)

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
    except InvalidCursorError as failure:
        raise refuse("invalid_message", f"`cursor`: {failure}") from None
    except StorageFailedError as failure:
        raise refuse("storage_failed", str(failure), temporary=True, retry_after_ms=STORAGE_RETRY_MS) from failure
