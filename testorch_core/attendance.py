"""Who takes part in which run on which connection, and what follows when a connection goes: lost, then gone.

Every verdict is a decision of `lifecycle`, written to the log. Timers only decide when to ask for one.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio

from testorch_core import lifecycle
from testorch_core.config import ServerOptions
from testorch_core.errors import Refusal, RefusedError, refuse
from testorch_core.events import SERVER_SOURCE, Source
from testorch_core.runs import ACTIVE, LOST, RunStatus
from testorch_core.streams import StreamRow

RETRY_SECONDS: Final = 1.0
"""How long a verdict waits that the store couldn't keep."""

Participant = tuple[str, str, str]
"""(project, run id, participant)."""

Decide = Callable[..., Awaitable[Any]]
"""`decide(function of lifecycle, project, run_id, **facts)`: returns after the commit, raises `RefusedError`."""

FindStream = Callable[[str, str], Awaitable[StreamRow | None]]


class StreamHolder(Protocol):
    """A conversation that holds a stream."""

    @property
    def principal_name(self) -> str:
        """Who is on it."""

    def displaced(self, refusal: Refusal) -> None:
        """Another connection has resumed the stream: say so, and close."""


class Attendance:
    """The presence of all participants on this node."""

    def __init__(
        self,
        options: ServerOptions,
        *,
        find_stream: FindStream,
        settled: Callable[[], Awaitable[Any]],
        opener_of: Callable[[str, str, str], Awaitable[str | None]],
        decide: Decide,
        nursery: trio.Nursery,
    ) -> None:
        self._options = options
        self._find_stream = find_stream
        self._settled = settled
        self._opener_of = opener_of
        self._decide = decide
        self._nursery = nursery
        self._present: dict[Participant, str] = {}
        self._absences: dict[Participant, object] = {}
        self._holders: dict[tuple[str, str], StreamHolder] = {}
        self._is_open = True

    def close(self) -> None:
        """The server is ending: no verdict is tried again. Who is missing then is found so after the next start."""
        self._is_open = False

    # Participants.

    def entered(self, project: str, run_id: str, participant: str, connection: str) -> None:
        """A participant is present on a connection."""
        address = (project, run_id, participant)
        self._present[address] = connection
        self._absences.pop(address, None)

    def ended(self, project: str, run_id: str, participant: str) -> None:
        """A participant has ended its part: its connection may go without a verdict."""
        self._present.pop((project, run_id, participant), None)

    async def departed(self, project: str, run_id: str, participant: str, source: Source, *, implicit: bool) -> None:
        """A participant's connection has gone without an end.

        A run that the connection had opened implicitly loses it at once. In any other it is lost, and gone after a grace in
        which it may return. Where the store can't keep the verdict now, it follows as soon as it can.
        """
        address = (project, run_id, participant)
        if self._present.get(address) != source.connection:
            return
        del self._present[address]
        if implicit:
            await self._insist(lifecycle.leave, address, source=source, reason="disconnected")
            return
        absence = self._absences[address] = object()
        self._nursery.start_soon(self._wait, address, absence, self._options.lost_grace_seconds)
        await self._insist(lifecycle.lose, address, source=source)

    def expect_back(self, status: RunStatus) -> None:
        """Give the participants of a run that a dead server left open a time to come back."""
        missing = [one["id"] for one in status.participants if one["state"] in (ACTIVE, LOST)]
        for participant in missing:
            address = (status.project, status.run_id, participant)
            absence = self._absences[address] = object()
            self._nursery.start_soon(self._wait, address, absence, self._options.resume_seconds)
        if not missing:
            self.await_more(status.project, status.run_id)

    def await_more(self, project: str, run_id: str) -> None:
        """End a run in which expected participants are missing, unless they come in time."""

        async def give_up() -> None:
            await trio.sleep(self._options.join_timeout_seconds)
            await self._insist(lifecycle.give_up_waiting, (project, run_id, ""), source=SERVER_SOURCE)

        self._nursery.start_soon(give_up)

    async def _wait(self, address: Participant, absence: object, seconds: float) -> None:
        project, run_id, participant = address
        await trio.sleep(seconds)
        while self._is_open and self._absences.get(address) is absence:
            try:
                await self._decide(
                    self._leave_if_absent,
                    project,
                    run_id,
                    participant=participant,
                    source=SERVER_SOURCE,
                    absence=absence,
                )
            except RefusedError:
                await trio.sleep(RETRY_SECONDS)  # the store can't keep it now
            else:
                if self._absences.get(address) is absence:
                    del self._absences[address]  # or every participant that was ever lost would be remembered

    def _leave_if_absent(
        self, ledger: lifecycle.Ledger, project: str, run_id: str, participant: str, source: Source, absence: object
    ) -> None:
        if self._absences.get((project, run_id, participant)) is absence:  # it may have come while this was queued
            lifecycle.leave(ledger, project, run_id, participant=participant, source=source, reason="lost")

    async def _insist(self, decide: Callable[..., Any], address: Participant, **facts: Any) -> None:
        """Have a verdict written, however long the store takes to be able to."""
        project, run_id, participant = address
        if participant:
            facts["participant"] = participant
        try:
            await self._decide(decide, project, run_id, **facts)
        except RefusedError:
            if self._is_open:
                self._nursery.start_soon(self._try_later, functools.partial(self._insist, decide, address, **facts))

    async def _try_later(self, again: Callable[[], Awaitable[None]]) -> None:
        await trio.sleep(RETRY_SECONDS)
        await again()

    # Streams.

    async def hold_stream(
        self, project: str, stream_id: str, holder: StreamHolder, *, run_id: str | None, resume: bool
    ) -> str | None:
        """Take a stream for a connection; returns the run that it belongs to, if it has one already.

        Raises `RefusedError` (`stream_conflict`) for a stream that is known and not resumed, of another run, or opened by
        somebody else. A live connection that holds the stream is told, and loses it.
        """
        row = await self._find_stream(project, stream_id)
        if row is None and resume:
            # Its first events may be on their way into the log just now, by the connection before.
            await self._settled()
            row = await self._find_stream(project, stream_id)
        opener = await self._opener_of(project, row.run_id, stream_id) if row is not None else None
        other = self._holders.get((project, stream_id))
        opener = other.principal_name if other is not None else opener
        if opener not in (None, holder.principal_name):  # first, so that nothing else is learned of it
            raise refuse("stream_conflict", f"stream `{stream_id}` was opened by somebody else; choose another id")
        if (row is not None or other is not None) and not resume:
            words = f"stream `{stream_id}` is known already; resume it, or choose another id for another process"
            raise refuse("stream_conflict", words)
        if row is not None and run_id is not None and row.run_id != run_id:
            words = f"stream `{stream_id}` belongs to run `{row.run_id}`, not to `{run_id}`; a stream has one run"
            raise refuse("stream_conflict", words)
        if other is not None and other is not holder:
            words = f"stream `{stream_id}` was resumed on another connection, which holds it now"
            other.displaced(Refusal("stream_conflict", words))
        self._holders[project, stream_id] = holder
        return row.run_id if row is not None else None

    def holds(self, project: str, stream_id: str, holder: StreamHolder) -> bool:
        """Whether a stream is still the connection's."""
        return self._holders.get((project, stream_id)) is holder

    def release_stream(self, project: str, stream_id: str, holder: StreamHolder) -> None:
        """A connection lets go of its stream, unless another one has taken it."""
        if self.holds(project, stream_id, holder):
            del self._holders[project, stream_id]
