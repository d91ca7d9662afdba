"""A store that forgets everything when the process ends: for tests, trials and virtual time (it uses no threads)."""

from __future__ import annotations

import copy
import json
import secrets
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import trio

from testorch_core.errors import (
    BehindError,
    DuplicatesError,
    InvalidCursorError,
    KnownEvent,
    OpeningError,
    StorageFailedError,
)
from testorch_core.events import RecordBatch
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.storage import (
    Commit,
    Cursor,
    Documents,
    EventStore,
    LockedLog,
    Page,
    ResultFilter,
    RunFilter,
    Slice,
)  # fmt: skip
from testorch_core.results import ResultRow, RunRow
from testorch_core.streams import StreamRow

Row = TypeVar("Row")


@dataclass
class _Project:
    """All that is kept of one project."""

    head: int = 0
    batches: list[RecordBatch] = field(default_factory=list)
    runs: dict[str, RunRow] = field(default_factory=dict)
    results: dict[str, dict[tuple[str, int], ResultRow]] = field(default_factory=dict)
    streams: dict[str, StreamRow] = field(default_factory=dict)
    plain: dict[tuple[str, str], bytes] = field(default_factory=dict)


class MemoryStore(EventStore):
    """Keeps everything in dictionaries."""

    summary = "in memory, gone with the process; for tests and trials"
    durability: ClassVar[str] = "none"

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self._projects: dict[str, _Project] = {}
        self._cursors: dict[tuple[str, str], int] = {}
        self._documents: dict[str, dict[str, tuple[Mapping[str, Any], int]]] = {}
        self._epoch = ""
        self._lock = trio.Lock()
        self._is_open = False

    async def start(self, context: PluginContext) -> None:
        if context.read_only:
            raise OpeningError("the memory store keeps nothing that another process could read; use `sqlite` for that")
        # Not the object's address, which another process may have too.
        self._epoch = self._epoch or secrets.token_hex(8)
        self._is_open = True

    async def aclose(self) -> None:
        self._is_open = False

    @property
    def epoch(self) -> str:
        return self._epoch

    async def append(self, commit: Commit) -> None:
        async with self._lock:
            self._append(commit)

    def locked(self, projects: Sequence[str]) -> AbstractAsyncContextManager[LockedLog]:
        return self._locked()

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[LockedLog]:
        async with self._lock:
            yield _MemoryLockedLog(self)

    def _append(self, commit: Commit) -> None:
        self._require_open()
        for part in commit.slices:
            head = self._projects[part.project].head if part.project in self._projects else 0
            if head != part.expected_head:
                raise BehindError(part.project, head)
        known = [
            replace(one, content_hash=stored)
            for part in commit.slices
            for one in part.plain
            if (stored := self._known(one)) is not None
        ]
        if known:
            raise DuplicatesError(known)
        for part in commit.slices:
            _put_slice(self._projects.setdefault(part.project, _Project()), part)
        self._put_cursors(commit.cursors)

    def _known(self, one: KnownEvent) -> bytes | None:
        project = self._projects.get(one.project)
        return project.plain.get((one.run_id, one.event_id)) if project else None

    def _put_cursors(self, cursors: Sequence[Cursor]) -> None:
        for one in cursors:
            key = (one.reporter, one.project)
            self._cursors[key] = max(one.offset, self._cursors.get(key, 0))

    def _require_open(self) -> None:
        if not self._is_open:
            raise StorageFailedError("the store is not open")

    def _project(self, name: str) -> _Project:
        self._require_open()
        return self._projects.get(name) or _Project()

    async def heads(self) -> Mapping[str, int]:
        self._require_open()
        return {name: project.head for name, project in self._projects.items()}

    async def read(self, project: str, *, after: int, limit: int, run_id: str | None = None) -> Sequence[RecordBatch]:
        batches = self._project(project).batches
        found: list[RecordBatch] = []
        count = 0
        for batch in batches[bisect_right(batches, after, key=lambda batch: batch.last_offset) :]:
            if count >= limit:
                break
            if run_id in (None, batch.run_id):
                found.append(batch)
                count += batch.count
        return found

    async def run(self, project: str, run_id: str) -> RunRow | None:
        return self._project(project).runs.get(run_id)

    async def runs(self, where: RunFilter, *, limit: int, cursor: str | None = None) -> Page[RunRow]:
        self._require_open()
        rows = [row for project in self._projects.values() for row in project.runs.values() if _matches(row, where)]
        return _page(rows, limit, cursor, lambda row: (row.started_at, row.run_id, row.project), newest_first=True)

    async def results(
        self, project: str, run_id: str, where: ResultFilter, *, limit: int, cursor: str | None = None
    ) -> Page[ResultRow]:
        named = None if where.attempts is None else set(where.attempts)
        wanted = [
            row
            for key, row in self._project(project).results.get(run_id, {}).items()
            if (row.final or not where.final_only)
            and where.status in (None, row.status)
            and where.outcome in (None, row.outcome)
            and (named is None or key in named)
        ]
        return _page(wanted, limit, cursor, lambda row: (row.test_id, row.attempt))

    async def history(self, project: str, test_id: str, *, limit: int, cursor: str | None = None) -> Page[ResultRow]:
        kept = self._project(project)
        rows = [
            row for results in kept.results.values() for row in results.values() if row.test_id == test_id and row.final
        ]
        stored = {run_id: place for place, run_id in enumerate(kept.runs)}
        return _page(rows, limit, cursor, lambda row: (stored[row.run_id], row.attempt), newest_first=True)

    async def stream(self, project: str, stream_id: str) -> StreamRow | None:
        return self._project(project).streams.get(stream_id)

    async def cursors(self, reporter: str) -> Mapping[str, int]:
        self._require_open()
        return {project: offset for (name, project), offset in self._cursors.items() if name == reporter}

    async def save_cursors(self, cursors: Sequence[Cursor]) -> None:
        self._require_open()
        self._put_cursors(cursors)

    async def delete_runs(self, project: str, run_ids: Sequence[str]) -> int:
        kept, gone = self._project(project), set(run_ids)
        count = len(gone & kept.runs.keys())
        kept.batches = [batch for batch in kept.batches if batch.run_id not in gone]
        kept.streams = {name: row for name, row in kept.streams.items() if row.run_id not in gone}
        kept.plain = {key: value for key, value in kept.plain.items() if key[0] not in gone}
        for run_id in gone:
            kept.runs.pop(run_id, None)
            kept.results.pop(run_id, None)
        return count

    def documents(self, instance: str) -> Documents:
        return _MemoryDocuments(self._documents.setdefault(instance, {}))


class _MemoryLockedLog(LockedLog):
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def head(self, project: str) -> int:
        return self._store._project(project).head

    async def read(self, project: str, *, after: int, limit: int) -> Sequence[RecordBatch]:
        return await self._store.read(project, after=after, limit=limit)

    async def append(self, commit: Commit) -> None:
        self._store._append(commit)


class _MemoryDocuments(Documents):
    def __init__(self, kept: dict[str, tuple[Mapping[str, Any], int]]) -> None:
        self._kept = kept

    async def get(self, key: str) -> tuple[Mapping[str, Any], int] | None:
        found = self._kept.get(key)
        return None if found is None else (copy.deepcopy(found[0]), found[1])

    async def put(self, key: str, document: Mapping[str, Any], *, expected_version: int | None = None) -> int | None:
        version = self._kept[key][1] if key in self._kept else 0
        if expected_version is not None and version != expected_version:
            return None
        self._kept[key] = (copy.deepcopy(dict(document)), version + 1)
        return version + 1

    async def delete(self, key: str) -> bool:
        return self._kept.pop(key, None) is not None

    async def page(self, *, after: str | None = None, limit: int = 100) -> Page[tuple[str, Mapping[str, Any]]]:
        keys = sorted(key for key in self._kept if after is None or key > after)
        shown = tuple((key, copy.deepcopy(self._kept[key][0])) for key in keys[:limit])
        return Page(shown, keys[limit - 1] if len(keys) > limit else None)


def _put_slice(project: _Project, part: Slice) -> None:
    project.head = part.head
    project.batches += part.batches
    project.runs |= {row.run_id: row for row in part.runs}
    project.streams |= {row.stream_id: row for row in part.streams}
    project.plain |= {(one.run_id, one.event_id): one.content_hash for one in part.plain}
    for row in part.results:
        kept = project.results.setdefault(row.run_id, {})
        old = kept.get((row.test_id, row.attempt))
        if old is not None:
            begin = old.begin if row.begin is None else row.begin
            row = row._replace(begin=begin, end=old.end if row.end is None else row.end)
        kept[row.test_id, row.attempt] = row


def _matches(row: RunRow, where: RunFilter) -> bool:
    pairs: tuple[tuple[Callable[[RunRow], str | None], str | None], ...] = (
        (lambda row: row.project, where.project),
        (lambda row: row.status, where.status),
        (lambda row: row.key, where.key),
    )
    return all(wanted in (None, read(row)) for read, wanted in pairs) and row.run_id.startswith(where.prefix or "")


def _place_in(cursor: str) -> tuple[Any, ...]:
    try:
        place = json.loads(cursor)
    except ValueError:
        raise InvalidCursorError from None
    if not isinstance(place, list):
        raise InvalidCursorError
    return tuple(place)


def _page(
    rows: Sequence[Row],
    limit: int,
    cursor: str | None,
    place: Callable[[Row], tuple[Any, ...]],
    *,
    newest_first: bool = False,
) -> Page[Row]:
    """A page of rows in the order of their places. The cursor is the place of the last row shown, so that rows which come
    and go between two pages, that one among them, neither repeat nor hide any."""
    wanted = sorted(rows, key=place, reverse=newest_first)
    if cursor is not None:
        last = _place_in(cursor)
        try:
            wanted = [row for row in wanted if (place(row) < last if newest_first else place(row) > last)]
        except TypeError:  # a place of another query
            raise InvalidCursorError from None
    shown = tuple(wanted[:limit])
    return Page(shown, json.dumps(place(shown[-1])) if len(wanted) > limit else None)
