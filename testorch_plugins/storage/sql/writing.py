"""One commit as SQL statements, within a transaction that the caller holds. Synchronous: runs in the store's thread."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import zstandard
from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import IntegrityError

from testorch_core.errors import BehindError, DuplicatesError, KnownEvent
from testorch_core.events import RecordBatch
from testorch_core.interfaces.storage import Commit, Cursor, Slice
from testorch_core.results import ResultRow, RunRow
from testorch_core.streams import StreamRow
from testorch_plugins.storage.sql import statements as st
from testorch_plugins.storage.sql.tables import projects, runs

PLAIN_JSON: Final = 0
ZSTD: Final = 1
_COMPRESS_FROM_BYTES: Final = 512
_IDS_AT_A_TIME: Final = 500
"""SQLite takes at most 32,766 variables in a statement, older ones 999."""

_compressors = threading.local()
"""A compressor for every thread that writes: one must not be used by two threads at once, and making one costs more than
compressing a batch."""


def append(connection: Connection, commit: Commit) -> None:
    """Store a commit. Raises `BehindError` or `DuplicatesError`; the caller rolls back on any exception."""
    plain: list[tuple[KnownEvent, int]] = []
    for part in commit.slices:
        project_id = _advance_head(connection, part)
        run_ids = _put_runs(connection, project_id, part)
        _put_batches(connection, project_id, part.batches, run_ids)
        _put_results(connection, part.project, part.results, run_ids)
        _put_streams(connection, project_id, part.streams, run_ids)
        plain += [(one, run_ids[one.run_id]) for one in part.plain]
    # Last, so that a commit with duplicates fails on nothing else first; it fails as a whole either way.
    _put_plain(connection, plain)
    put_cursors(connection, commit.cursors)


def _advance_head(connection: Connection, part: Slice) -> int:
    row = connection.execute(st.FIND_HEAD, {"project": part.project}).one_or_none()
    if row is None:
        if part.expected_head != 0:
            raise BehindError(part.project, 0)
        return int(connection.execute(st.ADD_PROJECT, {"name": part.project, "head": part.head}).scalar_one())
    step = {"project_id": row.id, "expected": part.expected_head, "moved_to": part.head}
    if connection.execute(st.MOVE_HEAD, step).rowcount != 1:
        raise BehindError(part.project, row.head)
    return int(row.id)


def _put_runs(connection: Connection, project_id: int, part: Slice) -> dict[str, int]:
    """Store the run rows; returns the database's ids of all runs that the slice speaks of."""
    found = {row.run_id: _put_run(connection, project_id, row) for row in part.runs}
    spoken = {one.run_id for one in part.batches} | {one.run_id for one in part.results}
    spoken |= {one.run_id for one in part.streams} | {one.run_id for one in part.plain}
    missing = [run_id for run_id in spoken if run_id is not None and run_id not in found]
    for some in _in_portions(missing):
        rows = connection.execute(st.FIND_RUN_IDS, {"project_id": project_id, "run_ids": some})
        found |= {row.run_id: row.id for row in rows}
    return found


def _put_run(connection: Connection, project_id: int, row: RunRow) -> int:
    values = {
        "project_id": project_id,
        "run_id": row.run_id,
        "key": row.key,
        "status": row.status,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "last_offset": row.last_offset,
        "fold_version": row.fold_version,
        "document": row.document,
        "summary": row.summary,
    }
    return int(connection.execute(st.upserts(connection).run, values).scalar_one())


def _put_batches(
    connection: Connection, project_id: int, given: Sequence[RecordBatch], run_ids: Mapping[str, int]
) -> None:
    if given:
        connection.execute(st.ADD_BATCHES, [_batch_row(project_id, one, run_ids) for one in given])


def _batch_row(project_id: int, batch: RecordBatch, run_ids: Mapping[str, int]) -> dict[str, Any]:
    encoding, body = PLAIN_JSON, batch.body
    if len(body) >= _COMPRESS_FROM_BYTES:
        encoding, body = ZSTD, _compressor().compress(body)
    return {
        "project_id": project_id,
        "last_offset": batch.last_offset,
        "first_offset": batch.first_offset,
        "run": None if batch.run_id is None else run_ids[batch.run_id],
        "source": batch.source.encode(),
        "received_at": batch.received_at,
        "last_seq": batch.last_seq,
        "count": batch.count,
        "encoding": encoding,
        "body": body,
    }


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_compressors, "one"):
        _compressors.one = zstandard.ZstdCompressor(level=3)
    one: zstandard.ZstdCompressor = _compressors.one
    return one


def _put_results(connection: Connection, project: str, rows: Sequence[ResultRow], run_ids: Mapping[str, int]) -> None:
    if rows:
        st.upserts(connection).result.execute(connection, [_result_row(project, row, run_ids) for row in rows])


def _result_row(project: str, row: ResultRow, run_ids: Mapping[str, int]) -> tuple[Any, ...]:
    """In the order of `RESULT_COLUMNS`, which is that of the row's own fields but for the keys."""
    return run_ids[row.run_id], row.test_id, row.attempt, history_key(project, row.test_id), *row[3:]


def history_key(project: str, test_id: str) -> int:
    """64 signed bits of a hash; readers compare the test id too, so a collision costs time and nothing else."""
    digest = hashlib.blake2b(f"{project}\n{test_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _put_streams(
    connection: Connection, project_id: int, rows: Sequence[StreamRow], run_ids: Mapping[str, int]
) -> None:
    if rows:
        connection.execute(st.upserts(connection).stream, [_stream_row(project_id, row, run_ids) for row in rows])


def _stream_row(project_id: int, row: StreamRow, run_ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "stream_id": row.stream_id,
        "run": run_ids[row.run_id],
        "acked_seq": row.acked_seq,
        "accepted": row.accepted,
        "refused": row.refused,
        "duplicates": row.duplicates,
        "digest": row.digest,
        "state": row.state,
    }


def _put_plain(connection: Connection, plain: Sequence[tuple[KnownEvent, int]]) -> None:
    """Remember the plain events of a commit, each with the database's id of its run. Raises `DuplicatesError`."""
    if not plain:
        return
    rows = [{"run": run, "event_id": one.event_id, "content_hash": one.content_hash} for one, run in plain]
    point = connection.begin_nested()
    try:
        connection.execute(st.ADD_PLAIN, rows)
        point.commit()
    except IntegrityError:
        point.rollback()
        known = _known(connection, plain)
        if not known:  # something else was violated; without this, the core would try the same commit for ever
            raise
        raise DuplicatesError(known) from None


def _known(connection: Connection, plain: Sequence[tuple[KnownEvent, int]]) -> list[KnownEvent]:
    """Those of the plain events that are stored already, as they are stored."""
    by_run: dict[int, dict[str, KnownEvent]] = {}
    for one, run in plain:
        by_run.setdefault(run, {})[one.event_id] = one
    return [
        replace(asked[row.event_id], content_hash=row.content_hash)
        for run, asked in by_run.items()
        for some in _in_portions(list(asked))
        for row in connection.execute(st.FIND_PLAIN, {"run": run, "ids": some})
    ]


def _in_portions(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + _IDS_AT_A_TIME] for start in range(0, len(ids), _IDS_AT_A_TIME))


def delete_runs(connection: Connection, project: str, run_ids: Sequence[str]) -> int:
    """Remove runs, and by cascades whatever belongs to them; returns how many there were."""
    project_id = select(projects.c.id).where(projects.c.name == project).scalar_subquery()
    return sum(
        connection.execute(delete(runs).where(runs.c.project_id == project_id, runs.c.run_id.in_(some))).rowcount
        for some in _in_portions(run_ids)
    )


def put_cursors(connection: Connection, given: Sequence[Cursor]) -> None:
    """Save cursors; none goes back."""
    rows = [{"reporter": one.reporter, "project": one.project, "offset": one.offset} for one in given]
    if rows:
        connection.execute(st.upserts(connection).cursor, rows)
