"""Embedding: the orchestration inside a WebSocket server of one's own, whose other messages stay as they are.

    async with create_orchestrator_integration(db_path="./test-results.db") as orchestration:
        handlers = orchestration.create_websocket_handlers()
        error = await handlers.on_event(message["payload"])

In trio the core runs in the host's own event loop. In asyncio it runs in a thread of its own behind `testorch_core.bridge`;
the handlers are then awaited in asyncio and are otherwise the same.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sniffio
import trio

from testorch_core.access import CloseConversation
from testorch_core.bridge import Bridge, CallDirectly, Caller
from testorch_core.config import Configuration, configuration_of, defaults, read_configuration
from testorch_core.conversation import Conversation
from testorch_core.embedded import admitted_events, handshake_of
from testorch_core.errors import ConfigurationError, Problem, Refusal, RefusedError, TestorchError
from testorch_core.host_values import admitted
from testorch_core.hosting import single_failure
from testorch_core.logs import library_log
from testorch_core.protocol import CLOSE_INTERNAL, CLOSE_UNAUTHENTICATED, ERROR_CODES, check_payload
from testorch_core.runs import RunStatus
from testorch_core.server import Server


@dataclass(frozen=True, slots=True)
class Validation:
    """The answer of `on_validate_event`. `error` is the payload of the `error` message to send, None for a valid event."""

    valid: bool
    error: Mapping[str, Any] | None = None


class RequestError(TestorchError):
    """A request was refused. `message` is the `error` message to send to the client, whole."""

    code = "request_refused"

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        self.message = error_message(refusal)
        super().__init__(refusal.message)


def create_orchestrator_integration(
    *,
    db_path: str | os.PathLike[str] | None = None,
    security_policy: Mapping[str, Mapping[str, Any]] | None = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    log: Any = None,
) -> OrchestratorIntegration:
    """The orchestration for an embedding server; holds only settings until it is started.

    `config` is a configuration file's path, or its tables; without it, the installed defaults for embedding (SQLite and
    event validation). `db_path` overrides `storage.path`; `security_policy` replaces the `[security]` tables: instance
    name -> options, such as `{"events": {"use": "event_validation", "unknown_types": "refuse"}}`. An empty one means
    that nothing is checked but the envelope. Transports in the configuration are left out: the host brings its own.

    Raises `ConfigurationError` with everything that is wrong.
    """
    chosen = _configuration(config, security_policy)
    if db_path is not None:
        chosen = chosen.with_storage(path=str(Path(db_path).absolute()))
    return OrchestratorIntegration(Server(chosen, log=log if log is not None else library_log()))


def _configuration(
    config: str | os.PathLike[str] | Mapping[str, Any] | None, policy: Mapping[str, Mapping[str, Any]] | None
) -> Configuration:
    if config is None:
        chosen = defaults("embedded", folder=Path.cwd())
    elif isinstance(config, Mapping):
        chosen = configuration_of(config, source="config", folder=Path.cwd())
    else:
        chosen = read_configuration(Path(config))
    if policy is not None:
        if not isinstance(policy, Mapping):
            raise ConfigurationError("security_policy", [Problem("", "must be a mapping of instance name -> options")])
        chosen = chosen.with_security(policy)
    return chosen.without_transports()


class OrchestratorIntegration:
    """The orchestration of an embedding server. Start it once, by `async with` or `start(nursery)`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._caller: Caller = CallDirectly()
        self._stack = contextlib.AsyncExitStack()
        self._shared: WebSocketHandlers | None = None
        self._finished = trio.Event()
        self._started = False

    async def __aenter__(self) -> Self:
        if sniffio.current_async_library() == "trio":
            # The one sanctioned nursery across a yield: entered and left in one task, by the host's `async with`.
            nursery = await self._stack.enter_async_context(trio.open_nursery())
            try:
                await self.start(nursery)
            except BaseException:  # the nursery must not stay open when the host's `async with` is never entered
                with single_failure():
                    await self._stack.__aexit__(*sys.exc_info())
                raise
        else:
            bridge = Bridge(self._server)
            await bridge.start()
            self._caller = bridge
            self._started = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()
        await self._stack.__aexit__(kind, failure, trace)

    async def start(self, nursery: trio.Nursery) -> None:
        """Start in a nursery of the host's, in trio; returns when ready. Raises `OpeningError`."""
        self._started = True
        await nursery.start(self._run)

    async def shutdown(self) -> None:
        """Commit what has arrived, let the reporters catch up, close. Idempotent; works before the start."""
        if not self._started:
            return
        if self._shared is not None:
            await self._shared.aclose()
        if isinstance(self._caller, Bridge):
            await self._caller.stop()
            return
        self._server.stop()
        await self._finished.wait()

    def create_websocket_handlers(self, client: Mapping[str, Any] | None = None) -> WebSocketHandlers:
        """Handlers for one connection of the host's, or, without `client`, one set for all of its connections.

        `client` tells what is known of the connection: `address`, `headers`, `token`. What of it can't have come with a
        request (a header or token with half a character, or too long) counts as not there. With handlers of its own a
        connection keeps its runs apart, and its going is noticed: call their `aclose` then. The shared set is one
        anonymous connection.
        """
        if client is not None:
            return self._make_handlers(client)
        if self._shared is None:
            self._shared = self._make_handlers({})
        return self._shared

    def _make_handlers(self, client: Mapping[str, Any]) -> WebSocketHandlers:
        conversation = Conversation(self._server.orchestrator, handshake_of(client), host=True)
        return WebSocketHandlers(self._server, conversation, lambda: self._caller)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            await self._server.run(task_status=task_status)
        finally:
            self._finished.set()


class WebSocketHandlers:
    """What a host calls from its message handler. One conversation: runs, presence and limits are its own.

    Asynchronous handlers return after the commit. The synchronous ones read an immutable snapshot of the last commit and
    may be called from any thread. Answers are plain dictionaries, the payloads of the protocol's answers.
    """

    def __init__(self, server: Server, conversation: Conversation, caller: Any) -> None:
        self._orchestrator = server.orchestrator
        self._conversation = conversation
        self._caller = caller
        self._state = _Opening()

    async def on_event(self, event: Any) -> dict[str, Any] | None:
        """Record one event; None once it is committed, else the `error` message to send. Never raises on content."""
        errors = await self.on_events([event])
        return errors[0] if errors else None

    async def on_events(self, events: Sequence[Any]) -> list[dict[str, Any]]:
        """Record events in one go (one at a time costs a commit each); returns the `error` messages to send.

        As a message of the protocol they may have `max_message_bytes` in all, else none is taken (`too_large`).
        """
        refusals = await self._refusals_of(self._record, events)
        for refusal in refusals:
            self._orchestrator.refusals.count(refusal.code)
        return [error_message(refusal) for refusal in refusals]

    async def on_validate_event(self, event: Any) -> Validation:
        """Whether an event would be refused for its content; records nothing."""
        refusals = await self._refusals_of(self._check, [event])
        return Validation(not refusals, refusals[0].payload() if refusals else None)

    async def on_start_test_run(self, payload: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Open or join a run; the payload of `testRunStarted`. Raises `RequestError`."""
        return await self._status("startTestRun", self._conversation.start_run, payload)

    async def on_end_test_run(self, run_id: str | None = None, *, force: bool = False) -> dict[str, Any]:
        """End this connection's part in a run; the payload of `testRunEnded`. Raises `RequestError`."""
        request = {"runId": run_id, "force": force}
        return await self._status("endTestRun", self._conversation.end_run, request)

    async def on_cancel_test_run(self, run_id: str, *, reason: str | None = None) -> dict[str, Any]:
        """End a run at once, as interrupted; the payload of `testRunEnded`. Raises `RequestError`."""
        request = {"runId": run_id, "reason": reason}
        return await self._status("cancelTestRun", self._conversation.cancel_run, request)

    async def on_query_run(self, run_id: str, *, project: str | None = None) -> dict[str, Any]:
        """Any stored run; the payload of `runStatus`. Raises `RequestError`."""
        request = {"runId": run_id, "project": project}
        return await self._status("getRunStatus", self._conversation.queries.run_status, request)

    async def on_get_statistics(self, payload: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The payload of `statistics`. Raises `RequestError`."""
        answer: dict[str, Any] = await self._ask("getStatistics", self._conversation.queries.statistics, payload)
        return answer

    def on_get_active_runs(self, project: str | None = None) -> list[dict[str, Any]]:
        """The payload of `activeRuns`, as of the last commit; the oldest run first."""
        found = [
            one
            for one in self._orchestrator.snapshot().values()
            if not one.is_over and project in (None, one.project) and self._may_see(one.project)
        ]
        return [one.payload() for one in sorted(found, key=lambda one: (one.started_at or 0, one.run_id))]

    def on_get_run_status(self, run_id: str, project: str | None = None) -> dict[str, Any] | None:
        """The payload of `runStatus` as of the last commit: open runs and the last finished ones, else None."""
        address = (project or self._conversation.project, run_id)
        try:
            found: RunStatus | None = self._orchestrator.snapshot().get(address)
        except TypeError:  # no text, and not even hashable: a host may pass on whatever its client has sent
            return None
        return None if found is None or not self._may_see(found.project) else found.payload()

    def _may_see(self, project: str) -> bool:
        """Whether this connection may look into a project; before its first message, who it is need not be known yet."""
        return self._conversation.may_see(project) or not (self._state.opened or self._orchestrator.gate.authenticates)

    async def aclose(self) -> None:
        """The connection has gone: leave its runs as the protocol says. Idempotent."""
        if self._state.opened:
            await self._caller().call(self._conversation.close)

    async def _call(self, handler: Any, *args: Any) -> Any:
        async def opened() -> Any:
            async with self._state.lock:
                if not self._state.opened:
                    if not await self._conversation.open():
                        raise CloseConversation(CLOSE_UNAUTHENTICATED, "unauthenticated")
                    self._state.opened = True
            return await handler(*args)

        return await self._caller().call(opened)

    async def _status(self, kind: str, handler: Any, payload: Mapping[str, Any] | None) -> dict[str, Any]:
        status: RunStatus = await self._ask(kind, handler, payload)
        return status.payload()

    async def _ask(self, kind: str, handler: Any, payload: Mapping[str, Any] | None) -> Any:
        most = self._orchestrator.options.max_message_bytes

        async def checked(request: Any) -> Any:
            return await handler(check_payload(kind, request))

        try:
            return await self._call(checked, admitted(payload, max_bytes=most).value)
        except RefusedError as refused:
            self._orchestrator.refusals.count(refused.refusal.code)
            raise RequestError(refused.refusal) from None
        except CloseConversation as order:
            raise RequestError(_refusal_for(order)) from None

    async def _refusals_of(self, work: Any, events: Sequence[Any]) -> list[Refusal]:
        """What events are refused for. They are copied here, where nobody can change them meanwhile."""
        try:
            taken, size_bytes = admitted_events(events, self._orchestrator.options.max_message_bytes)
            refusals: list[Refusal] = await self._call(work, taken, size_bytes)
        except RefusedError as refused:
            return [refused.refusal]
        except CloseConversation as order:
            return [_refusal_for(order)]
        return refusals

    async def _record(self, events: Sequence[Any], size_bytes: int) -> list[Refusal]:
        submissions, refusals = await self._conversation.record(events, kind="events", size_bytes=size_bytes)
        for submission in submissions:
            await submission.done.wait()
            refusals += submission.refusals
            refusals += [submission.failure] if submission.failure is not None else []
        return refusals

    async def _check(self, events: Sequence[Any], size_bytes: int) -> list[Refusal]:
        found = [self._conversation.check(event) for event in events]
        return [refusal for refusal in found if refusal is not None]


class _Opening:
    """Whether a conversation has been opened; it is opened by the first call, because making handlers is synchronous."""

    def __init__(self) -> None:
        self.opened = False
        self.lock = trio.Lock()


def error_message(refusal: Refusal) -> dict[str, Any]:
    """The whole `error` message for a refusal."""
    return {"type": "error", "payload": refusal.payload()}


def _refusal_for(order: CloseConversation) -> Refusal:
    """The answer where a connection of our own would have been closed."""
    code = {CLOSE_UNAUTHENTICATED: "unauthenticated", CLOSE_INTERNAL: "internal"}.get(order.close_code, "forbidden")
    return Refusal(code, order.reason or ERROR_CODES[code])
