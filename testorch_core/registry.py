"""The runs that are in memory: all open ones, and the finished ones that were touched last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final

import trio

from testorch_core.events import RecordBatch
from testorch_core.fold import Draft
from testorch_core.interfaces.storage import EventStore, RunFilter
from testorch_core.runs import RunState, RunStatus

Address = tuple[str, str]
"""(project, run id)."""

PAGE_EVENTS: Final = 2_000
MAX_FINISHED_TESTS: Final = 50_000
"""Tests of finished runs that are kept folded, for late events; beyond that a run is folded again when touched."""


class RunRegistry:
    """Committed run states, loaded from the log when first touched. Only the committer changes them.

    `statuses` is an immutable mapping, swapped by reference after every commit, so that any thread may read it: the open
    runs, and the finished ones that ended last.
    """

    def __init__(self, store: EventStore, *, finished_kept: int) -> None:
        self._store = store
        self._finished_kept = finished_kept
        self._states: dict[Address, RunState] = {}
        self._finished: OrderedDict[Address, int] = OrderedDict()
        self._by_key: dict[Address, str] = {}
        self._loading: dict[Address, trio.Event] = {}
        self.statuses: Mapping[Address, RunStatus] = {}
        self.open_runs = 0

    def get(self, project: str, run_id: str) -> RunState | None:
        """A run that is in memory."""
        return self._states.get((project, run_id))

    def newest_of_key(self, project: str, key: str) -> str | None:
        """The id of the newest run with a key, as far as it is in memory; see `ensure_key`."""
        return self._by_key.get((project, key))

    async def ensure(self, project: str, run_id: str) -> RunState | None:
        """The run, folded from the log unless it is in memory; None if the log doesn't know it."""
        address = (project, run_id)
        while address in self._loading:
            await self._loading[address].wait()
        if address in self._states:
            return self._states[address]
        self._loading[address] = trio.Event()
        try:
            if await self._store.run(project, run_id) is None:
                return None
            state = RunState(project, run_id)
            async for batch in self._batches(project, run_id):
                replay(state, batch)
            if (
                address not in self._states
            ):  # else a commit has published it meanwhile, and knows more than what was read
                self.publish([(state, state.status())])
            return self._states.get(address, state)
        finally:
            self._loading.pop(address).set()

    async def ensure_key(self, project: str, key: str) -> None:
        """Make `newest_of_key` know the newest run with this key, if the store has one."""
        if (project, key) in self._by_key:
            return
        page = await self._store.runs(RunFilter(project=project, key=key), limit=1)
        for row in page.rows:
            await self.ensure(project, row.run_id)

    def show(self, found: Iterable[RunStatus]) -> None:
        """Put statuses of stored runs on show without loading the runs."""
        self.statuses = {(one.project, one.run_id): one for one in found} | dict(self.statuses)
        self.open_runs = sum(not one.is_over for one in self.statuses.values())

    def publish(self, changed: Iterable[tuple[RunState, RunStatus]]) -> None:
        """Take committed states in, show them in `statuses`, and let go of finished runs that nobody has touched long."""
        statuses = dict(self.statuses)
        for state, status in changed:
            address = (state.project, state.run_id)
            self._states[address] = state
            statuses.pop(address, None)
            statuses[address] = status
            if state.head.key is not None:
                self._take_key(state)
            if state.head.is_over:
                self._finished[address] = len(state.attempts)
                self._finished.move_to_end(address)
            else:
                self._finished.pop(address, None)
        self._forget(statuses)
        self.statuses = statuses

    def _take_key(self, state: RunState) -> None:
        key = (state.project, str(state.head.key))
        other = self._states.get((state.project, self._by_key.get(key, "")))
        if other is None or (other.head.started_at or 0) <= (state.head.started_at or 0):
            self._by_key[key] = state.run_id

    def _forget(self, statuses: dict[Address, RunStatus]) -> None:
        tests = sum(self._finished.values())
        while self._finished and (tests > MAX_FINISHED_TESTS or len(self._finished) > self._finished_kept):
            address, count = self._finished.popitem(last=False)
            tests -= count
            state = self._states.pop(address)
            key = (address[0], state.head.key or "")
            if self._by_key.get(key) == address[1]:
                del self._by_key[key]
        finished = [address for address, status in statuses.items() if status.is_over]
        self.open_runs = len(statuses) - len(finished)
        for address in finished[: max(0, len(finished) - self._finished_kept)]:
            del statuses[address]

    def catch_up(self, batch: RecordBatch) -> None:
        """Fold a batch that another node has committed into the runs that are in memory; a new run comes in with it."""
        if batch.run_id is None:
            return
        state = self.get(batch.project, batch.run_id)
        if state is None:
            if not any(event.type == "run/start" for event in batch.events()):
                return
            state = RunState(batch.project, batch.run_id)
        replay(state, batch)
        self.publish([(state, state.status())])

    async def _batches(self, project: str, run_id: str) -> AsyncIterator[RecordBatch]:
        after = 0
        while True:
            batches = await self._store.read(project, after=after, limit=PAGE_EVENTS, run_id=run_id)
            if not batches:
                return
            for batch in batches:
                yield batch
            after = batches[-1].last_offset


def replay(state: RunState, batch: RecordBatch) -> None:
    """Fold a committed batch into a state; what the state has folded already (by offset) is passed over."""
    draft = Draft(state)
    draft.replay(batch)
    draft.merge()
