"""One connection's session: reads messages, keeps events flowing, answers requests in their order."""

from __future__ import annotations

from typing import Any, Final

import trio

from testorch_core.conversation import CloseConversation, Conversation
from testorch_core.decoding import Decoded, decode, encode, flaw_in
from testorch_core.errors import ConnectionClosedError, PluginFailedError, Refusal, RefusedError, refuse
from testorch_core.interfaces.transport import Connection
from testorch_core.items import Submission
from testorch_core.orchestrator import Orchestrator
from testorch_core.protocol import CLOSE_DONE, CLOSE_INTERNAL, CLOSE_RESTARTING, check_payload
from testorch_core.router import EVENT_TYPES, answer, require_known

MAX_UNANSWERED: Final = 256
"""Messages with events that may wait for their commit on one connection before it is read no further."""

QUIET_SECONDS: Final = 0.2
"""How long a draining session waits for another message before it takes the client's silence for the end."""


class Session:
    """Serves one connection to its end. Events are pipelined; a request is answered after all that was sent before it."""

    def __init__(self, orchestrator: Orchestrator, connection: Connection) -> None:
        self._orchestrator = orchestrator
        self._connection = connection
        self._conversation = Conversation(orchestrator, connection.handshake)
        self._log = orchestrator.log.bind(connection=self._conversation.id)
        self._draining = False
        self._waiting = trio.CancelScope()
        self._unanswered, self._to_answer = trio.open_memory_channel[Submission](MAX_UNANSWERED)
        self._pending = 0
        self._all_answered = trio.Event()

    async def serve(self) -> None:
        """Serve until the client goes, a policy closes the connection, or the server drains. Closes the connection.

        Raises only what must stop the server (a failed security plugin) and cancellation.
        """
        code, reason = CLOSE_INTERNAL, ""
        try:
            await self._conversation.open()
            code, reason = await self._converse()
        except CloseConversation as order:
            code, reason = order.close_code, order.reason
        except ConnectionClosedError:
            code = CLOSE_DONE
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._orchestrator.options.close_seconds):
                await self._conversation.close()
            await self._connection.aclose(code, reason)

    def drain(self) -> None:
        """Take what has arrived, answer it, and then close with 1012."""
        self._draining = True
        self._waiting.deadline = min(self._waiting.deadline, trio.current_time() + QUIET_SECONDS)

    async def _converse(self) -> tuple[int, str]:
        """Read until the end; returns the close code. Events that are still waiting are answered first."""
        outcome = (CLOSE_DONE, "")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer_events)
            try:
                outcome = await self._read_all()
            except CloseConversation as order:
                outcome = (order.close_code, order.reason)
            except ConnectionClosedError:
                pass
            await self._settle()
            nursery.cancel_scope.cancel()
        return outcome

    async def _read_all(self) -> tuple[int, str]:
        while True:
            raw = None
            with trio.CancelScope() as self._waiting:
                if self._draining:
                    self._waiting.deadline = trio.current_time() + QUIET_SECONDS
                raw = await self._connection.receive()
            if raw is None:
                return CLOSE_RESTARTING, "the server is stopping"
            await self._take(raw)

    async def _take(self, raw: bytes | str) -> None:
        reply_to: Any = None
        try:
            message = decode(raw, max_bytes=self._orchestrator.options.max_message_bytes)
            kind, payload, reply_to = _opened(message)
            if kind in EVENT_TYPES:
                await self._take_events(kind, payload, message, size_bytes=len(raw))
                return
            await self._settle()
            answer_type, body = await answer(self._conversation, kind, payload)
            await self._send(answer_type, body, reply_to)
        except RefusedError as refused:
            await self._settle()
            await self._refuse(refused.refusal, reply_to)
        except (CloseConversation, ConnectionClosedError, PluginFailedError):
            raise
        except Exception:  # a defect of ours in one message must cost that message an answer, not the server its life
            self._log.exception("internal_error")
            words = "a defect of the server; its log says more"
            await self._refuse(Refusal("internal", words), reply_to)

    async def _take_events(self, kind: str, payload: Any, message: Decoded, *, size_bytes: int) -> None:
        events = [payload] if kind == "event" else check_payload("events", payload)["events"]
        submissions, refusals = await self._conversation.record(
            events, kind=kind, size_bytes=size_bytes, suspicious=message.suspicious
        )
        for submission in submissions:
            self._pending += 1
            await self._unanswered.send(submission)
        for refusal in refusals:
            await self._refuse(refusal)

    async def _answer_events(self) -> None:
        """Tell the client what was refused of what it sent, in order, after each commit."""
        async for submission in self._to_answer:
            await submission.done.wait()
            try:
                for refusal in submission.refusals:
                    await self._refuse(refusal)
                if submission.failure is not None:
                    for wire, _ in submission.events:
                        await self._refuse(_about(submission.failure, wire["id"]))
            except ConnectionClosedError:
                pass  # nobody is left to be told; the reader notices the same
            self._pending -= 1
            if not self._pending:
                self._all_answered.set()

    async def _settle(self) -> None:
        """Wait until everything that was sent so far is committed and its refusals are told."""
        while self._pending:
            self._all_answered = trio.Event()
            await self._all_answered.wait()

    async def _refuse(self, refusal: Refusal, reply_to: Any = None) -> None:
        self._orchestrator.refusals.count(refusal.code)
        self._log.info("refused", code=refusal.code, policy=refusal.policy)
        await self._send("error", refusal.payload(), reply_to)

    async def _send(self, kind: str, payload: Any, reply_to: Any = None) -> None:
        message = {"type": kind, "payload": payload}
        if reply_to is not None:
            message["inReplyTo"] = reply_to
        await self._connection.send(encode(message))


def _opened(message: Decoded) -> tuple[str, Any, Any]:
    """(type, payload, id) of a message. Raises `RefusedError` (`invalid_message`, `unknown_type`)."""
    value = message.value
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise refuse("invalid_message", 'a message is an object with a `type`, such as `{"type": "getActiveRuns"}`')
    require_known(value["type"])
    if message.suspicious and value["type"] not in EVENT_TYPES:
        flaw = flaw_in(value)
        if flaw is not None:
            raise refuse("invalid_json", str(flaw), details=(flaw,))
    reply_to = value.get("id")
    return value["type"], value.get("payload"), reply_to if type(reply_to) in (str, int, float) else None


def _about(refusal: Refusal, event_id: str) -> Refusal:
    return Refusal(
        refusal.code,
        refusal.message,
        refusal.temporary,
        refusal.retry_after_ms,
        refusal.details,
        event_id,
        refusal.policy,
    )
