"""What outlives a connection: the run, what is still to be delivered, and the counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from testorch_client.delivery import Delivery
from testorch_client.encoding import Encoder, address_members
from testorch_client.outbox import Outbox
from testorch_client.window import Window

# Taken from the outbox before an answer is needed: bounds what is sent again after a lost connection.
MAX_UNCONFIRMED = 5_000
# In one message, as long as no message was refused as a whole.
MAX_BATCH_EVENTS = 200
# An event that can't be encoded is refused here, under a code that the server doesn't use.
UNSENDABLE = "unsendable"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What `startTestRun` says. Without `run_id` the server chooses one, or joins the run of `key`."""

    run_id: str | None
    participant: str | None = None
    name: str | None = None
    key: str | None = None
    project: str | None = None
    metadata: dict[str, Any] | None = None

    def payload(self) -> dict[str, Any]:
        said = {
            "runId": self.run_id,
            "participant": self.participant,
            "name": self.name,
            "key": self.key,
            "project": self.project,
            "metadata": self.metadata,
        }
        return {name: value for name, value in said.items() if value is not None}


class Ledger:
    """The state of one delivery. Changed by the sender's thread alone, except for `outbox` and the flags below it."""

    def __init__(self, run: RunRequest, outbox: Outbox, encoder: Encoder) -> None:
        self.run = run
        self.window = Window()
        self.run_id = run.run_id
        self.was_joined = False
        self.batch_events = MAX_BATCH_EVENTS
        self.is_ended = False  # the run's end was asked for and answered
        self.status: dict[str, Any] | None = None
        self.error: str | None = None  # why the last connection ended
        self.outbox = outbox
        self.is_ending = False  # set by `Client.end_run`
        self.is_closing = False  # set by `Client.close`
        self._encoder = encoder
        self._confirmed = 0
        self._refused: Counter[str] = Counter()
        self._highest_sent = 0

    @property
    def is_delivered(self) -> bool:
        return not self.outbox and not self.window

    def fill_window(self, run_id: str) -> None:
        """Encode what was emitted, as far as the window has room for it."""
        events = self.outbox.take(MAX_UNCONFIRMED - len(self.window))
        if not events:
            return
        address = address_members(run_id, self.run.project)
        for event in events:
            try:
                self.window.add(self._encoder.encode(event, address))
            except Exception:  # Somebody's `__iter__` or `__len__` in a payload: never the end of the delivery.
                self._refused[UNSENDABLE] += 1

    def note_sent(self, number: int) -> None:
        self._highest_sent = max(self._highest_sent, number)

    def confirm(self, mark: int) -> None:
        """All that was sent before `mark` was taken is committed."""
        confirmed = self.window.confirm(mark)
        self._confirmed += confirmed
        if confirmed:
            self.batch_events = min(MAX_BATCH_EVENTS, self.batch_events * 2)

    def refuse(self, event_id: str, code: str) -> None:
        if self.window.refuse(event_id):
            self._refused[code] += 1

    @property
    def is_doubting(self) -> bool:
        """Is an event sought that the server refuses without naming it? Then one batch at a time is sent."""
        return self.batch_events < MAX_BATCH_EVENTS

    def doubt(self, code: str) -> None:
        """A whole message was refused, without a word about which event is to blame: find it by halving."""
        in_flight = self.window.in_flight
        if in_flight == 1:
            self.window.refuse_all()
            self._refused[code] += 1
        else:
            self.batch_events = max(1, min(self.batch_events, in_flight) // 2)
        self.window.rewind()

    def address(self) -> dict[str, Any]:
        """The run, as every request after the first one names it."""
        return RunRequest(run_id=self.run_id, project=self.run.project).payload()

    def start_payload(self) -> dict[str, Any]:
        """What `startTestRun` says: once the run's id is known, just that, so that the same run is joined again.

        It names the participant, by which the server knows that it is we who come back on another connection.
        """
        return self.address() | {"participant": self.run.participant} if self.was_joined else self.run.payload()

    def delivery(self, error: str | None) -> Delivery:
        """The counts as they are. Exact once the sender's thread has finished."""
        return Delivery(
            run_id=self.run_id,
            sent=self._highest_sent,
            confirmed=self._confirmed,
            refused=self._refused.total(),
            dropped=self.outbox.dropped,
            # The rest of what was accepted, so that an event that the sender is just encoding is counted, too.
            unconfirmed=self.outbox.accepted - self._confirmed - self._refused.total(),
            refused_by_code=dict(+self._refused),
            error=error,
            status=self.status,
        )
