"""One connection's worth of the plain conversation: join the run, send events, ask for confirmation, end the run.

The rule everything rests on: the server answers a request only after all that the connection sent before it is
committed. So the answer to any request is a receipt for the events before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from testorch_client.encoding import decode_message, events_message, request_message
from testorch_client.errors import Closed, Rejected
from testorch_client.ledger import Ledger
from testorch_client.link import Link

# How long events wait for company. Short enough to look live; long enough that neither this thread nor the server,
# which may share the machine's cores with the suite, works for each test by itself.
LINGER_SECONDS = 0.2
MAX_BATCH_BYTES = 256 * 1024
# Ask for confirmation after so many events, or after so long with anything unconfirmed.
CONFIRM_EVENTS = 500
CONFIRM_SECONDS = 1.0
# A server that hasn't answered for so long has lost the question, or itself.
ANSWER_TIMEOUT_SECONDS = 30.0
DEFAULT_RETRY_MS = 1_000
MAX_RETRY_MS = 30_000

Request = Literal["startTestRun", "getRunStatus", "endTestRun"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that waits for its answer; only one at a time."""

    request_id: int
    kind: Request
    mark: int
    at_seconds: float


class Conversation:
    """Talks over one link until all is delivered, the link ends (`Closed`), or the server says no (`Rejected`)."""

    def __init__(
        self, link: Link, ledger: Ledger, *, monotonic: Callable[[], float], joined: Callable[[], None]
    ) -> None:
        self.is_joined = False
        self._on_joined = joined
        self._link = link
        self._ledger = ledger
        self._monotonic = monotonic
        self._last_request_id = 0
        self._asked: Asked | None = None
        self._last_asked_seconds = monotonic()
        self._hold_until_seconds = 0.0
        self._barrier: Request = "getRunStatus"

    def hold(self, idle: threading.Event) -> None:
        """Converse until the client closes and all is delivered. `idle` ends a wait early; it is set at closing."""
        self._ledger.window.rewind()
        while not self._is_done():
            self._turn()
            if self._ledger.is_closing or not self.is_joined:
                self._read(LINGER_SECONDS)
            else:
                idle.wait(LINGER_SECONDS)

    def _is_done(self) -> bool:
        ledger = self._ledger
        if not ledger.is_closing or not ledger.is_delivered or self._asked is not None:
            return False
        return self.is_joined and (ledger.is_ended or not ledger.is_ending)

    def _turn(self) -> None:
        self._read(0)
        now = self._monotonic()
        if self._asked is not None and now - self._asked.at_seconds > ANSWER_TIMEOUT_SECONDS:
            raise Closed(1006, f"`{self._asked.kind}` was not answered within {ANSWER_TIMEOUT_SECONDS:.0f} s")
        if now < self._hold_until_seconds:
            return
        if not self.is_joined:
            if self._asked is None:
                self._ask("startTestRun", self._ledger.start_payload())
            return
        self._send_events()
        self._ask_if_due(now)

    # Out

    def _send_events(self) -> None:
        ledger, window = self._ledger, self._ledger.window
        window.resume()
        assert ledger.run_id is not None
        while not (ledger.is_doubting and window.in_flight):
            ledger.fill_window(ledger.run_id)
            batch = window.batch(max_events=ledger.batch_events, max_bytes=MAX_BATCH_BYTES)
            if not batch:
                return
            self._link.send(events_message(batch))
            ledger.note_sent(batch[-1].number)
            self._read(0)

    def _ask_if_due(self, now: float) -> None:
        ledger = self._ledger
        if self._asked is not None:
            return
        in_flight = ledger.window.in_flight
        is_waited_for = ledger.is_doubting or ((ledger.is_closing or ledger.is_ending) and not ledger.outbox)
        is_due = in_flight >= CONFIRM_EVENTS or now - self._last_asked_seconds >= CONFIRM_SECONDS
        if in_flight and (is_due or is_waited_for):
            self._ask(self._barrier, ledger.address())
        elif ledger.is_ending and not ledger.is_ended and ledger.is_delivered:
            # Only now: events that the server refused for the moment must not come after the end.
            self._ask("endTestRun", ledger.address())

    def _ask(self, kind: Request, payload: dict[str, Any]) -> None:
        self._last_request_id += 1
        self._last_asked_seconds = self._monotonic()
        self._asked = Asked(self._last_request_id, kind, self._ledger.window.mark(), self._last_asked_seconds)
        self._link.send(request_message(kind, payload, self._last_request_id))

    # In

    def _read(self, wait_seconds: float) -> None:
        """Take in all that has come, waiting so long for the first message."""
        message = self._link.receive(wait_seconds)
        while message is not None:
            self._take(*decode_message(message))
            message = self._link.receive(0)

    def _take(self, kind: str, payload: dict[str, Any], in_reply_to: object) -> None:
        asked = self._asked
        is_answer = in_reply_to is not None and asked is not None and in_reply_to == asked.request_id
        if kind == "error":
            code = str(payload.get("code", "internal"))
            if is_answer and asked is not None:
                self._asked = None
                self._take_refused_request(asked, code, payload)
            elif in_reply_to is None:
                self._take_refused_event(code, payload)
        elif is_answer and asked is not None:
            self._asked = None
            self._take_answer(asked, payload)

    def _take_answer(self, asked: Asked, status: dict[str, Any]) -> None:
        ledger = self._ledger
        ledger.status = status
        if asked.kind == "startTestRun":
            run_id = status.get("runId")
            ledger.run_id = run_id if isinstance(run_id, str) else ledger.run_id
            if ledger.run_id is None:
                raise Rejected("the server's `testRunStarted` names no run; expected a `runId`")
            self._join()
        elif asked.kind == "endTestRun":
            ledger.is_ended = True
        ledger.confirm(asked.mark)

    def _join(self) -> None:
        self._ledger.was_joined = self.is_joined = True
        self._on_joined()

    def _take_refused_request(self, asked: Asked, code: str, payload: dict[str, Any]) -> None:
        ledger = self._ledger
        if payload.get("temporary"):
            self._hold(payload)
        elif code == "run_finished" and ledger.was_joined:
            # It ended without us (or our own `endTestRun` was answered to a lost connection). Events that come
            # after the end still count, as late ones.
            ledger.is_ended = True
            self._join()
        elif asked.kind == "getRunStatus" and code == "forbidden":
            # A token that may only ingest. Joining again is answered as late as anything else, and changes nothing.
            self._barrier = "startTestRun"
        elif code == "unknown_run" and ledger.was_joined:
            raise Closed(1006, "the server doesn't know the run any more")
        else:
            raise Rejected(_refusal(asked.kind, code, payload))

    def _take_refused_event(self, code: str, payload: dict[str, Any]) -> None:
        ledger, event_id = self._ledger, payload.get("eventId")
        if payload.get("temporary"):
            self._hold(payload)
            if isinstance(event_id, str):
                ledger.window.postpone(event_id)
            else:
                self._asked = None  # its answer is about events that have to be sent again
                ledger.window.rewind()
        elif isinstance(event_id, str):
            ledger.refuse(event_id, code)
        elif code in ("unauthenticated", "forbidden"):
            raise Rejected(_refusal("events", code, payload))
        else:
            self._asked = None  # its answer is about events that have to be sent again
            ledger.doubt(code)

    def _hold(self, payload: dict[str, Any]) -> None:
        retry_ms = payload.get("retryAfterMs")
        if not isinstance(retry_ms, int | float):
            retry_ms = DEFAULT_RETRY_MS
        self._hold_until_seconds = self._monotonic() + min(max(retry_ms, 0), MAX_RETRY_MS) / 1000


def _refusal(kind: str, code: str, payload: dict[str, Any]) -> str:
    said = str(payload.get("message", ""))[:300]
    return f"the server refused `{kind}` with `{code}`" + (f": {said}" if said else "")
