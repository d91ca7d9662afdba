"""Commits to hold a store to: rows and batches with sound defaults, of which a test says only what it is about."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from testorch_core.errors import KnownEvent
from testorch_core.events import PASSED, RUNNING, TEST_OUTPUT, RecordBatch, Source, WireEvent
from testorch_core.interfaces.storage import Commit, Cursor, Slice
from testorch_core.results import ResultRow, RunRow
from testorch_core.runs import FOLD_VERSION
from testorch_core.streams import StreamRow

PROJECT: Final = "default"
RUN: Final = "run-1"
NOW_MS: Final = 1_766_000_000_000
SOURCE: Final = Source("connection-1")


def event(event_id: str, text: str = "hello") -> WireEvent:
    """A wire event whose content depends on both arguments."""
    return {"id": event_id, "type": TEST_OUTPUT, "timestamp": NOW_MS, "payload": {"text": text}}


def hash_of(wire: WireEvent) -> bytes:
    """A hash of an event's content, as the core makes one for plain events."""
    return hashlib.blake2b(orjson.dumps(wire), digest_size=16).digest()


def plain(event_id: str, text: str = "hello", *, run_id: str = RUN, project: str = PROJECT) -> KnownEvent:
    """The address and the hash of `event(event_id, text)`."""
    return KnownEvent(project, run_id, event_id, hash_of(event(event_id, text)))


def batch(
    first_offset: int,
    events: Sequence[WireEvent],
    *,
    project: str = PROJECT,
    run_id: str | None = RUN,
    source: Source = SOURCE,
    received_at: int = NOW_MS,
    last_seq: int | None = None,
) -> RecordBatch:
    """A record batch of the given events."""
    return RecordBatch(
        project=project,
        first_offset=first_offset,
        count=len(events),
        run_id=run_id,
        source=source,
        received_at=received_at,
        body=orjson.dumps(list(events)),
        last_seq=last_seq,
    )


def run_row(
    run_id: str = RUN,
    *,
    project: str = PROJECT,
    key: str | None = None,
    status: str = RUNNING,
    started_at: int = NOW_MS,
    ended_at: int | None = None,
    last_offset: int = 1,
    summary: bytes | None = None,
) -> RunRow:
    """A run's row. Its document is JSON, though not a run's status: a store doesn't look inside."""
    return RunRow(
        project=project,
        run_id=run_id,
        key=key,
        status=status,
        started_at=started_at,
        ended_at=ended_at,
        last_offset=last_offset,
        fold_version=FOLD_VERSION,
        document=orjson.dumps({"runId": run_id, "offset": last_offset}),
        summary=summary,
    )


def result_row(test_id: str, attempt: int = 1, *, run_id: str = RUN, **facts: Any) -> ResultRow:
    """A passed, final attempt of one test, unless `facts` say otherwise."""
    row = ResultRow(
        run_id=run_id,
        test_id=test_id,
        attempt=attempt,
        final=True,
        status=PASSED,
        ok=True,
        outcome="expected",
        duration_ms=1.5,
        begin=orjson.dumps({"testId": test_id, "attempt": attempt}),
        end=orjson.dumps({"testId": test_id, "status": PASSED}),
    )
    return row._replace(**facts)


def stream_row(stream_id: str = "stream-1", *, acked_seq: int = 1, run_id: str = RUN, **facts: Any) -> StreamRow:
    """How far a stream has come."""
    row = StreamRow(
        project=PROJECT,
        stream_id=stream_id,
        run_id=run_id,
        acked_seq=acked_seq,
        accepted=acked_seq,
        refused=0,
        duplicates=0,
        digest=bytes(range(32)),
        state="open",
    )
    return replace(row, **facts)


def slice_of(
    after: int,
    ids: Iterable[str],
    *,
    project: str = PROJECT,
    run_id: str = RUN,
    text: str = "hello",
    run: RunRow | None = None,
    results: Sequence[ResultRow] = (),
    streams: Sequence[StreamRow] = (),
) -> Slice:
    """A slice that follows the offset `after`: one batch of plain events with these ids, and their run's row."""
    events = [event(one, text) for one in ids]
    row = run or run_row(run_id, project=project, last_offset=after + len(events))
    return Slice(
        project=project,
        expected_head=after,
        batches=[batch(after + 1, events, project=project, run_id=row.run_id)] if events else [],
        runs=[row],
        results=results,
        streams=streams,
        plain=[KnownEvent(project, row.run_id, one["id"], hash_of(one)) for one in events],
    )


def commit_of(*slices: Slice, cursors: Sequence[Cursor] = ()) -> Commit:
    """A commit of these slices."""
    return Commit(slices=slices, cursors=cursors)


def cursor(offset: int, *, reporter: str = "team-a", project: str = PROJECT) -> Cursor:
    """A reporter's cursor."""
    return Cursor(reporter=reporter, project=project, offset=offset)
