"""What the tests of a store have in common: a store that is open, and a second look after it was closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest

from testorch_core.events import RecordBatch
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.storage import EventStore, Page
from testorch_core.testing.commits import PROJECT
from testorch_core.testing.contracts.lifecycle import PluginContract

Row = TypeVar("Row")
OpenStore = Callable[[], Awaitable[EventStore]]
Turn = Callable[[str | None], Awaitable[Page[Row]]]


class StoreCase(PluginContract):
    """The fixtures of a store's tests, and what it may say of itself."""

    reopens: bool = False
    """Whether a store made by `make_plugin` finds what an earlier one has stored that was closed in the same test."""

    @pytest.fixture
    async def open_store(self, new_plugin: Callable[[], Any], context: PluginContext) -> AsyncIterator[OpenStore]:
        """Opens stores, and closes them after the test."""
        opened: list[EventStore] = []

        async def open_one() -> EventStore:
            store: EventStore = new_plugin()
            opened.append(store)
            await store.start(context)
            return store

        yield open_one
        for store in reversed(opened):
            await store.aclose()

    @pytest.fixture
    async def store(self, open_store: OpenStore) -> EventStore:
        """A store that is open and empty."""
        return await open_store()


async def log_of(
    store: EventStore, project: str = PROJECT, *, run_id: str | None = None, limit: int = 1000
) -> list[RecordBatch]:
    """A project's whole log, or one run's, read page by page."""
    found: list[RecordBatch] = []
    while page := await store.read(project, after=found[-1].last_offset if found else 0, limit=limit, run_id=run_id):
        found += page
    return found


async def ids_of(store: EventStore, project: str = PROJECT, *, run_id: str | None = None) -> list[str]:
    """The ids of a project's events in the order of the log."""
    return [event.id for batch in await log_of(store, project, run_id=run_id) for event in batch.events()]


async def all_pages(turn: Turn[Row]) -> list[Row]:
    """All rows of a query, page by page. `turn` asks for the page at a cursor."""
    rows: list[Row] = []
    cursor: str | None = None
    while True:
        page = await turn(cursor)
        rows += page.rows
        cursor = page.next
        if cursor is None:
            return rows
        assert page.rows, "an empty page says that another one follows"


def offsets_of(batches: Sequence[RecordBatch]) -> list[int]:
    """The offsets of all events in the batches."""
    return [event.offset for batch in batches for event in batch.events()]
