"""The SQLite store in the core's own hands, outside any server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from testorch_core.hosting import HostedPlugin, single_failure
from testorch_core.logs import library_log
from testorch_plugins.storage.sqlite.options import SqliteOptions
from testorch_plugins.storage.sqlite.plugin import SqliteStore

DATABASE = "testorch.db"


@asynccontextmanager
async def hosted_store(folder: Path) -> AsyncIterator[SqliteStore]:
    """The store on `testorch.db` in this folder, open within the block; entered and left in one task, as tests are."""
    store = SqliteStore("sqlite", SqliteOptions(path=DATABASE))
    hosted = HostedPlugin(store, close_seconds=5.0, log=library_log())
    with single_failure():
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: hosted.run(folder=folder, task_status=task_status))
            try:
                yield store
            finally:
                await hosted.close()
