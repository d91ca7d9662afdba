"""One connection's session: reads messages, keeps events flowing, answers requests in their order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import trio

from testorch_core.access import MAX_REASON_BYTES, CloseConversation
from testorch_core.conversation import Conversation
from testorch_core.decoding import Decoded, decode, encode, flaw_in
from testorch_core.errors import ConnectionClosedError, Refusal, RefusedError, refuse, within
from testorch_core.events import AUDIT_REFUSAL
from testorch_core.interfaces.transport import Connection
from testorch_core.items import StreamSubmission, Submission
from testorch_core.orchestrator import Orchestrator
from testorch_core.protocol import (
    CLOSE_DONE,
    CLOSE_INTERNAL,
    CLOSE_RESTARTING,
    CLOSE_SILENT,
    CLOSE_STREAM_TAKEN,
    CLOSE_TOO_SLOW,
    CLOSE_UNAUTHENTICATED,
    MAX_ID_CHARACTERS,
    check_payload,
)
from testorch_core.router import EVENT_TYPES, HEARTBEAT, HELLO, SUBSCRIBE, UNSUBSCRIBE, answer, require_known
from testorch_core.subscriptions import Subscriptions
from testorch_core.text import clip

MAX_UNANSWERED: Final = 256
"""Submissions that may wait for their commit on one connection before it is read no further."""

MAX_GREETING_BYTES: Final = 64 * 1024
"""The largest message that is taken from a client before it is known who it is."""

AUDITED: Final = frozenset({"forbidden", "unauthenticated", "rate_limited"})
"""Refusals that the audit trail has."""

QUIET_SECONDS: Final = 0.2
"""How long a draining session waits for another message before it takes the client's silence for the end."""

Queued = Submission | StreamSubmission


class Session:
    """Serves one connection to its end. Events are pipelined; a request is answered after all that was sent before it."""

    def __init__(self, orchestrator: Orchestrator, connection: Connection) -> None:
        self._orchestrator = orchestrator
        self._connection = connection
        self._conversation = Conversation(orchestrator, connection.handshake)
        self._log = orchestrator.log.bind(connection=self._conversation.id)
        self._draining = False
        self._reading = trio.CancelScope()
        self._waiting_since = math.inf
        self._verdict: tuple[int, str] | None = None
        self._unanswered: deque[Queued] | None = None
        """What waits for its commit; none, and no task that waits with it, before the first event: observers send none."""
        self._greeting: bytes | str | None = None
        self._listening = trio.CancelScope()
        self._queued = trio.Event()
        self._answered = trio.Event()
        self._conversation.on_displaced = self._displaced
        self._nursery: trio.Nursery | None = None
        self._subscriptions = Subscriptions(orchestrator, self._conversation, connection)

    async def serve(self) -> None:
        """Serve until the client goes, a policy closes the connection, or the server drains. Closes the connection.

        Raises only cancellation: a defect costs this connection its life (1011), and nobody else's.
        """
        code, reason = CLOSE_INTERNAL, ""
        try:
            await self._introduce()
            code, reason = await self._converse()
        except CloseConversation as order:
            code, reason = order.close_code, within(order.reason, MAX_REASON_BYTES, MAX_REASON_BYTES)
        except ConnectionClosedError:
            code = CLOSE_DONE
        except Exception:  # see above
            self._log.exception("internal_error")
        finally:
            await self._leave()
            await self._connection.aclose(code, reason)

    async def _leave(self) -> None:
        seconds = self._orchestrator.options.close_seconds
        with trio.CancelScope(shield=True):
            with trio.move_on_after(seconds):
                async with self._orchestrator.leaving:
                    await self._conversation.close()
            with trio.move_on_after(seconds):  # had it no turn in time, it must still give back what it holds
                await self._conversation.close()

    def recheck(self) -> None:
        """Close the connection if the credential that let it in is good no more."""
        if self._nursery is not None and not self._conversation.is_still_known():
            self._end(CLOSE_UNAUTHENTICATED, "unauthenticated")

    def drain(self) -> None:
        """Take what has arrived, answer it, and then close with 1012."""
        self._draining = True
        self._listening.cancel()  # nothing has arrived from who has not yet said who it is
        if self._nursery is not None:
            self._nursery.start_soon(self._wait_for_quiet)

    async def _introduce(self) -> None:
        """Learn who this is, within the time that the transport gives. Raises `CloseConversation`.

        A client that has shown nothing yet must say `hello` with a token first; that message is then taken like any other.
        """
        latest = trio.current_time() + self._orchestrator.options.authentication_seconds
        with trio.move_on_at(min(latest, self._connection.handshake.deadline)) as bound:
            if not await self._conversation.open():
                with self._listening:
                    self._greeting = await self._connection.receive()
                if self._greeting is None:
                    raise CloseConversation(CLOSE_RESTARTING, "the server is stopping")
                await self._conversation.identify(_token_in(self._greeting))
        if bound.cancelled_caught:
            raise CloseConversation(CLOSE_TOO_SLOW, "it took too long to learn who this is")
        self._connection.admitted()

    async def _converse(self) -> tuple[int, str]:
        """Read until the end; returns the close code. Events that are still waiting are answered first."""
        outcome = (CLOSE_DONE, "")
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._draining:
                nursery.start_soon(self._wait_for_quiet)
            try:
                outcome = await self._read_all()
            except CloseConversation as order:
                outcome = (order.close_code, order.reason)
            except ConnectionClosedError:
                pass
            finally:
                # Whatever ended it: nothing is started any more. (A nursery closes some steps before its block is left.)
                self._nursery = None
            await self._settle()
            nursery.cancel_scope.cancel()
        return outcome

    async def _read_all(self) -> tuple[int, str]:
        # One scope for all messages: entering one for each would cost a tenth of what a small message costs in all.
        if self._greeting is not None:
            await self._take(self._greeting)
            self._greeting = None
        with self._reading:
            while self._verdict is None:
                self._waiting_since = trio.current_time()
                raw = await self._connection.receive()
                self._waiting_since = math.inf
                if self._reading.cancel_called:  # the message was there before the end was; it is taken all the same
                    with trio.CancelScope(shield=True):
                        await self._take(raw)
                else:
                    await self._take(raw)
        return self._verdict or (CLOSE_DONE, "")

    def _end(self, code: int, reason: str) -> None:
        """Stop reading: the connection is to be closed. What is being done is brought to its end."""
        self._verdict = code, reason
        if self._waiting_since < math.inf:
            self._reading.cancel()

    async def _wait_for_quiet(self) -> None:
        """While draining: end the conversation once the client has said nothing for a moment, or after half the time."""
        # A stream at full speed never falls silent. The other half is for the commit of what it has sent by then.
        latest = trio.current_time() + self._orchestrator.options.drain_seconds / 2
        while True:
            since = self._waiting_since
            await trio.sleep(QUIET_SECONDS)
            is_quiet = since < math.inf and since == self._waiting_since
            if is_quiet or trio.current_time() >= latest:
                self._end(CLOSE_RESTARTING, "the server is stopping")
                return

    async def _take(self, raw: bytes | str) -> None:
        reply_to: Any = None
        try:
            message = decode(raw, max_bytes=self._orchestrator.options.max_message_bytes)
            kind, payload, reply_to = _opened(message)
            if kind in EVENT_TYPES:
                await self._take_events(kind, payload, message, size_bytes=len(raw))
            elif kind != HEARTBEAT:
                self._conversation.weigh(len(raw))
                await self._answer(kind, payload, reply_to)
        except RefusedError as refused:
            await self._settle()
            await self._refuse(refused.refusal, reply_to)
        except (CloseConversation, ConnectionClosedError):
            raise
        except Exception:  # a defect of ours in one message must cost that message an answer, not the server its life
            self._log.exception("internal_error")
            words = "a defect of the server; its log says more"
            await self._refuse(Refusal("internal", words), reply_to)

    async def _answer(self, kind: str, payload: Any, reply_to: Any) -> None:
        await self._settle()
        request = check_payload(kind, payload)
        if kind == SUBSCRIBE:
            subscription = await self._subscriptions.open(request)
            await self._send("subscribed", subscription.opening, reply_to)
            self._spawn(self._subscriptions.follow, subscription)
            return
        if kind == UNSUBSCRIBE:
            await self._send("unsubscribed", self._subscriptions.close(request["subscriptionId"]), reply_to)
            return
        answer_type, body = await answer(self._conversation, kind, request)
        await self._send(answer_type, body, reply_to)
        if kind == HELLO and self._conversation.intake is not None:
            self._spawn(self._listen_for_life)

    # Events.

    async def _take_events(self, kind: str, payload: Any, message: Decoded, *, size_bytes: int) -> None:
        if kind == "event":
            events = [payload]
        elif type(payload) is dict and type(payload.get("events")) is list:  # as the schema wants it
            events = payload["events"]
        else:
            events = check_payload("events", payload)["events"]
        queued, refusals = await self._conversation.record(
            events, kind=kind, size_bytes=size_bytes, suspicious=message.suspicious
        )
        if self._unanswered is None:
            self._unanswered = deque()
            self._spawn(self._answer_events, self._unanswered)
        for submission in queued:
            if not self._unanswered or self._unanswered[-1] is not submission:
                self._unanswered.append(submission)
            self._queued.set()
        for refusal in refusals:
            await self._refuse(refusal)
        most = self._orchestrator.options.max_in_flight
        while len(self._unanswered) > MAX_UNANSWERED or sum(one.weight for one in self._unanswered) > most:
            await self._answered.wait()

    async def _answer_events(self, waiting: deque[Queued]) -> None:
        """Tell the client what became of its events, in order, after each commit: refusals, then one `ack` a stream."""
        while True:
            if not waiting:
                self._queued = trio.Event()
                await self._queued.wait()
            await waiting[0].done.wait()
            acked = 0
            while waiting and waiting[0].done.is_set():
                acked = max(acked, await self._tell(waiting[0]))
                waiting.popleft()
            await self._acknowledge(acked)
            self._answered.set()
            self._answered = trio.Event()

    async def _tell(self, submission: Queued) -> int:
        """Tell of refusals; returns how far the stream is committed, 0 where there is nothing to acknowledge."""
        failure = submission.failure
        with suppress(ConnectionClosedError):  # nobody is left to be told; the reader notices the same
            if isinstance(submission, StreamSubmission):
                return await self._tell_stream(submission)
            for refusal in submission.refusals:
                await self._refuse(refusal)
            if failure is not None:
                for wire, _ in submission.events:
                    await self._refuse(replace(failure, event_id=wire["id"]))
        return 0

    async def _tell_stream(self, submission: StreamSubmission) -> int:
        intake = self._conversation.intake
        assert intake is not None, "a stream's events come in by its intake"
        failure = submission.failure
        if failure is not None:
            if intake.halt(submission.first_seq):
                # With a `seq`, a permanent refusal would say that it was consumed.
                await self._refuse(replace(failure, seq=submission.first_seq) if failure.temporary else failure)
            return 0
        if submission.stopped:
            return 0
        state = self._conversation.stream_state()
        if state is not None:
            state.count_duplicates(submission.duplicates + submission.skipped)
        for refusal in submission.refusals:
            await self._refuse(refusal)
        return submission.acked_seq

    async def _acknowledge(self, seq: int) -> None:
        intake = self._conversation.intake
        if seq and intake is not None:
            with suppress(ConnectionClosedError):
                await self._send("ack", {"streamId": intake.stream_id, "seq": seq})

    async def _settle(self) -> None:
        """Wait until everything that was sent so far is committed and its refusals are told."""
        while self._unanswered:
            await self._answered.wait()

    # Presence.

    async def _listen_for_life(self) -> None:
        """End the connection of a stream whose client has said nothing for too long: it may be half open."""
        silence = self._orchestrator.options.silence_seconds
        while True:
            # Time in which nobody listens, since the server is busy, is not the client's silence.
            heard = self._waiting_since
            last = self._connection.heard_at
            if last is not None:
                heard = max(heard, last)
            left = heard + silence - trio.current_time() if heard < math.inf else silence
            if left <= 0:
                self._log.info("stream_silent", seconds=silence)
                self._end(CLOSE_SILENT, f"nothing was heard for {silence:g} s")
                return
            await trio.sleep(left)

    def _displaced(self, refusal: Refusal) -> None:
        async def tell() -> None:
            with suppress(ConnectionClosedError):
                await self._refuse(refusal)
            self._end(CLOSE_STREAM_TAKEN, "the stream was resumed on another connection")

        if self._nursery is not None:  # else it is at its end already
            self._spawn(tell)

    def _spawn(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(work, *args)

    async def _refuse(self, refusal: Refusal, reply_to: Any = None) -> None:
        self._orchestrator.refusals.count(refusal.code)
        if refusal.code in AUDITED:
            self._orchestrator.audit.note(
                AUDIT_REFUSAL, code=refusal.code, policy=refusal.policy, principal=self._conversation.principal_name
            )
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
    require_known(clip(value["type"], MAX_ID_CHARACTERS))  # looking for what is near takes long for what is long
    if message.suspicious and value["type"] not in EVENT_TYPES:
        flaw = flaw_in(value)
        if flaw is not None:
            raise refuse("invalid_json", str(flaw), details=(flaw,))
    reply_to = value.get("id")
    is_echoed = type(reply_to) in (int, float) or (type(reply_to) is str and len(reply_to) <= MAX_ID_CHARACTERS)
    return value["type"], value.get("payload"), reply_to if is_echoed else None


def _token_in(raw: bytes | str) -> str:
    """The token of a `hello` that comes before anything else. Raises `CloseConversation` where there is none."""
    try:
        value = decode(raw, max_bytes=MAX_GREETING_BYTES).value
        token = value["payload"]["token"] if value["type"] == HELLO else None
    except (RefusedError, TypeError, KeyError):
        token = None
    if not isinstance(token, str):
        raise CloseConversation(CLOSE_UNAUTHENTICATED, "unauthenticated")
    return token
