"""A large store in minutes: one run that the server itself has stored, copied in SQL until the store is large enough.

The rows are thus exactly what the server writes. The copies differ in run, offsets, times and streams; the tests are the
same, so that each of them has a history over all the copies.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.failures import FailedRunError

MINUTE_MS = 60_000


def copy_run(path: Path, run_id: str, copies: int) -> None:
    """Copy a run of the database of a stopped server; the copies are `RUN-000001` and so on, each a minute older."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # Only while it is being filled, and only on this connection: the journal mode and the rest stay the server's.
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-400000")
        connection.execute("PRAGMA foreign_keys=OFF")
        Copier(connection, run_id).copy(copies)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("ANALYZE") if _was_analyzed(connection) else None
    finally:
        connection.close()


def _was_analyzed(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'").fetchone() is not None


class Copier:
    """Copies one run within its project, by the columns that the tables have."""

    def __init__(self, connection: sqlite3.Connection, run_id: str) -> None:
        self._connection = connection
        connection.row_factory = sqlite3.Row
        self._run = connection.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if self._run is None:
            raise FailedRunError(f"the store has no run `{run_id}` to copy")
        query = "SELECT min(first_offset), max(last_offset) FROM batches WHERE run = ?"
        self._first, self._last = connection.execute(query, (self._run["id"],)).fetchone()
        self._head = connection.execute(
            "SELECT head FROM projects WHERE id = ?", (self._run["project_id"],)
        ).fetchone()[0]

    def copy(self, copies: int) -> None:
        """Make the copies, without the secondary indexes, which are made again in one go: random inserts take hours."""
        indexes = self._drop_indexes()
        self._connection.execute("BEGIN")
        for number in range(1, copies + 1):
            self._copy_once(number)
        moved = (self._head + copies * self._span, self._run["project_id"])
        self._connection.execute("UPDATE projects SET head = ? WHERE id = ?", moved)
        for sql in indexes:
            self._connection.execute(sql)
        self._connection.execute("COMMIT")

    @property
    def _span(self) -> int:
        return int(self._last - self._first + 1)

    def _drop_indexes(self) -> list[str]:
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN ('results', 'batches')"
        found = self._connection.execute(query).fetchall()
        for index in found:
            self._connection.execute(f'DROP INDEX "{index["name"]}"')
        return [index["sql"] for index in found]

    def _copy_once(self, number: int) -> None:
        shift = self._head + (number - 1) * self._span - self._first + 1
        new_run = self._copy_run_row(number, shift)
        for table in ("batches", "results", "streams"):
            values = {"run": str(new_run)}
            if table == "batches":
                values |= {"first_offset": f"first_offset + {shift}", "last_offset": f"last_offset + {shift}"}
            if table == "streams":
                values |= {"stream_id": f"stream_id || '-{number}'"}
            self._copy_rows(table, values)

    def _copy_rows(self, table: str, values: Mapping[str, str]) -> None:
        columns = [row["name"] for row in self._connection.execute(f"PRAGMA table_info({table})")]
        names = ", ".join(f'"{name}"' for name in columns)
        chosen = ", ".join(values.get(name, f'"{name}"') for name in columns)
        self._connection.execute(
            f"INSERT INTO {table} ({names}) SELECT {chosen} FROM {table} WHERE run = ?", (self._run["id"],)
        )

    def _copy_run_row(self, number: int, shift: int) -> int:
        row: dict[str, Any] = dict(self._run)
        del row["id"]
        older = number * MINUTE_MS
        row |= {"run_id": f"{row['run_id']}-{number:06d}", "last_offset": row["last_offset"] + shift}
        document = json.loads(row["document"])
        for column, field in (("started_at", "startedAt"), ("ended_at", "endedAt")):
            row[column] -= older
            document[field] -= older
        document |= {"runId": row["run_id"], "offset": row["last_offset"]}
        row["document"] = json.dumps(document, separators=(",", ":")).encode()
        names = ", ".join(f'"{name}"' for name in row)
        marks = ", ".join("?" for _ in row)
        cursor = self._connection.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", tuple(row.values()))
        return int(cursor.lastrowid or 0)
