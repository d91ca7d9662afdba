"""The JUnit reporter: one XML file a run, for the CI systems that read such files."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import trio

from testorch_core.errors import OpeningError, StorageFailedError
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.reporter import Renderer, Retryable, RunReader
from testorch_core.options import Options
from testorch_core.results import Result
from testorch_plugins.reporters.junit.document import Document, Survey
from testorch_plugins.reporters.junit.files import AtomicFile, file_name
from testorch_plugins.reporters.junit.options import JunitOptions
from testorch_plugins.reporters.junit.output import RunLog
from testorch_plugins.reporters.junit.verdicts import TestAttempts

Item = TypeVar("Item")

WRITE_BYTES: Final = 256 * 1024
"""How much is gathered before a thread is asked to write it: a hop costs 50-100 µs."""

ITEMS_AT_A_TIME: Final = 8
"""Results or events between two checkpoints: one or two milliseconds in which acknowledgements wait."""


class JunitReporter(Renderer):
    """Writes a file when a run ends, and again, over it, should it be told so again."""

    summary: ClassVar[str] = "one JUnit XML file a run"
    options_type: ClassVar[type[Options]] = JunitOptions
    options: JunitOptions

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self._context: PluginContext | None = None

    async def start(self, context: PluginContext) -> None:
        if not context.read_only:
            await context.in_thread(lambda: _make_folder(context.folder / self.options.directory))
        self._context = context

    async def aclose(self) -> None:
        """Nothing to release: a file is open only during a call."""

    @property
    def media_type(self) -> str:
        return "application/xml"

    async def run_finished(self, run: RunReader) -> None:
        context, status = self._context, run.status
        assert context is not None, "the core calls nothing before `start` has returned"
        path = context.folder / self.options.directory / file_name(status.project, status.run_id, status.name)
        try:
            await self._write(run, path, context)
        except (OSError, StorageFailedError) as failure:
            raise Retryable(f"`{path}` could not be written: {failure}; free its disk or mend its folder") from failure

    async def _write(self, run: RunReader, path: Path, context: PluginContext) -> None:
        file = await context.in_thread(lambda: AtomicFile(path))
        try:
            pending = bytearray()
            async with aclosing(self._pieces(run)) as pieces:
                async for piece in pieces:
                    pending += piece
                    if len(pending) >= WRITE_BYTES:
                        await context.in_thread(partial(file.write, bytes(pending)))
                        pending.clear()
            await context.in_thread(partial(file.write, bytes(pending)))
            await context.in_thread(file.commit)
        finally:
            file.discard()

    def render(self, run: RunReader) -> AsyncIterator[bytes]:
        """The document in pieces, with at most some megabytes held back; see `document.py`.

        Reads the results twice, and the events only if something isn't ok. Raises `Retryable` when the results of a run
        that is over change meanwhile (late events): then the counts at the beginning are not those of the rest. The
        document of a run that still goes on is a picture taken in passing.
        """
        return self._pieces(run)

    async def _pieces(self, run: RunReader) -> AsyncGenerator[bytes, None]:
        survey = Survey(run.status)
        async with aclosing(_tests(run)) as tests:
            async for test in tests:
                survey.add(test)
        log = RunLog(survey.not_ok)
        if survey.needs_log:
            async with aclosing(_politely(run.events())) as events:
                async for event in events:
                    log.add(event)
        document = Document(run.status, survey, log)
        yield document.begin()
        async with aclosing(_tests(run)) as tests:
            async for test in tests:
                piece = document.add(test)
                if piece:
                    yield piece
        yield document.end()
        if run.status.is_over and not document.is_consistent:
            raise Retryable(f"run `{run.status.run_id}` changed while its report was written; it is written again")


async def _tests(run: RunReader) -> AsyncGenerator[TestAttempts, None]:
    """The tests of a run, each with its attempts, which come one after the other."""
    attempts: list[Result] = []
    async with aclosing(_politely(run.results())) as results:
        async for result in results:
            if attempts and attempts[0].test_id != result.test_id:
                yield TestAttempts(attempts)
                attempts = []
            attempts.append(result)
    if attempts:
        yield TestAttempts(attempts)


async def _politely(items: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
    """The same items; a long run's report must not keep everybody else waiting."""
    count = 0
    async with aclosing(items):
        async for item in items:
            yield item
            count += 1
            if count % ITEMS_AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise OpeningError(
            f"`directory`: the folder `{folder}` can't be made: {failure.strerror or failure}; choose another one"
        ) from failure
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OpeningError(f"`directory`: the folder `{folder}` can't be written to; change its mode or choose another")
