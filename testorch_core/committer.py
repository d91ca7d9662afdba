"""Group commit: whatever queued up while the last commit ran becomes the next one. No timer, no artificial delay.

A lone event commits at once, a flood in large batches. Nothing is told to anybody before its commit has returned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from testorch_core.errors import (
    BehindError,
    DuplicatesError,
    KnownEvent,
    Refusal,
    StorageFailedError,
)
from testorch_core.events import RecordBatch
from testorch_core.interfaces.storage import Commit, Cursor, EventStore, LockedLog
from testorch_core.items import Item, StreamSubmission, grouped
from testorch_core.lanes import Lanes
from testorch_core.protocol import STORAGE_RETRY_MS
from testorch_core.registry import RunRegistry
from testorch_core.transaction import Bounds, PlainId, Transaction

CATCH_UP_EVENTS = 2_000

SMALL_EVENTS = 100
SMALL_BYTES = 64 * 1024
"""What a connection may still queue when others have filled the queue."""


class Committer:
    """Turns queued items into commits, one at a time. What one connection sent keeps its order.

    `publish` is called after every commit with its batches, when the registry shows it already. `cursors` are saved
    along with each commit.
    """

    def __init__(
        self,
        store: EventStore,
        registry: RunRegistry,
        *,
        max_queued_events: int,
        max_queued_bytes: int,
        max_commit_events: int,
        bounds: Bounds,
        clock_ms: Callable[[], int],
        new_id: Callable[[], str],
        publish: Callable[[Sequence[RecordBatch]], None],
        cursors: Callable[[], Sequence[Cursor]],
        log: Any,
    ) -> None:
        self._store = store
        self._registry = registry
        self._max_queued = max_queued_events
        self._max_queued_bytes = max_queued_bytes
        self._max_commit = max_commit_events
        self._bounds = bounds
        self._clock_ms = clock_ms
        self._new_id = new_id
        self._publish = publish
        self._cursors = cursors
        self._log = log
        self._queue = Lanes()
        self._arrivals = 0
        self._outstanding: dict[Item, int] = {}
        """What is not done, in the order of arrival, each with its number. It is done in another order: see `Lanes`."""
        self._awaited: deque[tuple[int, trio.Event]] = deque()
        self._queued = 0
        self._queued_bytes = 0
        self._arrived = trio.Event()
        self._space = trio.lowlevel.ParkingLot()
        self._heads: dict[str, int] = {}

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for a commit and none is under way."""
        return self._queued == 0

    def grow(self, item: StreamSubmission, more: StreamSubmission) -> bool:
        """Let a queued submission take in one that follows it. False if that can't be: then the other is to be queued."""
        if item.is_taken or item.weight + more.weight > self._max_commit or self._is_full(more):
            return False
        if not more.follows(item):
            return False
        item.grow(more)
        self._queued += more.weight
        self._queued_bytes += more.size_bytes
        return True

    async def submit(self, item: Item) -> None:
        """Queue an item; waits while the queue is full, which is how back-pressure reaches a client.

        A small item of a connection that has nothing else in the queue is let in all the same, up to twice what fills it:
        who fills it must not make the others wait for room as well. When cancelled while waiting, the item is not queued.
        """
        while self._queued and self._is_full(item) and not self._may_pass(item):
            await self._space.park()
        self._arrivals += 1
        self._outstanding[item] = self._arrivals
        self._queue.put(item)
        self._queued += item.weight
        self._queued_bytes += item.size_bytes
        self._arrived.set()

    async def settled(self) -> None:
        """Wait until everything that is queued now is committed, or refused."""
        if not self._outstanding:
            await trio.lowlevel.checkpoint()
            return
        reached = trio.Event()
        self._awaited.append((self._arrivals, reached))
        await reached.wait()

    def _may_pass(self, item: Item) -> bool:
        is_small = item.weight <= SMALL_EVENTS and item.size_bytes <= SMALL_BYTES
        has_room = self._queued < 2 * self._max_queued and self._queued_bytes < 2 * self._max_queued_bytes
        return is_small and has_room and item.lane not in self._queue

    def _is_full(self, item: Item) -> bool:
        too_many = self._queued + item.weight > self._max_queued
        return too_many or self._queued_bytes + item.size_bytes > self._max_queued_bytes

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit for ever. A store that raises what it may not raise ends it, and with it the server."""
        self._heads = dict(await self._store.heads())
        task_status.started()
        while True:
            await self._arrived.wait()
            items = self._take()
            # Shielded: what was taken is brought to its end and answered, even while the server is being cancelled;
            # bounded, because the store bounds its own waits.
            with trio.CancelScope(shield=True):
                await self._commit(items)
            self._done(items)
            self._queued -= sum(item.weight for item in items)
            self._queued_bytes -= sum(item.size_bytes for item in items)
            self._space.unpark_all()
            if not self._queue:
                self._arrived = trio.Event()

    def _done(self, items: Sequence[Item]) -> None:
        for item in items:
            item.done.set()
            del self._outstanding[item]
        oldest = next(iter(self._outstanding.values()), self._arrivals + 1)
        while self._awaited and self._awaited[0][0] < oldest:
            self._awaited.popleft()[1].set()

    def _take(self) -> list[Item]:
        items = self._queue.take(self._max_commit)
        for item in items:
            item.is_taken = True
        return items

    async def _commit(self, items: Sequence[Item]) -> None:
        try:
            for item in items:
                for run_id in item.runs():
                    if self._registry.get(item.project, run_id) is None:
                        await self._registry.ensure(item.project, run_id)
                for key in item.run_keys():
                    await self._registry.ensure_key(item.project, key)
            transaction, commit = await self._store_all(items)
        except StorageFailedError as failure:
            self._log.error("commit_failed", error=str(failure), items=len(items))
            words = f"nothing was stored: {failure}"
            refusal = Refusal("storage_failed", words, temporary=True, retry_after_ms=STORAGE_RETRY_MS)
            for item in items:
                item.failure = refusal
            return
        self._registry.publish(transaction.merge())
        for part in commit.slices:
            self._heads[part.project] = part.head
        self._publish([batch for part in commit.slices for batch in part.batches])

    async def _store_all(self, items: Sequence[Item]) -> tuple[Transaction, Commit]:
        known: dict[PlainId, bytes] = {}
        while True:
            transaction, commit = self._build(items, known)
            try:
                if transaction.count:
                    await self._store.append(commit)
                return transaction, commit
            except DuplicatesError as duplicates:
                _learn(known, duplicates.known)
            except BehindError:
                return await self._store_locked(items, known)

    async def _store_locked(self, items: Sequence[Item], known: dict[PlainId, bytes]) -> tuple[Transaction, Commit]:
        """Another node was quicker: lock the heads first, read what was missed, and only then fold and append."""
        projects = sorted({item.project for item in items})
        while True:
            async with self._store.locked(projects) as log:
                for project in projects:
                    await self._catch_up(log, project)
                transaction, commit = self._build(items, known)
                try:
                    if transaction.count:
                        await log.append(commit)
                    return transaction, commit
                except DuplicatesError as duplicates:
                    _learn(known, duplicates.known)

    async def _catch_up(self, log: LockedLog, project: str) -> None:
        head = await log.head(project)
        at = self._heads.get(project, 0)
        while at < head:
            batches = await log.read(project, after=at, limit=CATCH_UP_EVENTS)
            for batch in batches:
                self._registry.catch_up(batch)
            at = batches[-1].last_offset
            self._heads[project] = at
            self._publish(batches)

    def _build(self, items: Sequence[Item], known: dict[PlainId, bytes]) -> tuple[Transaction, Commit]:
        transaction = Transaction(
            self._registry, self._heads, known=known, now_ms=self._clock_ms(), new_id=self._new_id, bounds=self._bounds
        )
        for item in grouped(items):
            item.apply(transaction)
        return transaction, transaction.commit(self._cursors())


def _learn(known: dict[PlainId, bytes], stored: Iterable[KnownEvent]) -> None:
    """Take duplicates in. Raises `StorageFailedError` when they say nothing new: the next try would fail in the same way."""
    before = len(known)
    for one in stored:
        known[one.project, one.run_id, one.event_id] = one.content_hash
    if len(known) == before:
        raise StorageFailedError("the store refuses events as duplicates, and does not say which")
