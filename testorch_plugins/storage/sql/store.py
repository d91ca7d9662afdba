"""What the SQL stores share: the store's methods as statements in threads. A subclass brings the engines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import trio
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from testorch_core.errors import StorageFailedError
from testorch_core.events import RecordBatch
from testorch_core.interfaces.storage import (
    Commit,
    Cursor,
    Documents,
    EventStore,
    LockedLog,
    Page,
    ResultFilter,
    RunFilter,
)  # fmt: skip
from testorch_core.results import ResultRow, RunRow
from testorch_core.streams import StreamRow
from testorch_plugins.storage.sql import reading, writing
from testorch_plugins.storage.sql.documents import SqlDocuments

Answer = TypeVar("Answer")

READERS = 4


class SqlStore(EventStore):
    """Writes through one connection, in one thread at a time; reads through a few others, in threads of their own.

    Blocking work has limiters of its own, so that plugins whose threads hang can't stop the store.
    """

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self._writer: Engine | None = None
        self._readers: Engine | None = None
        self._epoch = ""
        self._write_lock = trio.Lock()
        self._write_thread = trio.CapacityLimiter(1)
        self._read_threads = trio.CapacityLimiter(READERS)

    @abstractmethod
    def _lock_heads(self, connection: Connection, names: Sequence[str]) -> None:
        """Keep everybody else from appending to these projects until the transaction ends."""

    def _confirm_commit(self) -> None:
        """Called after each commit, before anybody is told: raises `StorageFailedError` if it can't be trusted."""

    @property
    def epoch(self) -> str:
        return self._epoch

    # Running statements.

    async def reading(self, query: Callable[[Connection], Answer]) -> Answer:
        """Run a query in a reader's thread. Raises `StorageFailedError`."""

        def work() -> Answer:
            with _translated(), _opened(self._readers).connect() as connection:
                return query(connection)

        return await trio.to_thread.run_sync(work, limiter=self._read_threads)

    async def writing(self, change: Callable[[Connection], Answer]) -> Answer:
        """Run a change in a transaction of its own, alone. Raises `StorageFailedError`.

        A change that has begun is brought to its end even when the caller is cancelled.
        """

        def work() -> Answer:
            with _translated(), _opened(self._writer).begin() as connection:
                answer = change(connection)
            self._confirm_commit()
            return answer

        async with self._write_lock:
            return await trio.to_thread.run_sync(work, limiter=self._write_thread)

    # Writing.

    async def append(self, commit: Commit) -> None:
        await self.writing(lambda connection: writing.append(connection, commit))

    def locked(self, projects: Sequence[str]) -> AbstractAsyncContextManager[LockedLog]:
        return self._locked(tuple(projects))

    @asynccontextmanager
    async def _locked(self, names: Sequence[str]) -> AsyncIterator[LockedLog]:
        async with self._write_lock:
            run = partial(trio.to_thread.run_sync, limiter=self._write_thread)
            log = _SqlLockedLog(run, confirm=self._confirm_commit)
            try:
                await run(
                    lambda: log.begin(_opened(self._writer), lambda connection: self._lock_heads(connection, names))
                )
                yield log
            finally:
                with trio.CancelScope(shield=True):  # a rollback takes no time, and a lock that stays would stop all
                    await run(log.close)

    async def save_cursors(self, cursors: Sequence[Cursor]) -> None:
        await self.writing(lambda connection: writing.put_cursors(connection, cursors))

    async def delete_runs(self, project: str, run_ids: Sequence[str]) -> int:
        return await self.writing(partial(writing.delete_runs, project=project, run_ids=run_ids))

    # Reading.

    async def heads(self) -> Mapping[str, int]:
        return await self.reading(reading.heads)

    async def read(self, project: str, *, after: int, limit: int, run_id: str | None = None) -> Sequence[RecordBatch]:
        return await self.reading(partial(reading.read, project=project, after=after, limit=limit, run_id=run_id))

    async def run(self, project: str, run_id: str) -> RunRow | None:
        return await self.reading(partial(reading.run, project=project, run_id=run_id))

    async def runs(self, where: RunFilter, *, limit: int, cursor: str | None = None) -> Page[RunRow]:
        return await self.reading(partial(reading.run_page, where=where, limit=limit, cursor=cursor))

    async def results(
        self, project: str, run_id: str, where: ResultFilter, *, limit: int, cursor: str | None = None
    ) -> Page[ResultRow]:
        query = partial(reading.result_page, project=project, run_id=run_id, where=where, limit=limit, cursor=cursor)
        return await self.reading(query)

    async def history(self, project: str, test_id: str, *, limit: int, cursor: str | None = None) -> Page[ResultRow]:
        return await self.reading(
            partial(reading.history, project=project, test_id=test_id, limit=limit, cursor=cursor)
        )

    async def stream(self, project: str, stream_id: str) -> StreamRow | None:
        return await self.reading(partial(reading.stream, project=project, stream_id=stream_id))

    async def cursors(self, reporter: str) -> Mapping[str, int]:
        return await self.reading(partial(reading.cursors_of, reporter=reporter))

    def documents(self, instance: str) -> Documents:
        return SqlDocuments(self, instance)


class _SqlLockedLog(LockedLog):
    """A transaction that holds the lock on some projects' heads."""

    def __init__(self, run: Callable[[Callable[[], Any]], Any], *, confirm: Callable[[], None]) -> None:
        self._run = run
        self._confirm = confirm
        self._connection: Connection | None = None

    def begin(self, engine: Engine, lock: Callable[[Connection], None]) -> None:
        with _translated():
            self._connection = engine.connect()
            self._connection.begin()
            lock(self._connection)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()  # rolls back what has not been committed

    async def head(self, project: str) -> int:
        return int(await self._run(lambda: self._query(partial(reading.head, project=project))))

    async def read(self, project: str, *, after: int, limit: int) -> Sequence[RecordBatch]:
        query = partial(reading.read, project=project, after=after, limit=limit, run_id=None)
        found: Sequence[RecordBatch] = await self._run(lambda: self._query(query))
        return found

    async def append(self, commit: Commit) -> None:
        def change(connection: Connection) -> None:
            point = connection.begin_nested()  # so that a commit that is refused leaves the lock as it was before it
            try:
                writing.append(connection, commit)
            except BaseException:
                with suppress(DBAPIError):  # where the disk is full, SQLite has rolled back everything by itself
                    point.rollback()
                raise
            connection.commit()
            self._confirm()

        await self._run(lambda: self._query(change))

    def _query(self, query: Callable[[Connection], Answer]) -> Answer:
        if self._connection is None:
            raise StorageFailedError("the lock was not obtained")
        with _translated():
            return query(self._connection)


class _translated:  # noqa: N801 - reads as a word in `with _translated():`
    """Turns what the database raises into `StorageFailedError`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, trace: object) -> None:
        if isinstance(failure, DBAPIError):
            raise StorageFailedError(f"{type(failure.orig).__name__}: {failure.orig}") from failure


def _opened(engine: Engine | None) -> Engine:
    if engine is None:
        raise StorageFailedError("the store is not open")
    return engine
