"""The storage family: where the log, what was folded from it, and plugins' own documents are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from testorch_core.errors import KnownEvent
from testorch_core.events import RecordBatch
from testorch_core.interfaces.plugin import Plugin
from testorch_core.results import ResultRow, RunRow
from testorch_core.streams import StreamRow

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What one commit adds to one project's log. `expected_head` is the offset that the first batch follows."""

    project: str
    expected_head: int
    batches: Sequence[RecordBatch]
    runs: Sequence[RunRow] = ()
    results: Sequence[ResultRow] = ()
    streams: Sequence[StreamRow] = ()
    plain: Sequence[KnownEvent] = ()

    @property
    def head(self) -> int:
        """The project's head after the commit."""
        return self.batches[-1].last_offset if self.batches else self.expected_head


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a reporter has read a project's log: everything up to `offset` has been told."""

    reporter: str
    project: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One transaction: slices of different projects, and the cursors that are saved along."""

    slices: Sequence[Slice]
    cursors: Sequence[Cursor] = ()


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """A page of an answer, and the cursor of the next one (None at the end). A cursor is opaque to callers."""

    rows: tuple[Row, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs a query is about; None means any. `prefix` is of the run's id."""

    project: str | None = None
    status: str | None = None
    key: str | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFilter:
    """Which results of a run a query is about; None means any. `attempts` names (testId, attempt) pairs.

    All that is said must hold, and pages and cursors are the same whatever is said.
    """

    final_only: bool = False
    status: str | None = None
    outcome: str | None = None
    attempts: Sequence[tuple[str, int]] | None = None


class Documents(ABC):
    """Small JSON documents of one plugin instance; the core gives each its own namespace."""

    @abstractmethod
    async def get(self, key: str) -> tuple[Mapping[str, Any], int] | None:
        """The document and its version, or None."""

    @abstractmethod
    async def put(self, key: str, document: Mapping[str, Any], *, expected_version: int | None = None) -> int | None:
        """Store a document and return its new version (from 1).

        With `expected_version` (0: must not exist) it is a compare-and-set: returns None and changes nothing where the
        stored version is another one.
        """

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Remove a document; False if there was none."""

    @abstractmethod
    async def page(self, *, after: str | None = None, limit: int = 100) -> Page[tuple[str, Mapping[str, Any]]]:
        """(key, document) pairs in the order of their keys, after the key `after`."""


class LockedLog(ABC):
    """The heads of some projects, locked: nobody else appends to them until the context is left."""

    @abstractmethod
    async def head(self, project: str) -> int:
        """The project's last offset; 0 for an empty one."""

    @abstractmethod
    async def read(self, project: str, *, after: int, limit: int) -> Sequence[RecordBatch]:
        """As `EventStore.read`, within the locking transaction."""

    @abstractmethod
    async def append(self, commit: Commit) -> None:
        """As `EventStore.append`, within the locking transaction, which it ends; never raises `BehindError`.

        When it raises, nothing has been stored and the lock is still held, so that the commit can be mended and appended
        again.
        """


class EventStore(Plugin):
    """Keeps what the core has folded; has no opinions of its own.

    Every method may be called from several tasks at once. Queries with pages raise `InvalidCursorError` for a cursor that
    is none of theirs. A read sees all commits whose `append` has returned. Whatever
    the database raises is translated: `StorageFailedError` for what may pass (disk full, locked, gone).
    """

    durability: ClassVar[str] = "none"
    """What an `append` that has returned outlives: `none`, `process` (a `kill -9`) or `power` (a power cut)."""

    @property
    @abstractmethod
    def epoch(self) -> str:
        """A random word made with the database. A restart keeps it, a restore from elsewhere changes it."""

    async def leave_word(self, word: str) -> bool:
        """Leave a line for commands that find the store in use by this server; where only its owner can read it.

        A command's `start` then raises `InUseError` with it. False where there is no place for it.
        """
        return False

    @abstractmethod
    async def append(self, commit: Commit) -> None:
        """Store a commit atomically and durably; when it returns, a crash can't lose it.

        Raises `BehindError` when a project's head is not the slice's `expected_head`, `DuplicatesError` naming every plain
        event of the commit that is stored already, `StorageFailedError` when the promise can't be kept. Whenever it raises,
        nothing has been stored. When cancelled, either all or nothing has been stored, and `heads` tells which.

        Every run that a slice speaks of has its row in the slice, or stored already.
        """

    @abstractmethod
    def locked(self, projects: Sequence[str]) -> AbstractAsyncContextManager[LockedLog]:
        """The locked form of `append`: others wait (or are behind) until the context is left.

        Leaving without `append`, by an exception or by cancellation, stores nothing and gives the lock back.
        """

    @abstractmethod
    async def heads(self) -> Mapping[str, int]:
        """The last offset of every project that has a log."""

    @abstractmethod
    async def read(self, project: str, *, after: int, limit: int, run_id: str | None = None) -> Sequence[RecordBatch]:
        """Batches in the order of their offsets, from the first one that ends after `after`.

        Whole batches, of the project or of one run of it, until they hold `limit` events or more, or some MiB (the store
        decides); always at least one if there is one. The first may begin at or before `after`: the caller skips. Empty at
        the end of the log.
        """

    @abstractmethod
    async def run(self, project: str, run_id: str) -> RunRow | None:
        """One run's row."""

    @abstractmethod
    async def runs(self, where: RunFilter, *, limit: int, cursor: str | None = None) -> Page[RunRow]:
        """Runs, the newest first (by the time of their first event, then by id)."""

    @abstractmethod
    async def results(
        self, project: str, run_id: str, where: ResultFilter, *, limit: int, cursor: str | None = None
    ) -> Page[ResultRow]:
        """A run's results in the order of (testId, attempt)."""

    @abstractmethod
    async def history(self, project: str, test_id: str, *, limit: int, cursor: str | None = None) -> Page[ResultRow]:
        """The last attempts of one test, from the run that was first stored last on back."""

    @abstractmethod
    async def stream(self, project: str, stream_id: str) -> StreamRow | None:
        """How far a stream has come."""

    @abstractmethod
    async def cursors(self, reporter: str) -> Mapping[str, int]:
        """A reporter's saved offset in every project that it has one for."""

    @abstractmethod
    async def save_cursors(self, cursors: Sequence[Cursor]) -> None:
        """Save cursors outside a commit. A cursor never goes back: a lower offset than the stored one is ignored."""

    @abstractmethod
    async def delete_runs(self, project: str, run_ids: Sequence[str]) -> int:
        """Remove runs with their batches, results, streams and plain ids; returns how many there were.

        The project's head and the offsets of what remains do not change.
        """

    @abstractmethod
    def documents(self, instance: str) -> Documents:
        """The documents of one plugin instance."""
