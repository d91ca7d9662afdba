"""One commit as SQL statements, within a transaction that the caller holds. Synchronous: runs in the store's thread."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import zstandard
from sqlalchemy import Connection, delete, select

from testorch_core.errors import BehindError, DuplicatesError, KnownEvent, StorageFailedError
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
    """Store a commit. Raises `BehindError`, `DuplicatesError` or `StorageFailedError`; the caller rolls back on any."""
    cursor = connection.connection.cursor()
    try:
        _Writing(connection, cursor).append(commit)
    except connection.dialect.loaded_dbapi.Error as failure:
        raise StorageFailedError(f"{type(failure).__name__}: {failure}") from failure
    finally:
        cursor.close()


class _Writing:
    """One commit under way. Its statements go straight to the driver's cursor."""

    def __init__(self, connection: Connection, cursor: Any) -> None:
        self._connection = connection
        self._cursor = cursor
        self._statements = st.commit_statements(connection)

    def append(self, commit: Commit) -> None:
        plain: list[tuple[KnownEvent, int]] = []
        cursor, statements = self._cursor, self._statements
        for part in commit.slices:
            project_id = self._advance_head(part)
            run_ids = self._put_runs(project_id, part)
            statements.add_batches.run(cursor, [_batch_row(project_id, one, run_ids) for one in part.batches])
            statements.put_results.run(cursor, [_result_row(part.project, one, run_ids) for one in part.results])
            statements.put_streams.run(cursor, [_stream_row(project_id, one, run_ids) for one in part.streams])
            plain += [(one, run_ids[one.run_id]) for one in part.plain]
        # Last, so that a commit with duplicates fails on nothing else first; it fails as a whole either way.
        self._put_plain(plain)
        statements.put_cursors.run(cursor, [(one.reporter, one.project, one.offset) for one in commit.cursors])

    def _advance_head(self, part: Slice) -> int:
        moved = self._statements.move_head.run(self._cursor, part.head, part.project, part.expected_head).fetchone()
        if moved is not None:
            return int(moved[0])
        row = self._connection.execute(st.FIND_HEAD, {"project": part.project}).one_or_none()
        if row is not None or part.expected_head != 0:
            raise BehindError(part.project, row.head if row is not None else 0)
        return int(self._statements.add_project.run(self._cursor, part.project, part.head).fetchone()[0])

    def _put_runs(self, project_id: int, part: Slice) -> dict[str, int]:
        """Store the run rows; returns the database's ids of all runs that the slice speaks of."""
        found = {row.run_id: self._put_run(project_id, row) for row in part.runs}
        spoken = {one.run_id for one in part.batches} | {one.run_id for one in part.results}
        spoken |= {one.run_id for one in part.streams} | {one.run_id for one in part.plain}
        missing = [run_id for run_id in spoken if run_id is not None and run_id not in found]
        for some in _in_portions(missing):
            rows = self._connection.execute(st.FIND_RUN_IDS, {"project_id": project_id, "run_ids": some})
            found |= {row.run_id: row.id for row in rows}
        return found

    def _put_run(self, project_id: int, row: RunRow) -> int:
        stored = self._statements.put_run.run(
            self._cursor, project_id, row.run_id, row.key, row.status, row.started_at, row.ended_at, row.last_offset,
            row.fold_version, row.document, row.summary,
        )  # fmt: skip
        return int(stored.fetchone()[0])

    def _put_plain(self, plain: Sequence[tuple[KnownEvent, int]]) -> None:
        """Store the ids of plain events. Raises `DuplicatesError` if any is stored already: then all is rolled back."""
        if not plain:
            return
        rows = [(run, one.event_id, one.content_hash) for one, run in plain]
        added = {(run, event_id) for run, event_id in self._statements.add_plain.run(self._cursor, rows)}
        if len(added) == len(rows):
            return
        known = [(one, run) for one, run in plain if (run, one.event_id) not in added]
        raise DuplicatesError(_known(self._connection, known))


def _batch_row(project_id: int, batch: RecordBatch, run_ids: Mapping[str, int]) -> st.Values:
    encoding, body = PLAIN_JSON, batch.body
    if len(body) >= _COMPRESS_FROM_BYTES:
        encoding, body = ZSTD, _compressor().compress(body)
    run = None if batch.run_id is None else run_ids[batch.run_id]
    source = batch.source.encode()
    return (project_id, batch.last_offset, batch.first_offset, run, source, batch.received_at, batch.last_seq,
            batch.count, encoding, body)  # fmt: skip


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_compressors, "one"):
        _compressors.one = zstandard.ZstdCompressor(level=3)
    one: zstandard.ZstdCompressor = _compressors.one
    return one


def _result_row(project: str, row: ResultRow, run_ids: Mapping[str, int]) -> st.Values:
    """In the order of `RESULT_COLUMNS`, which is that of the row's own fields but for the keys."""
    return run_ids[row.run_id], row.test_id, row.attempt, history_key(project, row.test_id), *row[3:]


def history_key(project: str, test_id: str) -> int:
    """64 signed bits of a hash; readers compare the test id too, so a collision costs time and nothing else."""
    digest = hashlib.blake2b(f"{project}\n{test_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _stream_row(project_id: int, row: StreamRow, run_ids: Mapping[str, int]) -> st.Values:
    return (project_id, row.stream_id, run_ids[row.run_id], row.acked_seq, row.accepted, row.refused, row.duplicates,
            row.digest, row.state)  # fmt: skip


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
    append(connection, Commit(slices=(), cursors=given))
