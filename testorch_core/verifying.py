"""Folds a stored log again and compares: with the stored state of its runs, their results, and their streams' receipts.

What it holds a store to is what it must have kept: offsets and every stream's `seq` without a hole, no plain event twice,
and state that is exactly the fold of the log. It changes nothing, and may run beside a server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from testorch_core import events as ev
from testorch_core.errors import UsageError
from testorch_core.events import SERVER_TYPES, RecordBatch
from testorch_core.fold import Draft
from testorch_core.interfaces.storage import EventStore, ResultFilter, RunFilter
from testorch_core.results import ResultRow, RunRow
from testorch_core.runs import FOLD_VERSION, RunState
from testorch_core.text import clip

PAGE: Final = 1_000
MAX_TRIES: Final = 3
"""How often a run is verified that changes meanwhile, beside a server that works on it."""

_RESULT_FIELDS: Final = ("final", "status", "ok", "outcome", "duration_ms")


@dataclass(slots=True)
class Verdict:
    """What was found of one run, or of a project's log as a whole (`run_id` is None): every difference, in words."""

    project: str
    run_id: str | None
    events: int = 0
    tests: int = 0
    streams: int = 0
    receipts: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.differences

    def payload(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "project": self.project,
            "runId": self.run_id,
            "events": self.events,
            "tests": self.tests,
            "streams": self.streams,
            "receipts": self.receipts,
            "differences": self.differences,
        }


async def verify_project(store: EventStore, project: str) -> Verdict:
    """Read a project's log from end to end: offsets rise without a hole up to the head. Raises `UsageError`."""
    heads = await store.heads()
    if project not in heads:
        raise UsageError(
            f"no project `{project}`; there are {', '.join(f'`{one}`' for one in sorted(heads)) or 'none'}"
        )
    verdict, at, head = Verdict(project, None), 0, heads[project]
    while batches := await store.read(project, after=at, limit=PAGE):
        for batch in batches:
            if batch.first_offset != at + 1:
                verdict.differences.append(f"offset {at} is followed by {batch.first_offset}")
            verdict.differences += _flaws_of(batch)
            verdict.events += batch.count
            at = batch.last_offset
    if at < head:
        verdict.differences.append(f"the head is {head}, but the log ends with offset {at}")
    return verdict


async def verify_run(store: EventStore, project: str, run_id: str) -> Verdict:
    """Fold one run again and compare. Raises `UsageError` for one that isn't there."""
    for _ in range(MAX_TRIES):
        row = await store.run(project, run_id)
        if row is None:
            raise UsageError(f"no run `{run_id}` in project `{project}`; see `testorch runs`")
        check = _Check(store, row)
        await check.run()
        now = await store.run(project, run_id)
        if check.verdict.is_clean or now is None or now.last_offset == row.last_offset:
            break
    return check.verdict


async def run_ids(store: EventStore, project: str | None) -> list[tuple[str, str]]:
    """(project, run id) of every run, the newest first."""
    found: list[tuple[str, str]] = []
    cursor: str | None = None
    while True:
        page = await store.runs(RunFilter(project=project), limit=PAGE, cursor=cursor)
        found += [(row.project, row.run_id) for row in page.rows]
        if page.next is None:
            return found
        cursor = page.next


class _Check:
    """One run's log folded once more, beside what is stored of it."""

    def __init__(self, store: EventStore, row: RunRow) -> None:
        self._store = store
        self._row = row
        self._draft = Draft(RunState(row.project, row.run_id))
        self._plain: set[str] = set()
        self._at: dict[str, int] = {}
        self._receipts: dict[str, Mapping[str, Any]] = {}
        self.verdict = Verdict(row.project, row.run_id)

    async def run(self) -> None:
        await self._fold()
        self._compare_status()
        await self._compare_results()
        await self._compare_streams()

    def _differs(self, what: str, stored: Any, folded: Any) -> None:
        self.verdict.differences.append(f"{what}: stored {_short(stored)}, folded {_short(folded)}")

    async def _fold(self) -> None:
        project, run_id, last = self._row.project, self._row.run_id, self._row.last_offset
        after = 0
        while after < last and (
            batches := await self._store.read(project, after=after, limit=PAGE, run_id=run_id)
        ):  # fmt: skip
            for batch in batches:
                if batch.first_offset <= last:
                    self.verdict.differences += _flaws_of(batch)
                    self._look_at(batch)
                    self._draft.replay(batch)
            after = batches[-1].last_offset
        self.verdict.events = self._draft.head.events
        self.verdict.tests = self._draft.head.tests

    def _look_at(self, batch: RecordBatch) -> None:
        stream = batch.source.stream
        for wire in batch.wires():
            kind, payload = wire["type"], wire["payload"]
            if kind == ev.STREAM_END:
                self._receipts[str(payload.get("streamId"))] = payload
            seq = wire.get("seq") if kind != ev.RUN_REFUSED else payload.get("seq")
            if stream is not None and seq is not None:
                self._follow(stream, seq)
            elif stream is None and kind not in SERVER_TYPES:
                if wire["id"] in self._plain:
                    self.verdict.differences.append(f"plain event `{wire['id']}` is in the log twice")
                self._plain.add(wire["id"])

    def _follow(self, stream: str, seq: int) -> None:
        expected = self._at.get(stream, 0) + 1
        if seq != expected:
            self.verdict.differences.append(f"stream `{stream}`: seq {seq} where {expected} should be")
        self._at[stream] = max(seq, expected - 1)

    def _compare_status(self) -> None:
        if self._row.fold_version != FOLD_VERSION:
            return  # an older program's fold; the log is checked all the same
        stored = orjson.loads(self._row.document)
        folded = orjson.loads(orjson.dumps(self._draft.status().payload()))
        for key in sorted(stored.keys() | folded.keys()):
            if stored.get(key) != folded.get(key):
                self._differs(f"status `{key}`", stored.get(key), folded.get(key))

    async def _compare_results(self) -> None:
        folded = {(row.test_id, row.attempt): row for row in self._draft.result_rows()}
        async for stored in self._stored_results():
            place = f"result of `{clip(stored.test_id, 200)}`, attempt {stored.attempt}"
            mine = folded.pop((stored.test_id, stored.attempt), None)
            if mine is None:
                self.verdict.differences.append(f"{place}: stored, but not in the log")
            else:
                for what, theirs, ours in _result_differences(stored, mine):
                    self._differs(f"{place}, {what}", theirs, ours)
        for test_id, attempt in folded:
            self.verdict.differences.append(
                f"result of `{clip(test_id, 200)}`, attempt {attempt}: in the log, not stored"
            )

    async def _stored_results(self) -> Any:
        cursor: str | None = None
        while True:
            page = await self._store.results(
                self._row.project, self._row.run_id, ResultFilter(), limit=PAGE, cursor=cursor
            )  # fmt: skip
            for row in page.rows:
                yield row
            if page.next is None:
                return
            cursor = page.next

    async def _compare_streams(self) -> None:
        for participant in self._draft.status().participants:
            state = self._draft.stream(participant["id"])
            if state is None:
                continue
            self.verdict.streams += 1
            row = await self._store.stream(self._row.project, state.stream_id)
            folded = {"acked_seq": state.acked_seq, "accepted": state.accepted, "refused": state.refused,
                      "digest": state.digest.hex(), "run_id": self._row.run_id}  # fmt: skip
            for name, value in folded.items():
                stored = getattr(row, name, None)
                if (stored.hex() if isinstance(stored, bytes) else stored) != value:
                    self._differs(f"stream `{state.stream_id}`, {name}", stored, value)
            self._compare_receipt(state.stream_id, folded)

    def _compare_receipt(self, stream_id: str, folded: Mapping[str, Any]) -> None:
        receipt = self._receipts.get(stream_id)
        if receipt is None:
            return
        self.verdict.receipts += 1
        for theirs, ours in (("lastSeq", "acked_seq"), ("accepted",) * 2, ("refused",) * 2, ("digest",) * 2):
            if receipt.get(theirs) != folded[ours]:
                self._differs(f"receipt of stream `{stream_id}`, {theirs}", receipt.get(theirs), folded[ours])


def _flaws_of(batch: RecordBatch) -> list[str]:
    count = len(batch.wires())
    if count == batch.count:
        return []
    return [f"the batch at offset {batch.first_offset} should hold {batch.count} events, and holds {count}"]


def _result_differences(stored: ResultRow, folded: ResultRow) -> Iterator[tuple[str, Any, Any]]:
    for name in _RESULT_FIELDS:
        if getattr(stored, name) != getattr(folded, name):
            yield name, getattr(stored, name), getattr(folded, name)
    for name in ("begin", "end"):
        ours, theirs = getattr(folded, name), getattr(stored, name)
        if (ours is None) != (theirs is None) or (ours is not None and orjson.loads(ours) != orjson.loads(theirs)):
            yield name, theirs, ours


def _short(value: Any) -> str:
    shown = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return f"`{clip(str(shown), 200)}`" if shown is not None else "nothing"
