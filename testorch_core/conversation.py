"""One client's conversation with the orchestrator, whatever carries it: who it is, what it addresses, what it may do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import trio

from testorch_core import events as ev
from testorch_core.addressing import Addressing
from testorch_core.decoding import flaw_in
from testorch_core.errors import Problem, Refusal, RefusedError, TestorchError, refuse
from testorch_core.events import Source, WireEvent
from testorch_core.gate import invalid_event
from testorch_core.interfaces.security import AccessRequest, Allow, Close, Delay, Principal, Refuse
from testorch_core.interfaces.transport import Handshake
from testorch_core.items import Submission
from testorch_core.orchestrator import DEFAULT_WINDOW, Orchestrator
from testorch_core.protocol import CLOSE_UNAUTHENTICATED, envelope_problems
from testorch_core.runs import RunStatus


class CloseConversation(TestorchError):  # noqa: N818 - an order to the session, not a failure
    """A policy wants the connection closed."""

    code = "close"

    def __init__(self, close_code: int, reason: str) -> None:
        self.close_code = close_code
        self.reason = reason
        super().__init__(reason)


class Conversation:
    """The state of one client: its principal, its project and the runs that it has touched.

    `open` first, `close` at the end. A `host` (an embedding server) may write presence events itself.
    """

    def __init__(self, orchestrator: Orchestrator, handshake: Handshake, *, host: bool = False) -> None:
        self.id = orchestrator.new_id()
        self._orchestrator = orchestrator
        self._handshake = handshake
        self._host = host
        self._principal: Principal
        self._source = Source(self.id)
        self._addressing = Addressing(None, orchestrator.new_id)
        self._touched: dict[tuple[str, str], str] = {}
        self._is_open = False

    @property
    def project(self) -> str:
        """The project of the run that was started last, else the default one."""
        return self._addressing.home

    async def open(self) -> None:
        """Authenticate, and write `system/client/connect`. Raises `CloseConversation` for a stranger."""
        principal = await self._orchestrator.gate.authenticate(self._handshake)
        if principal is None:
            self._orchestrator.refusals.count("unauthenticated")
            raise CloseConversation(CLOSE_UNAUTHENTICATED, "unauthenticated")
        self._principal = principal
        self._source = Source(self.id, principal.name)
        self._addressing = Addressing(principal.projects, self._orchestrator.new_id)
        self._is_open = True
        self._orchestrator.clients.add(self.id)
        await self._note_presence(ev.CLIENT_CONNECT)

    async def close(self) -> None:
        """Write `system/client/disconnect`, and leave the runs that this client takes part in. Works twice.

        When cancelled, the runs' participants are found missing after the next start.
        """
        if not self._is_open:
            return
        self._is_open = False
        self._orchestrator.clients.discard(self.id)
        for (project, run_id), participant in self._touched.items():
            try:
                await self._orchestrator.departed(project, run_id, participant=participant, source=self._source)
            except RefusedError as refused:
                self._orchestrator.log.warning("departure_not_stored", run=run_id, error=refused.refusal.message)
        await self._note_presence(ev.CLIENT_DISCONNECT)

    # Events.

    async def record(
        self, events: Sequence[Any], *, kind: str = "event", size_bytes: int = 0, suspicious: bool = False
    ) -> tuple[list[Submission], list[Refusal]]:
        """Check events and queue the good ones; returns what was queued, and the refusals of the others.

        Raises `RefusedError` when the message as a whole may not pass, `CloseConversation` when the client must go.
        """
        project = self._addressing.home
        await self._admit(kind, project, events=len(events), size_bytes=size_bytes)
        accepted: dict[tuple[str, str], list[tuple[WireEvent, bytes]]] = {}
        refusals: list[Refusal] = []
        for event in events:
            try:
                wire, content_hash = self._checked(event, suspicious=suspicious)
                if wire["type"] in ev.PRESENCE_TYPES:
                    await self._orchestrator.host_event(self._addressing.project_of(wire), wire, source=self._source)
                else:
                    accepted.setdefault(self._addressing.address_of(wire), []).append((wire, content_hash))
            except RefusedError as refused:
                refusals.append(refused.refusal)
        return [await self._submit(*address, part) for address, part in accepted.items()], refusals

    def check(self, event: Any) -> Refusal | None:
        """What `record` would refuse an event for by its content, without recording it."""
        try:
            self._checked(event, suspicious=True)
        except RefusedError as refused:
            return refused.refusal
        return None

    def _checked(self, event: Any, *, suspicious: bool) -> tuple[WireEvent, bytes]:
        problems = envelope_problems(event)
        if not problems and suspicious:
            flaw = flaw_in(event)
            problems = [flaw] if flaw is not None else []
        if problems:
            raise RefusedError(invalid_event(event, problems))
        self._check_type(event)
        refusal = self._orchestrator.gate.check(event)
        if refusal is not None:
            raise RefusedError(refusal)
        amended = self._orchestrator.gate.amend(event)
        return amended, hash_of(amended)

    def _check_type(self, event: WireEvent) -> None:
        kind = event["type"]
        if kind in ev.SERVER_TYPES or (kind in ev.PRESENCE_TYPES and not self._host):
            problem = Problem("type", f"`{kind}` is written by the server alone")
            raise RefusedError(invalid_event(event, [problem]))

    async def _submit(self, project: str, run_id: str, events: list[tuple[WireEvent, bytes]]) -> Submission:
        submission = Submission(
            project,
            run_id,
            events,
            source=self._source,
            received_at=self._orchestrator.clock_ms(),
            implicit=self._addressing.is_implicit((project, run_id)),
        )
        if (project, run_id) not in self._touched:
            self._touch(project, run_id)
            self._orchestrator.entered(project, run_id, self._participant, self.id)
        await self._orchestrator.submit(submission)
        return submission

    # Runs.

    async def start_run(self, request: Mapping[str, Any]) -> RunStatus:
        """Open or join a run, which becomes the one that events without a run belong to."""
        project = self._addressing.project_of(request)
        await self._admit("startTestRun", project, run_id=request.get("runId"))
        if "participant" in request:
            self._source = Source(self.id, self._principal.name, request["participant"])
        self._check_embedded(request.get("metadata"))
        status = await self._orchestrator.start_run(
            project, request, participant=self._participant, source=self._source
        )
        self._addressing.started((project, status.run_id))
        self._touch(project, status.run_id)
        return status

    async def end_run(self, request: Mapping[str, Any]) -> RunStatus:
        """End this client's part in a run: the named one, else the one that it started last."""
        project, run_id = self._addressing.run_of(request)
        await self._admit("endTestRun", project, run_id=run_id)
        status = await self._orchestrator.end_run(
            project,
            run_id,
            participant=self._participant,
            source=self._source,
            force=bool(request.get("force")),
        )
        if status.is_over:
            self._touched.pop((project, run_id), None)  # a host's one conversation may see runs without end
        self._addressing.ended((project, run_id))
        return status

    async def cancel_run(self, request: Mapping[str, Any]) -> RunStatus:
        """End a run at once, as interrupted."""
        project, run_id = self._addressing.run_of(request)
        await self._admit("cancelTestRun", project, run_id=run_id)
        return await self._orchestrator.cancel_run(project, run_id, source=self._source, reason=request.get("reason"))

    # Queries.

    async def active_runs(self, request: Mapping[str, Any]) -> list[RunStatus]:
        """The open runs of the named project, else of every project that this client may see."""
        project = request.get("project")
        await self._admit("getActiveRuns", self._addressing.project_of(request))
        found = await self._orchestrator.active_runs(project)
        return [one for one in found if self._principal.projects is None or one.project in self._principal.projects]

    async def run_status(self, request: Mapping[str, Any]) -> RunStatus:
        """One run."""
        project, run_id = self._addressing.run_of(request)
        await self._admit("getRunStatus", project, run_id=run_id)
        return await self._orchestrator.query_run(project, run_id)

    async def statistics(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Statistics of the named project, else of all that this client may see as one."""
        project = request.get("project")
        if project is None and self._principal.projects is not None:
            project = self._addressing.project_of(request)
        await self._admit("getStatistics", self._addressing.project_of(request))
        return await self._orchestrator.statistics(project, window=request.get("window", DEFAULT_WINDOW))

    # Addressing and access.

    @property
    def _participant(self) -> str:
        return self._source.stream or self._source.connection

    def _touch(self, project: str, run_id: str) -> None:
        self._touched[project, run_id] = self._participant

    def _check_embedded(self, metadata: Any) -> None:
        flaw = flaw_in(metadata)
        if flaw is not None:
            raise refuse("invalid_message", f"`metadata`: {flaw}", details=(flaw,))

    async def _admit(
        self, action: str, project: str, *, run_id: str | None = None, events: int = 0, size_bytes: int = 0
    ) -> None:
        request = AccessRequest(
            principal=self._principal,
            handshake=self._handshake,
            action=action,
            project=project,
            run_id=run_id,
            events=events,
            size_bytes=size_bytes,
        )
        verdict = self._orchestrator.gate.admit(request)
        said = verdict.admission
        if isinstance(said, Allow):
            return
        if isinstance(said, Delay):
            await trio.sleep(said.seconds)
        elif isinstance(said, Refuse):
            raise refuse(
                said.code,
                said.reason,
                temporary=said.retry_after_ms is not None,
                retry_after_ms=said.retry_after_ms,
                policy=verdict.policy,
            )
        elif isinstance(said, Close):
            raise CloseConversation(said.code, said.reason)

    async def _note_presence(self, kind: str) -> None:
        facts = {"connection": self.id, "principal": self._principal.name, "transport": self._handshake.transport}
        if kind == ev.CLIENT_CONNECT:
            facts |= {"address": self._handshake.address, "agent": self._handshake.headers.get("user-agent", "")}
        await self._orchestrator.presence(self._addressing.home, kind, facts, source=self._source)


def hash_of(wire: WireEvent) -> bytes:
    """A hash of an event's content that is the same for equal events, whatever the order of their keys.

    Raises `RefusedError` (`invalid_event`) for what is not JSON: an embedding host can pass any object.
    """
    try:
        encoded = orjson.dumps(wire, option=orjson.OPT_SORT_KEYS)
    except TypeError as failure:
        raise RefusedError(invalid_event(wire, [Problem("", f"can't be written as JSON: {failure}")])) from None
    return hashlib.blake2b(encoded, digest_size=16).digest()
