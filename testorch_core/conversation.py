"""One client's conversation with the orchestrator, whatever carries it: who it is, what it addresses, what it may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import trio

from testorch_core import events as ev
from testorch_core.access import Access, CloseConversation
from testorch_core.entrance import Entrance
from testorch_core.errors import Problem, Refusal, RefusedError, refuse
from testorch_core.events import Source, WireEvent
from testorch_core.gate import invalid_event
from testorch_core.intake import Sorted, StreamIntake
from testorch_core.interfaces.security import Principal
from testorch_core.interfaces.transport import Handshake
from testorch_core.items import StreamSubmission, Submission
from testorch_core.orchestrator import Orchestrator
from testorch_core.protocol import CLOSE_FORBIDDEN, MAX_EVENTS
from testorch_core.queries import Queries
from testorch_core.runs import RunStatus
from testorch_core.streams import StreamState
from testorch_core.transaction import RefusedEvent
from testorch_core.vetting import Vetting, hash_of

MAX_TOUCHED_RUNS: Final = 1_000
"""Runs that a connection is remembered to take part in before those that are over are forgotten."""

REFUSALS_AT_A_TIME: Final = 20
"""Events of one message that are refused before others have their turn: finding the words takes 0.1 ms each."""


@dataclass(slots=True)
class _Part:
    """What a message brought for one run."""

    good: list[tuple[WireEvent, bytes]] = field(default_factory=list)
    refused: list[RefusedEvent] = field(default_factory=list)


class Conversation:
    """The state of one client: its principal, its project and the runs that it has touched.

    `open` first, `close` at the end. A `host` (an embedding server) may write presence events itself.
    """

    def __init__(self, orchestrator: Orchestrator, handshake: Handshake, *, host: bool = False) -> None:
        self.id = orchestrator.new_id()
        self._orchestrator = orchestrator
        self._handshake = handshake
        self._vetting = Vetting(orchestrator.gate, host=host)
        self._greeted: trio.Event
        self._source = Source(self.id)
        self._access = Access(orchestrator.gate, handshake, self.id, orchestrator.new_id)
        self._entrance = Entrance(orchestrator, handshake, self._access)
        self.queries = Queries(orchestrator, self._access)
        """What this client may ask."""
        self._touched: dict[tuple[str, str], str] = {}
        self._is_open = False
        self._has_spoken = False
        self._newest: StreamSubmission | None = None
        self.intake: StreamIntake | None = None
        """The stream of this connection, once `hello` has named one."""
        self.on_displaced: Callable[[Refusal], None] = lambda refusal: None
        """Called when another connection takes this one's stream."""

    @property
    def project(self) -> str:
        """The project of the run that was started last, else the default one."""
        return self._access.addressing.home

    async def open(self) -> bool:
        """Learn who this is from the handshake, and write `system/client/connect`.

        False for a client that has shown nothing yet where a policy wants to know: `identify` is to follow. Raises
        `CloseConversation` for a stranger, and where a policy fails to say who it is.
        """
        if not await self._entrance.by_handshake():
            return False
        self._begin()
        return True

    async def identify(self, token: str) -> None:
        """Learn who this is from the token of its `hello`. Raises as `open`."""
        await self._entrance.by_token(token)
        self._begin()

    def _begin(self) -> None:
        self._source = Source(self.id, self._access.name)
        self._is_open = True
        self._orchestrator.clients.add(self.id)
        facts = self._presence_facts() | {"address": self._entrance.address, "agent": self._entrance.agent}
        self._greeted = self._orchestrator.connected(self._access.addressing.home, facts, source=self._source)

    def is_still_known(self) -> bool:
        """Whether the client's credential is still good."""
        return self._access.refreshed() is not None

    def weigh(self, size_bytes: int) -> None:
        """Say how large the message is that is being done, for the policies."""
        self._access.message_bytes = size_bytes

    def may_see(self, project: str) -> bool:
        """Whether the client may look into a project."""
        return self._access.may_see(project)

    async def ticket(self) -> dict[str, Any]:
        """A one-time ticket for this client's principal. Raises `RefusedError` (`forbidden`)."""
        await self._access.admit("getTicket", self._access.addressing.home)
        return self._entrance.ticket()

    async def close(self) -> None:
        """Write `system/client/disconnect`, and leave the runs that this client takes part in. Works twice.

        When cancelled, the runs' participants are found missing after the next start.
        """
        if not self._is_open:
            return
        self._is_open = False
        self._entrance.leave()
        self._orchestrator.clients.discard(self.id)
        if self.intake is not None:
            attendance, intake = self._orchestrator.attendance, self.intake
            attendance.release_stream(intake.project, intake.stream_id, self)
        for (project, run_id), participant in self._touched.items():
            try:
                await self._orchestrator.departed(project, run_id, participant=participant, source=self._source)
            except RefusedError as refused:
                self._orchestrator.log.warning("departure_not_stored", run=run_id, error=refused.refusal.message)
        await self._greeted.wait()
        await self._orchestrator.presence(
            self._access.addressing.home, ev.CLIENT_DISCONNECT, self._presence_facts(), source=self._source
        )

    # Events.

    async def record(
        self, events: Sequence[Any], *, kind: str = "event", size_bytes: int = 0, suspicious: bool = False
    ) -> tuple[list[Submission | StreamSubmission], list[Refusal]]:
        """Check events and queue the good ones; returns where they are queued, and the refusals to tell at once.

        A submission that was returned before may come again: it has grown.

        Raises `RefusedError` when the message as a whole may not pass, `CloseConversation` when the client must go.
        """
        if len(events) > MAX_EVENTS:
            raise refuse("too_large", f"the message has {len(events)} events; at most {MAX_EVENTS} are taken")
        self._has_spoken = True
        if self.intake is not None:
            return await self._record_stream(self.intake, events, kind, size_bytes=size_bytes, suspicious=suspicious)
        if not self._orchestrator.gate.admits:
            await self._access.admit(kind, self._access.addressing.home)
        parts: dict[tuple[str, str], _Part] = {}
        refusals: list[Refusal] = []
        for event in events:
            try:
                wire = self._vetting.vetted(event, suspicious=suspicious)
                if wire["type"] in ev.PRESENCE_TYPES:
                    await self._orchestrator.host_event(
                        self._access.addressing.project_of(wire), wire, source=self._source
                    )
                else:
                    part = parts.setdefault(self._access.addressing.address_of(wire), _Part())
                    part.good.append((wire, hash_of(wire)))
            except RefusedError as refused:
                refusals.append(refused.refusal)
                if len(refusals) % REFUSALS_AT_A_TIME == 0:
                    await trio.lowlevel.checkpoint()
                address = self._access.addressing.address_of_refused(event)
                if address is not None:
                    parts.setdefault(address, _Part()).refused.append(self._vetting.note_of(event, refused.refusal))
        queued: list[Submission | StreamSubmission] = []
        if not parts and self._orchestrator.gate.admits:  # nothing of it has a place, but it has cost something
            await self._access.admit(kind, self._access.addressing.home, events=len(events), size_bytes=size_bytes)
        for address, part in parts.items():
            share = size_bytes // len(parts)
            refusal = await self._refusal_of_part(kind, address, part, share)
            if refusal is None:
                queued.append(await self._submit(*address, part, size_bytes=share))
            else:
                refusals.append(refusal)
        return queued, refusals

    async def _refusal_of_part(self, kind: str, address: tuple[str, str], part: _Part, share: int) -> Refusal | None:
        """What the policies have against what a message brings for one run: each run is asked about by itself."""
        if not self._orchestrator.gate.admits:
            if address[0] != self._access.addressing.home:
                return await self._objection(kind, *address)
            return None
        return await self._objection(kind, *address, events=len(part.good) + len(part.refused), size_bytes=share)

    async def _objection(self, kind: str, project: str, run_id: str | None, **counts: int) -> Refusal | None:
        try:
            await self._access.admit(kind, project, run_id=run_id, **counts)
        except RefusedError as refused:
            return refused.refusal
        return None

    def check(self, event: Any) -> Refusal | None:
        """What `record` would refuse an event for by its content, without recording it."""
        try:
            self._vetting.vetted(event, suspicious=False)
        except RefusedError as refused:
            return refused.refusal
        return None

    async def _submit(self, project: str, run_id: str, part: _Part, *, size_bytes: int) -> Submission:
        submission = Submission(
            project,
            run_id,
            part.good,
            source=self._source,
            received_at=self._orchestrator.clock_ms(),
            refused=part.refused,
            size_bytes=size_bytes,
            implicit=self._access.addressing.is_implicit((project, run_id)),
        )
        if part.good and (project, run_id) not in self._touched:
            self._touch(project, run_id)
            self._orchestrator.attendance.entered(project, run_id, self._participant, self.id)
        await self._orchestrator.submit(submission)
        return submission

    # Streams.

    async def hello(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Greet a client, and give it its stream if it names one."""
        if self._has_spoken:
            raise refuse("invalid_message", "`hello` comes once, and before anything else")
        run_id = acked_seq = None
        stream_id = request.get("streamId")
        is_about_one = stream_id is not None or request.get("project") is not None
        project = self._access.addressing.project_of(request) if is_about_one else self._access.addressing.home
        await self._access.admit("hello", project, run_id=request.get("runId"))
        if stream_id is not None:
            self._access.require_scope_to_report(project)
        if stream_id is not None:
            run_id, acked_seq = await self._take_stream(project, stream_id, request)
        self._has_spoken = True
        if is_about_one:
            self._access.addressing.greeted(project)
        return self._orchestrator.welcome() | {
            "sessionId": self.id,
            "streamId": stream_id,
            "runId": run_id,
            "ackedSeq": acked_seq or 0,
        }

    async def _take_stream(self, project: str, stream_id: str, request: Mapping[str, Any]) -> tuple[str | None, int]:
        asked = request.get("runId")
        attendance = self._orchestrator.attendance
        known = await attendance.hold_stream(
            project, stream_id, self, run_id=asked, resume=request.get("resume") is True
        )  # fmt: skip
        self._source = Source(self.id, self._access.name, stream_id)
        acked_seq = 0
        if known is not None:
            try:
                acked_seq = await self._orchestrator.resume_stream(project, known, source=self._source)
            except RefusedError:
                attendance.release_stream(project, stream_id, self)
                raise
            self._touch(project, known)
        self.intake = StreamIntake(project, stream_id, known or asked, acked_seq)
        if self.intake.run_id is not None:
            self._access.addressing.started((project, self.intake.run_id))
        return self.intake.run_id, acked_seq

    async def _record_stream(
        self, intake: StreamIntake, events: Sequence[Any], kind: str, *, size_bytes: int, suspicious: bool
    ) -> tuple[list[Submission | StreamSubmission], list[Refusal]]:
        state = self.stream_state()
        if state is not None and state.complete is not None:
            words = [Problem("", "the stream has ended; a stream that was ended takes no more events")]
            return [], [invalid_event(event, words) for event in events]
        found = intake.sort(events)
        if not found.taken and not found.duplicates:
            return [], found.refusals
        self._address_stream(intake, found.taken)
        objection = await self._objection(
            kind, intake.project, intake.run_id, events=len(found.taken), size_bytes=size_bytes
        )
        if objection is not None:
            intake.halt(found.first_seq)
            if not objection.temporary:  # nothing may be stored, not even that it was refused; and it will never change
                raise CloseConversation(CLOSE_FORBIDDEN, f"{objection.code}: {objection.message}")
            return [], [*found.refusals, replace(objection, seq=found.first_seq)]
        self._bind(intake)
        try:
            entries = await self._vet_stream(intake, found, suspicious=suspicious)
        except Exception:  # a defect of ours: nothing is taken, and the stream must not be left with a hole
            intake.expected = found.first_seq
            raise
        submission = StreamSubmission(
            intake.project,
            intake.run_id or "",
            found.first_seq,
            entries,
            source=self._source,
            received_at=self._orchestrator.clock_ms(),
            duplicates=found.duplicates,
            size_bytes=size_bytes,
        )
        if self._newest is not None and self._orchestrator.grow(self._newest, submission):
            return [self._newest], found.refusals
        await self._orchestrator.submit(submission)
        self._newest = submission
        return [submission], found.refusals

    def _address_stream(self, intake: StreamIntake, events: Sequence[Any]) -> None:
        """Give a stream that has no run yet that of its first event."""
        if intake.run_id is None:
            address = next(filter(None, map(self._access.addressing.address_of_refused, events)), None)
            intake.run_id = address[1] if address is not None else self._orchestrator.new_id()

    def _bind(self, intake: StreamIntake) -> None:
        """The stream takes part in its run from now on."""
        assert intake.run_id is not None, "its first event has given it one"
        self._access.addressing.started((intake.project, intake.run_id))
        if (intake.project, intake.run_id) not in self._touched:
            self._touch(intake.project, intake.run_id)
            self._orchestrator.attendance.entered(intake.project, intake.run_id, self._participant, self.id)

    async def _vet_stream(
        self, intake: StreamIntake, found: Sorted, *, suspicious: bool
    ) -> list[WireEvent | RefusedEvent]:
        entries: list[WireEvent | RefusedEvent] = []
        refusal_of, amends, append = self._vetting.refusal_of, self._orchestrator.gate.amends, entries.append
        refused = 0
        for seq, event in enumerate(found.taken, found.first_seq):
            refusal = refusal_of(event, suspicious=suspicious) or intake.refusal_of_stranger(event)
            if refusal is None and amends:
                event, refusal = self._vetting.amended(event)
            if refusal is None:
                append(event)
                continue
            append(self._vetting.note_of(event, replace(refusal, seq=seq)))
            refused += 1
            if refused % REFUSALS_AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return entries

    def stream_state(self) -> StreamState | None:
        """This connection's stream as of the last commit."""
        if self.intake is None or self.intake.run_id is None:
            return None
        return self._orchestrator.stream(self.intake.project, self.intake.run_id, self.intake.stream_id)

    async def end_stream(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """End this connection's stream; returns the receipt."""
        if self.intake is None:
            raise refuse("invalid_message", "`streamEnd` is for connections that began with a `hello` and a `streamId`")
        if self.intake.run_id is None:
            raise refuse("unknown_run", "the stream has no run yet: nothing was started or sent in it")
        await self._access.admit("streamEnd", self.intake.project, run_id=self.intake.run_id)
        return await self._orchestrator.end_stream(
            self.intake.project, self.intake.run_id, request, participant=self._participant, source=self._source
        )

    @property
    def principal_name(self) -> str:
        """Who is on this connection."""
        return self._access.name

    def displaced(self, refusal: Refusal) -> None:
        """Another connection has resumed this one's stream."""
        self.on_displaced(refusal)

    # Runs.

    async def start_run(self, request: Mapping[str, Any]) -> RunStatus:
        """Open or join a run, which becomes the one that events without a run belong to."""
        self._has_spoken = True
        project = self._access.addressing.project_of(request)
        await self._access.admit("startTestRun", project, run_id=await self._run_asked_for(project, request))
        request = self._vetting.amended_request(ev.RUN_START, request, ("name", "metadata"))
        if self.intake is not None:
            request = await self._within_stream(self.intake, project, request)
        status = await self._orchestrator.start_run(
            project, request, participant=self._participant, source=self._source
        )
        self._access.addressing.started((project, status.run_id))
        self._touch(project, status.run_id)
        if self.intake is not None:
            self.intake.run_id = status.run_id
        return status

    async def _run_asked_for(self, project: str, request: Mapping[str, Any]) -> str | None:
        """The run that a `startTestRun` names, be it by its key, as far as it is there already."""
        asked, key = request.get("runId"), request.get("key")
        if asked is not None or key is None or not self._orchestrator.gate.admits:
            return asked
        return await self._orchestrator.run_of_key(project, key)

    def may_follow(self, project: str, principal: Principal | None) -> bool:
        """Whether a subscription may go on that `principal` was let open: it may have been narrowed since."""
        if not self._access.may_see(project):
            return False
        return principal is self._access.principal or self._access.allows("subscribe", project)

    @property
    def principal(self) -> Principal | None:
        """Who is on this connection, as far as that is known."""
        return self._access.principal

    async def _within_stream(self, intake: StreamIntake, project: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """A stream's own run, whatever else the request names it by. Raises `RefusedError` (`stream_conflict`)."""
        asked = request.get("runId")
        if intake.run_id is not None:
            if project != intake.project or asked not in (None, intake.run_id):
                raise refuse("stream_conflict", f"the stream belongs to run `{intake.run_id}`; a stream has one run")
            return {**request, "runId": intake.run_id}
        if project != intake.project:  # the run is in another project than `hello` had said, or had left open
            attendance = self._orchestrator.attendance
            await attendance.hold_stream(project, intake.stream_id, self, run_id=asked, resume=False)
            attendance.release_stream(intake.project, intake.stream_id, self)
            intake.project = project
        return request

    async def end_run(self, request: Mapping[str, Any]) -> RunStatus:
        """End this client's part in a run: the named one, else the one that it started last."""
        project, run_id = self._access.addressing.run_of(request)
        await self._access.admit("endTestRun", project, run_id=run_id)
        status = await self._orchestrator.end_run(
            project,
            run_id,
            participant=self._participant,
            source=self._source,
            force=bool(request.get("force")),
        )
        if status.is_over:
            self._touched.pop((project, run_id), None)  # a host's one conversation may see runs without end
        self._access.addressing.ended((project, run_id))
        return status

    async def cancel_run(self, request: Mapping[str, Any]) -> RunStatus:
        """End a run at once, as interrupted."""
        project, run_id = self._access.addressing.run_of(request)
        await self._access.admit("cancelTestRun", project, run_id=run_id)
        reason = self._vetting.amended_request(ev.RUN_END, request, ("reason",)).get("reason")
        return await self._orchestrator.cancel_run(project, run_id, source=self._source, reason=reason)

    # Inside.

    @property
    def _participant(self) -> str:
        return self._source.stream or self._source.connection

    def _touch(self, project: str, run_id: str) -> None:
        if len(self._touched) >= MAX_TOUCHED_RUNS:
            shown = self._orchestrator.snapshot()
            over = [address for address in self._touched if address not in shown or shown[address].is_over]
            for address in over:
                del self._touched[address]
        self._touched[project, run_id] = self._participant

    def _presence_facts(self) -> dict[str, Any]:
        return {"connection": self.id, "principal": self._access.name, "transport": self._handshake.transport}
