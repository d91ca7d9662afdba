"""The queries of the SQL stores. Synchronous: they run in a reader's thread, each in a transaction that ends with it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import orjson
import zstandard
from sqlalchemy import Connection, Row, Select, and_, func, or_, select, tuple_

from testorch_core.errors import InvalidCursorError
from testorch_core.events import RecordBatch, Source
from testorch_core.interfaces.storage import Page, ResultFilter, RunFilter
from testorch_core.results import ResultRow, RunRow
from testorch_core.streams import StreamRow
from testorch_plugins.storage.sql import statements as st
from testorch_plugins.storage.sql.tables import cursors, projects, results, runs, streams
from testorch_plugins.storage.sql.writing import ZSTD, history_key

_MAX_BATCH_BYTES = 256 * 1024 * 1024
PAGE_BYTES = 8 * 1024 * 1024
"""Where a page of the log ends, however few events it holds: they may be large."""

_PAIRS_AT_A_TIME = 400
"""Two variables each; SQLite takes at most 32,766 in a statement, older ones 999."""


def heads(connection: Connection) -> dict[str, int]:
    return {row.name: row.head for row in connection.execute(select(projects.c.name, projects.c.head))}


def head(connection: Connection, project: str) -> int:
    row = connection.execute(st.FIND_HEAD, {"project": project}).one_or_none()
    return 0 if row is None else int(row.head)


def read(connection: Connection, project: str, *, after: int, limit: int, run_id: str | None) -> list[RecordBatch]:
    # A batch holds at least one event, so no more rows than events are needed.
    values = {"project": project, "after": after, "most": limit, "run_id": run_id}
    query = st.READ_PROJECT if run_id is None else st.READ_RUN
    found: list[RecordBatch] = []
    count = size = 0
    for row in connection.execute(query, values):
        found.append(_batch(project, row))
        count += found[-1].count
        size += len(found[-1].body)
        if count >= limit or size >= PAGE_BYTES:
            break
    return found


def _batch(project: str, row: Row[Any]) -> RecordBatch:
    body = row.body
    if row.encoding == ZSTD:
        body = zstandard.ZstdDecompressor().decompress(body, max_output_size=_MAX_BATCH_BYTES)
    return RecordBatch(
        project=project,
        first_offset=row.first_offset,
        count=row._mapping["count"],
        run_id=row.run_id,
        source=Source.decode(row.source),
        received_at=row.received_at,
        body=bytes(body),
        last_seq=row.last_seq,
    )


def run(connection: Connection, project: str, run_id: str) -> RunRow | None:
    row = connection.execute(st.FIND_RUN, {"project": project, "run_id": run_id}).one_or_none()
    return None if row is None else _run(row)


def _run(row: Row[Any]) -> RunRow:
    return RunRow(
        project=row.project,
        run_id=row.run_id,
        key=row.key,
        status=row.status,
        started_at=row.started_at,
        ended_at=row.ended_at,
        last_offset=row.last_offset,
        fold_version=row.fold_version,
        document=row.document,
        summary=row.summary,
    )


def run_page(connection: Connection, where: RunFilter, *, limit: int, cursor: str | None) -> Page[RunRow]:
    query = st.RUNS.order_by(runs.c.started_at.desc(), runs.c.run_id.desc(), runs.c.id.desc())
    wanted = ((projects.c.name, where.project), (runs.c.status, where.status), (runs.c.key, where.key))
    for column, value in wanted:
        if value is not None:
            query = query.where(column == value)
    if where.prefix is not None:
        # Not LIKE, which SQLite compares without regard to case.
        query = query.where(func.substr(runs.c.run_id, 1, len(where.prefix)) == where.prefix)
    if cursor is not None:
        started_at, run_id, row_id = decode_cursor(cursor, int, str, int)
        query = query.where(tuple_(runs.c.started_at, runs.c.run_id, runs.c.id) < tuple_(started_at, run_id, row_id))
    rows = list(connection.execute(query.limit(limit + 1)))
    return _page(rows, limit, [_run(row) for row in rows[:limit]], lambda row: [row.started_at, row.run_id, row.id])


def result_page(
    connection: Connection, project: str, run_id: str, where: ResultFilter, *, limit: int, cursor: str | None
) -> Page[ResultRow]:
    found = connection.execute(st.FIND_RUN, {"project": project, "run_id": run_id}).one_or_none()
    if found is None:
        return Page(())
    query, values = st.RESULTS if where.attempts is None else st.NAMED_RESULTS, {"run": found.id}
    if where.final_only:
        query = query.where(results.c.final)
    for column, value in ((results.c.status, where.status), (results.c.outcome, where.outcome)):
        if value is not None:
            query = query.where(column == value)
    if cursor is not None:
        test_id, attempt = decode_cursor(cursor, str, int)
        query = query.where(_after(test_id, attempt))
    if where.attempts is None:
        rows = list(connection.execute(query.limit(limit + 1), values))
    else:
        rows = _named(connection, query, values, where.attempts)[: limit + 1]
    return _page(rows, limit, [_result(row, run_id) for row in rows[:limit]], lambda row: [row.test_id, row.attempt])


def _after(test_id: str, attempt: int) -> Any:
    # Spelled out, because SQLite uses an index for `a > x OR a = x AND b > y` within a range on `a` it is told of.
    beyond = or_(results.c.test_id > test_id, results.c.attempt > attempt)
    return and_(results.c.test_id >= test_id, beyond)


def _named(
    connection: Connection, query: Select[Any], values: dict[str, Any], attempts: Sequence[tuple[str, int]]
) -> list[Row[Any]]:
    """The rows of those attempts, in the query's order: that of the pairs."""
    pairs, found = sorted(set(attempts)), list[Row[Any]]()
    for start in range(0, len(pairs), _PAIRS_AT_A_TIME):
        found += connection.execute(query, values | {"pairs": pairs[start : start + _PAIRS_AT_A_TIME]})
    return found


def history(connection: Connection, project: str, test_id: str, *, limit: int, cursor: str | None) -> Page[ResultRow]:
    # In the order of the index `results_of_test`, so that a page costs as much in a store of a thousand runs as of ten.
    query = (
        select(results, runs.c.run_id)
        .join(runs, runs.c.id == results.c.run)
        .join(projects, projects.c.id == runs.c.project_id)
        .where(
            projects.c.name == project,
            results.c.test_key == history_key(project, test_id),
            results.c.test_id == test_id,
            results.c.final,
        )
        .order_by(results.c.run.desc(), results.c.attempt.desc())
    )
    if cursor is not None:
        run, attempt = decode_cursor(cursor, int, int)
        query = query.where(results.c.run <= run, tuple_(results.c.run, results.c.attempt) < tuple_(run, attempt))
    rows = list(connection.execute(query.limit(limit + 1)))
    shown = [_result(row, row.run_id) for row in rows[:limit]]
    return _page(rows, limit, shown, lambda row: [row._mapping[results.c.run], row.attempt])


def _result(row: Row[Any], run_id: str) -> ResultRow:
    return ResultRow(
        run_id=run_id,
        test_id=row.test_id,
        attempt=row.attempt,
        final=row.final,
        status=row.status,
        ok=row.ok,
        outcome=row.outcome,
        duration_ms=row.duration_ms,
        begin=row.begin,
        end=row.end,
    )


def stream(connection: Connection, project: str, stream_id: str) -> StreamRow | None:
    query = (
        select(streams, runs.c.run_id)
        .join(projects, projects.c.id == streams.c.project_id)
        .join(runs, runs.c.id == streams.c.run)
        .where(projects.c.name == project, streams.c.stream_id == stream_id)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    names = ("stream_id", "run_id", "acked_seq", "accepted", "refused", "duplicates", "digest", "state")
    return StreamRow(project=project, **{name: row._mapping[name] for name in names})


def cursors_of(connection: Connection, reporter: str) -> dict[str, int]:
    query = select(cursors.c.project, cursors.c.offset).where(cursors.c.reporter == reporter)
    return {row.project: row.offset for row in connection.execute(query)}


def encode_cursor(values: Sequence[Any]) -> str:
    """An opaque cursor out of the values that the next page begins after."""
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode()


def decode_cursor(cursor: str, *kinds: type) -> list[Any]:
    """The inverse of `encode_cursor`. Raises `InvalidCursorError` for what it did not make of such values."""
    try:
        values = orjson.loads(base64.urlsafe_b64decode(cursor.encode("ascii")))
    except ValueError:
        raise InvalidCursorError from None
    is_ours = isinstance(values, list) and len(values) == len(kinds)
    if not is_ours or not all(type(value) is kind for value, kind in zip(values, kinds, strict=True)):
        raise InvalidCursorError
    return list(values)


def _page(rows: Sequence[Row[Any]], limit: int, shown: Sequence[Any], place: Any) -> Page[Any]:
    more = len(rows) > limit
    return Page(tuple(shown), encode_cursor(place(rows[limit - 1])) if more else None)
