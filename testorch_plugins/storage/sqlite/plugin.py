"""The SQLite store: one file, WAL, `synchronous=FULL`, one connection that writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import trio
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from testorch_core.errors import OpeningError, StorageFailedError
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.options import Options
from testorch_plugins.storage.sql import schema
from testorch_plugins.storage.sql.store import READERS, SqlStore
from testorch_plugins.storage.sqlite.lock import FileLock
from testorch_plugins.storage.sqlite.options import SqliteOptions
from testorch_plugins.storage.sqlite.place import Place

JOURNAL_LIMIT_BYTES = 64 * 1024 * 1024
"""What a WAL is cut back to once it has been checkpointed."""

PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF", f"journal_size_limit={JOURNAL_LIMIT_BYTES}")
"""Set on every connection, after the busy timeout and the journal mode."""


WRITER_CACHE_KIB = 16 * 1024
"""What the writing connection keeps of the database in memory: the pages that results with mixed names land on."""

LEAST_VERSION = (3, 35, 0)
"""The first SQLite with RETURNING."""


class SqliteStore(SqlStore):
    """Keeps everything in one SQLite file. What `append` has returned outlives a power cut."""

    summary = "one SQLite file (WAL, synchronous=FULL); the default"
    options_type: ClassVar[type[Options]] = SqliteOptions
    durability: ClassVar[str] = "power"
    options: SqliteOptions

    def __init__(self, name: str, options: SqliteOptions) -> None:
        super().__init__(name, options)
        self._lock: FileLock | None = None
        self._place: Place | None = None

    async def start(self, context: PluginContext) -> None:
        # Resolved, so that a second server finds the lock file whatever links it came by.
        path = (context.folder / self.options.path).resolve()
        await trio.to_thread.run_sync(lambda: self._open(path, read_only=context.read_only), limiter=self._write_thread)

    async def leave_word(self, word: str) -> bool:
        if self._lock is None:
            return False
        self._lock.leave_word(word)
        await trio.lowlevel.checkpoint()
        return True

    def _open(self, path: Path, *, read_only: bool) -> None:
        if sqlite3.sqlite_version_info < LEAST_VERSION:
            least = ".".join(map(str, LEAST_VERSION))
            raise OpeningError(
                f"SQLite {sqlite3.sqlite_version} is too old; Python's `sqlite3` must have {least} or newer"
            )
        _check_place(path, read_only=read_only)
        if not read_only:
            self._lock = FileLock(path.with_name(path.name + ".lock"))
            self._lock.acquire()
            self._writer = self._engine(path, size=1, read_only=False)
        self._readers = self._engine(path, size=READERS, read_only=read_only)
        try:
            if self._writer is not None:
                with self._writer.begin() as connection:
                    schema.prepare(connection, place=f"`{path}`")
            with self._readers.connect() as connection:
                schema.require_current(connection, place=f"`{path}`")
                self._epoch = schema.epoch(connection)
                if not read_only:
                    self._place = Place(path)  # while a connection is open, which keeps the WAL where it is
        except DBAPIError as failure:
            raise OpeningError(f"`{path}` can't be opened: {failure.orig}") from failure

    def _engine(self, path: Path, *, size: int, read_only: bool) -> Engine:
        def connect() -> sqlite3.Connection:
            # Readers connect when they are first needed, which may be late: they must neither make a new file nor open
            # another one.
            self._require_place()
            mode = "ro" if read_only else "rwc" if self._place is None else "rw"
            connection = _connect(path, busy_timeout_seconds=self.options.busy_timeout_seconds, mode=mode)
            if size == 1:
                connection.execute(f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
            try:
                self._require_place()
            except StorageFailedError:
                connection.close()
                raise
            return connection

        engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=size, max_overflow=0)
        # Nothing else begins one: the driver commits by itself. The writer's is immediate, because a read transaction that
        # turns into a write ignores the busy timeout; a reader's makes the statements of one query see the same state.
        begin = "BEGIN IMMEDIATE" if size == 1 else "BEGIN"
        if size == 1:
            # Before anything is written: what goes into a lost file would be seen by this process's readers.
            event.listen(engine, "begin", lambda connection: self._require_place())
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine

    def _confirm_commit(self) -> None:
        self._require_place()  # once more: it may have been lost since the transaction began

    def _require_place(self) -> None:
        if self._place is not None:
            self._place.require()

    def _lock_heads(self, connection: Connection, names: Sequence[str]) -> None:
        """Nothing more to do: `BEGIN IMMEDIATE` has locked the whole database for writing."""

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):  # closing a file does not wait, and must happen even when cancelled
            await trio.to_thread.run_sync(self._close, limiter=self._write_thread)

    def _close(self) -> None:
        # The readers first: the last connection to close checkpoints the WAL and removes it, and only the writer may.
        for engine in (self._readers, self._writer):
            if engine is not None:
                engine.dispose()
        self._readers = self._writer = self._place = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _check_place(path: Path, *, read_only: bool) -> None:
    if path.is_dir():
        raise OpeningError(f"`{path}` is a folder; `path` must be a file")
    if not path.parent.is_dir():
        raise OpeningError(f"the folder `{path.parent}` does not exist; make it, or choose another `path`")
    if read_only and not path.exists():
        raise OpeningError(f"there is no database `{path}`; `testorch serve` makes one")


def _connect(path: Path, *, busy_timeout_seconds: float, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        # The busy timeout first, so that it already holds for the change of the journal mode.
        connection.execute(f"PRAGMA busy_timeout={int(busy_timeout_seconds * 1000)}")
        if mode != "ro":
            _use_wal(connection, path)
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:  # whatever it was, the connection must not leak
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    # The journal mode stays in the file, so somebody else's database must be known for one before it is changed.
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    schema.require_ours([name for (name,) in tables], place=f"`{path}`")
    answer = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if answer != "wal":
        raise OpeningError(f"`{path}` can't be put into WAL mode (its journal mode is `{answer}`)")
