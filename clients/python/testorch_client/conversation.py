"""One connection's worth of a stream: hello, start of the run, events against acknowledgements, end and receipt.

Nothing is asked about events: the server acknowledges by itself what it has committed, and says which event to go on
from where it could not take one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from testorch_client.answers import SEQUENCE_GAP, Refusal, Welcome
from testorch_client.encoding import HEARTBEAT, decode_message, events_message, request_message
from testorch_client.errors import Closed, Rejected
from testorch_client.ledger import Ledger
from testorch_client.link import Link
from testorch_client.receipt import Receipt
from testorch_client.stream import TOO_LARGE

# How long events wait for company. Short enough to look live; long enough that neither this thread nor the server,
# which may share the machine's cores with the suite, works for each test by itself.
LINGER_SECONDS = 0.2
# A server that hasn't answered or acknowledged anything for so long has lost the question, or itself.
ANSWER_TIMEOUT_SECONDS = 30.0

Request = Literal["hello", "startTestRun", "streamEnd", "endTestRun"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that waits for its answer; only one at a time, and no events are sent meanwhile."""

    request_id: int
    kind: Request


class Conversation:
    """Talks over one link until all is delivered, the link ends (`Closed`), or the server says no (`Rejected`)."""

    def __init__(
        self,
        link: Link,
        ledger: Ledger,
        *,
        monotonic: Callable[[], float],
        joined: Callable[[], None],
        before_sending: Callable[[], None],
    ) -> None:
        self.is_joined = False
        self._before_sending = before_sending
        self._on_joined = joined
        self._link = link
        self._ledger = ledger
        self._stream = ledger.stream
        self._monotonic = monotonic
        self._last_request_id = 0
        self._asked: Asked | None = None
        self._is_welcome = False
        self._is_blocked = False
        self._gap_seq: int | None = None
        self._hold_until_seconds = 0.0
        self._waiting_since_seconds = self._sent_at_seconds = monotonic()
        # Twice as often as the server wants to hear from us, since a busy suite may delay this thread.
        self._heartbeat_seconds = LINGER_SECONDS

    def hold(self, idle: threading.Event) -> None:
        """Converse until the client closes and all is delivered. `idle` ends a wait early; it is set at closing."""
        while True:
            self._turn()
            if self._is_done():
                return
            pause_seconds = min(LINGER_SECONDS, self._heartbeat_seconds)
            if self._ledger.is_closing or self._is_blocked or not self.is_joined:
                self._read(pause_seconds)
            else:
                idle.wait(pause_seconds)

    def _is_done(self) -> bool:
        ledger = self._ledger
        if not (ledger.is_closing and self.is_joined and ledger.is_delivered):
            return False
        return self._asked is None and (ledger.is_ended or not ledger.is_ending)

    def _turn(self) -> None:
        self._read(0)
        self._check_patience()
        # An answer that is awaited comes before anything else is said; so does the end of a server's "not now".
        if self._asked is None and not self._is_held():
            self._go_on()
        if self._is_welcome and self._monotonic() - self._sent_at_seconds >= self._heartbeat_seconds:
            self._send(HEARTBEAT)

    def _go_on(self) -> None:
        ledger = self._ledger
        if not self._is_welcome:
            self._ask("hello", ledger.hello())
        elif not self.is_joined:
            self._ask("startTestRun", ledger.start())
        else:
            self._before_sending()
            self._send_events()
            # Whether the end is wanted is read first: nothing is emitted after that.
            if ledger.is_ending and ledger.is_delivered:
                self._end()

    def _is_held(self) -> bool:
        return self._monotonic() < self._hold_until_seconds

    def _check_patience(self) -> None:
        if self._asked is None and not self._stream.window.in_flight:
            return
        if self._monotonic() - self._waiting_since_seconds > ANSWER_TIMEOUT_SECONDS:
            missing = "no event was acknowledged" if self._asked is None else f"`{self._asked.kind}` was not answered"
            raise Closed(1006, f"{missing} within {ANSWER_TIMEOUT_SECONDS:.0f} s")

    # Out

    def _send_events(self) -> None:
        stream = self._stream
        while not self._is_held():
            self._ledger.fill_window()
            if not stream.window.in_flight:
                self._waiting_since_seconds = self._monotonic()
            batch = stream.next_batch()
            if not batch:
                break
            self._send(events_message(batch))
            self._read(0)
        self._is_blocked = not stream.has_room

    def _end(self) -> None:
        if self._stream.receipt is None:
            self._ask("streamEnd", self._ledger.stream_end())
        elif not self._ledger.is_ended:
            self._ask("endTestRun", {"runId": self._ledger.run_id})

    def _ask(self, kind: Request, payload: dict[str, Any]) -> None:
        self._last_request_id += 1
        self._waiting_since_seconds = self._monotonic()
        self._asked = Asked(self._last_request_id, kind)
        self._send(request_message(kind, payload, self._last_request_id))

    def _send(self, text: str) -> None:
        self._link.send(text)
        self._sent_at_seconds = self._monotonic()

    # In

    def _read(self, wait_seconds: float) -> None:
        """Take in all that has come, waiting so long for the first message."""
        message = self._link.receive(wait_seconds)
        while message is not None:
            self._take(*decode_message(message))
            message = self._link.receive(0)

    def _take(self, kind: str, payload: dict[str, Any], in_reply_to: object) -> None:
        asked = self._asked
        if in_reply_to is not None:
            if asked is None or in_reply_to != asked.request_id:
                return
            self._asked = None
            if kind == "error":
                self._take_refused_request(asked.kind, Refusal.read(payload))
            else:
                self._take_answer(asked.kind, payload)
        elif kind == "ack":
            seq = payload.get("seq")
            if payload.get("streamId") == self._stream.stream_id and type(seq) is int:
                self._waiting_since_seconds = self._monotonic()
                self._stream.confirm(seq)
        elif kind == "error":
            self._take_refused_events(Refusal.read(payload))

    def _take_answer(self, kind: Request, payload: dict[str, Any]) -> None:
        ledger = self._ledger
        if kind == "hello":
            self._take_welcome(Welcome.read(payload))
        elif kind == "streamEnd":
            self._stream.take_receipt(Receipt.read(payload))
        else:
            ledger.status = payload
            if kind == "endTestRun":
                ledger.is_ended = True
            else:
                self._take_run(payload.get("runId"))

    def _take_welcome(self, welcome: Welcome) -> None:
        self._ledger.resume(welcome)
        self._is_welcome = True
        self._heartbeat_seconds = welcome.heartbeat_seconds / 2
        if self._ledger.is_started:
            self._join()

    def _take_run(self, run_id: object) -> None:
        if isinstance(run_id, str):
            self._ledger.run_id = run_id
        if self._ledger.run_id is None:
            raise Rejected("the server's `testRunStarted` names no run; expected a `runId`")
        self._ledger.is_started = True
        self._join()

    def _join(self) -> None:
        self._ledger.was_joined = self.is_joined = True
        self._on_joined()

    def _take_refused_request(self, kind: Request, refusal: Refusal) -> None:
        if refusal.code == SEQUENCE_GAP and refusal.seq is not None:
            self._go_back(refusal)
        elif refusal.is_temporary:
            self._hold(refusal)
        elif kind == "endTestRun" and refusal.code == "run_finished":
            self._ledger.is_ended = True  # by somebody else, before us
        else:
            raise Rejected(refusal.sentence(kind))

    def _take_refused_events(self, refusal: Refusal) -> None:
        if refusal.code == SEQUENCE_GAP or refusal.is_temporary:
            self._go_back(refusal)
        elif refusal.seq is not None:
            self._stream.refuse(refusal.seq, refusal.code)
        elif refusal.code == TOO_LARGE:
            raise Closed(1009, refusal.message)
        else:
            # A message as a whole, or the connection: to go on would leave a gap that can't be closed.
            raise Rejected(refusal.sentence("events"))

    def _go_back(self, refusal: Refusal) -> None:
        """Send again from the event that the server names, or else from the first that it hasn't acknowledged."""
        seq = refusal.seq if refusal.seq is not None else self._stream.window.acked_seq + 1
        self._stream.go_back_to(seq)
        if refusal.code != SEQUENCE_GAP:
            self._hold(refusal)
        elif self._gap_seq == seq:
            # It was sent again already. Another connection, after a while, rather than this for ever.
            raise Closed(1006, f"the server keeps asking for event {seq}")
        else:
            self._gap_seq = seq

    def _hold(self, refusal: Refusal) -> None:
        self._hold_until_seconds = self._monotonic() + refusal.retry_seconds
