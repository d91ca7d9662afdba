"""What outlives a connection: the run, what is still to be delivered, and the counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testorch_client import __version__
from testorch_client.answers import Welcome
from testorch_client.delivery import Delivery
from testorch_client.encoding import encode_event, encode_payload
from testorch_client.outbox import Outbox
from testorch_client.stream import Stream

CLIENT_NAME = "testorch-client"
# An event that can't be encoded is refused here, under a code that the server doesn't use.
UNSENDABLE = "unsendable"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What `startTestRun` says. Without `run_id` the server chooses one, or joins the run of `key`."""

    run_id: str | None
    name: str | None = None
    key: str | None = None
    project: str | None = None
    metadata: dict[str, Any] | None = None


class Ledger:
    """The state of one delivery. Changed by the sender's thread alone, except for `outbox` and the flags below it."""

    def __init__(self, run: RunRequest, outbox: Outbox, stream: Stream) -> None:
        self.stream = stream
        self.run_id = run.run_id
        self.was_joined = False
        self.is_started = False  # the server knows which run this stream belongs to
        self.is_ended = False  # the run's end was asked for and answered
        self.status: dict[str, Any] | None = None
        self.error: str | None = None  # why the last connection ended
        self.outbox = outbox
        self.is_ending = False  # set by `Client.end_run`
        self.is_closing = False  # set by `Client.close`
        self._run = run
        self._has_said_hello = False

    @property
    def is_delivered(self) -> bool:
        return not self.outbox and not self.stream.window

    # Out

    def hello(self) -> dict[str, Any]:
        """What opens a connection. Once it was said, whether answered or not, the server may know the stream."""
        said = {
            "streamId": self.stream.stream_id,
            "runId": self.run_id,
            "project": self._run.project,
            "resume": self._has_said_hello or None,
            "client": {"name": CLIENT_NAME, "version": __version__},
        }
        self._has_said_hello = True
        return _given(said)

    def start(self) -> dict[str, Any]:
        """What `startTestRun` says; the project is the connection's."""
        run = self._run
        return _given({"runId": self.run_id, "name": run.name, "key": run.key, "metadata": run.metadata})

    def stream_end(self) -> dict[str, Any]:
        return {"lastSeq": self.stream.window.last_seq, "digest": self.stream.digest()}

    def fill_window(self) -> None:
        """Encode what was emitted, as far as there is room for it."""
        stream = self.stream
        run_id = encode_payload(self.run_id)
        while stream.has_room and (event := self.outbox.take()) is not None:
            seq = stream.window.last_seq + 1
            try:
                encoded = encode_event(event, stream.event_id(seq), seq=seq, run_id=run_id)
            except Exception:  # Somebody's `__iter__` or `__len__` in a payload: never the end of the delivery.
                stream.refuse_here(UNSENDABLE)
            else:
                stream.add(encoded)

    # In

    def resume(self, welcome: Welcome) -> None:
        """Go on from where the server is; where it knows nothing of us, the run is started anew."""
        if not self.stream.resume(welcome):
            self.is_started = False

    def delivery(self, error: str | None) -> Delivery:
        """The counts as they are. Exact once the sender's thread has finished."""
        stream = self.stream
        confirmed, refused = stream.confirmed, stream.refused.total()
        return Delivery(
            run_id=self.run_id,
            sent=stream.window.sent_seq,
            confirmed=confirmed,
            refused=refused,
            dropped=self.outbox.dropped,
            # The rest of what was accepted, so that an event that the sender is just encoding is counted, too.
            unconfirmed=self.outbox.accepted - confirmed - refused,
            refused_by_code=dict(+stream.refused),
            error=error,
            status=self.status,
            receipt=stream.receipt,
            receipt_matches=None if stream.receipt is None else stream.contradiction is None,
        )


def _given(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
