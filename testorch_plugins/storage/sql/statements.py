"""The statements of the SQL stores, composed once: composing one anew takes longer than running it.

Those of a commit are handed to the driver as text, with values by position. Measured with SQLite, one event a commit, in
one run on one slow core: 2.5 ms of CPU for a commit whose statements SQLAlchemy runs, 0.6 ms with these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from testorch_plugins.storage.sql.tables import batches, cursors, plain_events, projects, results, runs, streams

Values = tuple[Any, ...]

RUN_COLUMNS = (
    "project_id", "run_id", "key", "status", "started_at", "ended_at", "last_offset", "fold_version", "document", "summary",
)  # fmt: skip
BATCH_COLUMNS = (
    "project_id", "last_offset", "first_offset", "run", "source", "received_at", "last_seq", "count", "encoding", "body",
)  # fmt: skip
RESULT_COLUMNS = (
    "run", "test_id", "attempt", "test_key", "final", "status", "ok", "outcome", "duration_ms", "begin", "end",
)  # fmt: skip
STREAM_COLUMNS = (
    "project_id", "stream_id", "run", "acked_seq", "accepted", "refused", "duplicates", "digest", "state",
)  # fmt: skip
PLAIN_COLUMNS = ("run", "event_id", "content_hash")
CURSOR_COLUMNS = ("reporter", "project", "offset")

FIND_HEAD = select(projects.c.id, projects.c.head).where(projects.c.name == bindparam("project"))
FIND_RUN_IDS = select(runs.c.run_id, runs.c.id).where(
    runs.c.project_id == bindparam("project_id"), runs.c.run_id.in_(bindparam("run_ids", expanding=True))
)
FIND_PLAIN = select(plain_events.c.event_id, plain_events.c.content_hash).where(
    plain_events.c.run == bindparam("run"), plain_events.c.event_id.in_(bindparam("ids", expanding=True))
)

READ_PROJECT = (
    select(batches, runs.c.run_id)
    .join(projects, projects.c.id == batches.c.project_id)
    .outerjoin(runs, runs.c.id == batches.c.run)
    .where(projects.c.name == bindparam("project"), batches.c.last_offset > bindparam("after"))
    .order_by(batches.c.last_offset)
    .limit(bindparam("most"))
)
READ_RUN = READ_PROJECT.where(runs.c.run_id == bindparam("run_id"))

RUNS = select(runs, projects.c.name.label("project")).join(projects, projects.c.id == runs.c.project_id)
FIND_RUN = RUNS.where(projects.c.name == bindparam("project"), runs.c.run_id == bindparam("run_id"))

RESULTS = (
    select(results)
    .where(results.c.run == bindparam("run"))
    .order_by(results.c.test_id, results.c.attempt)
)  # fmt: skip
NAMED = tuple_(results.c.test_id, results.c.attempt).in_(bindparam("pairs", expanding=True))
NAMED_RESULTS = RESULTS.where(NAMED)


class DriverText:
    """A statement as the driver takes it: its text, and the values by position.

    SQLAlchemy composes the text; running it by SQLAlchemy would cost several times what the database itself takes.
    """

    def __init__(self, statement: Any, dialect: Any, columns: Sequence[str]) -> None:
        by_position = type(dialect)(paramstyle="qmark" if dialect.name == "sqlite" else "format")
        compiled = statement.compile(dialect=by_position, column_keys=list(columns))
        self.text = str(compiled)
        self._order = [columns.index(name) for name in compiled.positiontup or ()]
        assert sorted(self._order) == list(range(len(columns))), "every value is given once"
        self.in_order = self._order == list(range(len(columns)))

    def run(self, cursor: Any, *values: Any) -> Any:
        """Run it with the values in the order of the columns; returns the cursor."""
        return cursor.execute(self.text, values if self.in_order else tuple(values[place] for place in self._order))


class ManyRows:
    """An INSERT of thousands of rows, many of them a statement: each statement of sqlite3 hands Python's interpreter lock
    away and takes it back, so that fewer of them wait less."""

    ROWS_AT_ONCE = (256, 64, 16, 4, 1)

    def __init__(self, statement: Any, dialect: Any, columns: Sequence[str]) -> None:
        one = DriverText(statement, dialect, columns)
        assert one.in_order, "values are given in the order of the columns"
        before, row, after = _around_values(one.text)
        self._texts = {count: before + ", ".join([row] * count) + after for count in self.ROWS_AT_ONCE}

    def run(self, cursor: Any, rows: Sequence[Values]) -> Iterable[Any]:
        """Run it for every row, each in the order of the columns; returns what it returns. No two rows have the same key."""
        returned: list[Any] = []
        start = 0
        for count in self.ROWS_AT_ONCE:
            while len(rows) - start >= count:
                cursor.execute(self._texts[count], tuple(chain.from_iterable(rows[start : start + count])))
                if cursor.description is not None:
                    returned += cursor.fetchall()
                start += count
        return returned


class CommitStatements:
    """The statements of a commit, in one dialect."""

    def __init__(self, dialect: Any) -> None:
        make = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
        self.move_head = DriverText(
            update(projects)
            .where(projects.c.name == bindparam("project"), projects.c.head == bindparam("expected"))
            .values(head=bindparam("moved_to"))
            .returning(projects.c.id),
            dialect,
            ("moved_to", "project", "expected"),
        )
        self.add_project = DriverText(insert(projects).returning(projects.c.id), dialect, ("name", "head"))
        self.put_run = DriverText(
            _replacing(make(runs), RUN_COLUMNS[:2], RUN_COLUMNS[2:]).returning(runs.c.id), dialect, RUN_COLUMNS
        )
        self.add_batches = ManyRows(insert(batches), dialect, BATCH_COLUMNS)
        self.put_results = ManyRows(_keeping_halves(make(results)), dialect, RESULT_COLUMNS)
        self.put_streams = ManyRows(
            _replacing(make(streams), STREAM_COLUMNS[:2], STREAM_COLUMNS[2:]), dialect, STREAM_COLUMNS
        )
        self.add_plain = ManyRows(
            make(plain_events).on_conflict_do_nothing().returning(plain_events.c.run, plain_events.c.event_id),
            dialect,
            PLAIN_COLUMNS,
        )
        self.put_cursors = ManyRows(_never_back(make(cursors)), dialect, CURSOR_COLUMNS)


def _around_values(text: str) -> tuple[str, str, str]:
    """An INSERT's text before, within and after its one row of values."""
    head, values, tail = text.partition(" VALUES ")
    row, on, rest = tail.partition(" ON CONFLICT")
    return head + values, row, on + rest


def _replacing(statement: Any, key: Sequence[str], fields: Sequence[str]) -> Any:
    said = statement.excluded
    return statement.on_conflict_do_update(index_elements=list(key), set_={name: said[name] for name in fields})


def _keeping_halves(statement: Any) -> Any:
    """A start or an end of which a commit says nothing stays as it is stored."""
    said = statement.excluded
    halves = {name: func.coalesce(said[name], results.c[name]) for name in RESULT_COLUMNS[-2:]}
    return statement.on_conflict_do_update(
        index_elements=list(RESULT_COLUMNS[:3]), set_={**{name: said[name] for name in RESULT_COLUMNS[4:-2]}, **halves}
    )


def _never_back(statement: Any) -> Any:
    said = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=list(CURSOR_COLUMNS[:2]), set_={"offset": said.offset}, where=cursors.c.offset < said.offset
    )


_made: dict[str, CommitStatements] = {}


def commit_statements(connection: Connection) -> CommitStatements:
    """The statements of a commit, in the connection's dialect."""
    found = _made.get(connection.dialect.name)
    if found is None:
        found = _made[connection.dialect.name] = CommitStatements(connection.dialect)
    return found
