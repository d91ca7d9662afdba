"""The reporter family: what tells people and systems about runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Protocol

from testorch_core.errors import TestorchError
from testorch_core.events import RecordedEvent
from testorch_core.interfaces.plugin import Plugin
from testorch_core.results import Result
from testorch_core.runs import RunStatus


class Retryable(TestorchError):  # noqa: N818 - the name says what the core will do, not that something went wrong
    """A delivery failed and may succeed later. `after_seconds` is the other side's wish, if it has one."""

    code = "reporter_retry"

    def __init__(self, message: str, *, after_seconds: float | None = None) -> None:
        self.after_seconds = after_seconds
        super().__init__(message)


class Permanent(TestorchError):  # noqa: N818 - as above
    """A delivery failed and would fail again; the core goes on with the next."""

    code = "reporter_permanent"


class RunReader(Protocol):
    """Reads one stored run. Results come in the order of `testId`, a page at a time, so a big run needs little memory."""

    @property
    def status(self) -> RunStatus:
        """The run as it is stored, perhaps later than the event that is being told."""

    def results(self, *, final_only: bool = False) -> AsyncGenerator[Result, None]:
        """All attempts of all tests, or only each test's last. Close it (`aclosing`) where it may be left early."""

    def events(self) -> AsyncGenerator[RecordedEvent, None]:
        """The run's events in the order of the log. Close it as above."""


class Reporter(Plugin):
    """Told about runs in log order, from a cursor of its own. Implements what it is about and inherits the rest.

    Delivery is at least once: after a crash of the server the last calls may come again, so an effect on the outside
    must stand being repeated. A call that raises `Retryable` is made again later, in order; `Permanent` is counted and
    skipped; anything else is tried a few times and then skipped. Calls of one reporter never overlap, and a slow one
    delays nobody else. When cancelled (the server is stopping), the call will be made again after the next start.
    """

    async def run_started(self, run: RunReader) -> None:
        """A run was opened."""

    async def test_finished(self, run: RunReader, result: Result) -> None:
        """An attempt of a test ended. `result` is as stored now."""

    async def run_finished(self, run: RunReader) -> None:
        """A run ended."""

    async def events(self, events: Sequence[RecordedEvent]) -> None:
        """Every event of the log, in order, a page at a time, before the calls above that they cause."""


class Renderer(Reporter):
    """A reporter that can also write a run as one document: what `testorch export --format NAME` looks for."""

    @property
    @abstractmethod
    def media_type(self) -> str:
        """Such as `application/xml`."""

    @abstractmethod
    def render(self, run: RunReader) -> AsyncIterator[bytes]:
        """The document in pieces. Needs no `start`; opens nothing."""
