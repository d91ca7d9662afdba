"""The log's readers' side: the newest batches in memory, older ones from the store, and a word when there is more."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Final

import orjson
import trio

from testorch_core.events import RecordBatch, RecordedEvent
from testorch_core.interfaces.storage import EventStore, ResultFilter
from testorch_core.results import Result
from testorch_core.runs import RunStatus

TAIL_BYTES: Final = 8 * 1024 * 1024
"""How much of a project's newest log is kept in memory for readers that keep up."""

BATCH_OVERHEAD_BYTES: Final = 500
"""What a batch takes in memory beside its body."""

PAGE_EVENTS: Final = 1_000


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of the log as readers are sent it: (offset, type, JSON) of each event, and the offset that it reaches to."""

    events: Sequence[tuple[int, str, bytes]]
    offset: int


class _Window:
    """The newest batches of one project, bounded in bytes."""

    def __init__(self) -> None:
        self.batches: deque[RecordBatch] = deque()
        self.encoded: dict[int, list[tuple[int, str, bytes]]] = {}
        """By first offset, the batches that somebody has read: each event is encoded once for all readers."""
        self.size = 0

    def add(self, batch: RecordBatch) -> None:
        self.batches.append(batch)
        self.size += _size(batch)
        while self.size > TAIL_BYTES and len(self.batches) > 1:
            oldest = self.batches.popleft()
            self.size -= _size(oldest)
            self.encoded.pop(oldest.first_offset, None)

    def newer_than(self, offset: int) -> Iterator[RecordBatch]:
        """The batches that end after an offset, in their order. A reader that keeps up is near the end."""
        newest = list(takewhile(lambda batch: batch.last_offset > offset, reversed(self.batches)))
        return reversed(newest)

    def events_of(self, batch: RecordBatch) -> list[tuple[int, str, bytes]]:
        found = self.encoded.get(batch.first_offset)
        if found is None:
            found = self.encoded[batch.first_offset] = shown(batch)
        return found


class LogTail:
    """What readers with a cursor read: nothing is dropped for a slow one, and nothing waits for one."""

    def __init__(self, store: EventStore, heads: Mapping[str, int]) -> None:
        self._store = store
        self._heads = dict(heads)
        self._windows: dict[str, _Window] = {}
        self._grown = trio.Event()

    @property
    def heads(self) -> Mapping[str, int]:
        """The last committed offset of every project."""
        return self._heads

    def publish(self, batches: Sequence[RecordBatch]) -> None:
        """Make committed batches visible and wake the readers."""
        for batch in batches:
            self._windows.setdefault(batch.project, _Window()).add(batch)
            self._heads[batch.project] = batch.last_offset
        if batches:
            self._grown.set()
            self._grown = trio.Event()

    def growth(self) -> trio.Event:
        """An event that is set by the next `publish`. Take it before looking at `heads`, and nothing is missed."""
        return self._grown

    async def page(self, project: str, *, after: int, run_id: str | None = None) -> LogPage:
        """The next page as readers are sent it, of the project or of one run of it. Raises `StorageFailedError`.

        It may begin with events at or before `after`, which the reader skips. Its offset is `after` at the head.
        """
        head = self._heads.get(project, 0)
        if after >= head:
            return LogPage((), after)
        window = self._windows.get(project)
        if window is None or window.batches[0].first_offset > after + 1:
            batches = await self._store.read(project, after=after, limit=PAGE_EVENTS, run_id=run_id)
            reached = batches[-1].last_offset if batches else head
            return LogPage([event for batch in batches for event in shown(batch)], reached)
        found: list[tuple[int, str, bytes]] = []
        reached = after
        for batch in window.newer_than(after):
            reached = batch.last_offset
            if run_id in (None, batch.run_id):
                found += window.events_of(batch)
            if len(found) >= PAGE_EVENTS:
                break
        return LogPage(found, reached)

    async def read(self, project: str, *, after: int) -> Sequence[RecordBatch]:
        """The next page of batches that end after an offset; empty at the head."""
        if after >= self._heads.get(project, 0):
            return ()
        window = self._windows.get(project)
        if window is None or window.batches[0].first_offset > after + 1:
            return await self._store.read(project, after=after, limit=PAGE_EVENTS)
        page: list[RecordBatch] = []
        count = 0
        for batch in window.newer_than(after):
            page.append(batch)
            count += batch.count
            if count >= PAGE_EVENTS:
                break
        return page


def _size(batch: RecordBatch) -> int:
    return len(batch.body) + BATCH_OVERHEAD_BYTES


def shown(batch: RecordBatch) -> list[tuple[int, str, bytes]]:
    """(offset, type, JSON) of a batch's events: what the client sent, and what the server knows of it."""
    source = {key: value for key, value in asdict(batch.source).items() if value is not None}
    facts = {"receivedAt": batch.received_at, "runId": batch.run_id, "source": source}
    return [
        (offset, wire["type"], orjson.dumps({**wire, "offset": offset, **facts}))
        for offset, wire in enumerate(batch.wires(), batch.first_offset)
    ]


class StoredRun:
    """`RunReader` over a store: pages through one run, whatever its size."""

    def __init__(self, store: EventStore, status: RunStatus) -> None:
        self._store = store
        self._status = status

    @property
    def status(self) -> RunStatus:
        return self._status

    async def results(self, *, final_only: bool = False) -> AsyncGenerator[Result, None]:
        where, cursor = ResultFilter(final_only=final_only), None
        while True:
            page = await self._store.results(
                self._status.project, self._status.run_id, where, limit=PAGE_EVENTS, cursor=cursor
            )
            for row in page.rows:
                yield Result.from_row(self._status.project, row)
            if page.next is None:
                return
            cursor = page.next

    async def events(self) -> AsyncGenerator[RecordedEvent, None]:
        after = 0
        while True:
            batches = await self._store.read(
                self._status.project, after=after, limit=PAGE_EVENTS, run_id=self._status.run_id
            )
            if not batches:
                return
            for batch in batches:
                for event in batch.events():
                    yield event
            after = batches[-1].last_offset
