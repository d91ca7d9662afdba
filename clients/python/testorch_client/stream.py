"""The book-keeping of one stream: what was sent, acknowledged and refused, and whether the receipt agrees. No I/O."""

from __future__ import annotations

from collections import Counter

from testorch_client.answers import Welcome
from testorch_client.encoding import unsound_event
from testorch_client.errors import Rejected
from testorch_client.receipt import Receipt, StreamDigest
from testorch_client.window import Encoded, Window

MAX_BATCH_EVENTS = 200
MAX_BATCH_BYTES = 256 * 1024
# What is let go only when it is acknowledged: bounds what is sent again after a lost connection, and its memory.
MAX_UNCONFIRMED_EVENTS = 5_000
MAX_UNCONFIRMED_BYTES = 8 * 2**20
# Of a message, for what stands around its events.
_FRAME_BYTES = 64
TOO_LARGE = "too_large"
# Refusals that the receipt counts, and that were told to a connection that was lost before they were read.
UNHEARD = "unheard"


class Stream:
    """One stream, over however many connections. Used by the sender's thread alone.

    Every method that takes in what the server says raises `Rejected` when it contradicts what was said before.
    """

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        self.window = Window()
        self.refused: Counter[str] = Counter()
        self.receipt: Receipt | None = None
        self.contradiction: str | None = None  # between the receipt and this book-keeping, in words
        self._epoch: str | None = None
        self._digest = StreamDigest()
        self._max_in_flight = 0
        self._max_event_bytes = 0
        self._max_batch_bytes = MAX_BATCH_BYTES
        self._biggest = (0, 0)  # the size of the present connection's biggest message, and its event if it has but one
        self._refused_there = 0
        self._refused_unacked: set[int] = set()
        self._withdrawn: set[int] = set()

    @property
    def confirmed(self) -> int:
        """How many events the server has committed: what it has acknowledged without refusing it."""
        return self.window.acked_seq - (self._refused_there - len(self._refused_unacked))

    @property
    def has_room(self) -> bool:
        """May another event be encoded? What is unconfirmed is bounded in number, and, but for one event, in bytes."""
        max_events = min(self._max_in_flight, MAX_UNCONFIRMED_EVENTS)
        return len(self.window) < max_events and self.window.size_bytes < MAX_UNCONFIRMED_BYTES

    # Out

    def add(self, event: Encoded) -> None:
        """Take the next event in, or refuse it here if no server would take it: then it uses no `seq`."""
        if event.size_bytes > self._max_event_bytes:
            self.refuse_here(TOO_LARGE)
            return
        self.window.add(event)
        self._digest.add(event.seq, event.event_id)

    def refuse_here(self, code: str) -> None:
        self.refused[code] += 1

    def next_batch(self) -> list[Encoded]:
        """The events of the next message, now in flight; empty if none waits or no more may be in flight."""
        window = self.window
        max_events = min(MAX_BATCH_EVENTS, self._max_in_flight - window.in_flight)
        batch = window.batch(max_events=max_events, max_bytes=min(self._max_batch_bytes, self._max_event_bytes))
        size_bytes = sum(event.size_bytes for event in batch)
        if size_bytes > self._biggest[0]:
            self._biggest = (size_bytes, batch[0].seq if len(batch) == 1 else 0)
        return batch

    def digest(self) -> str:
        return self._digest.hexdigest()

    # In

    def resume(self, welcome: Welcome) -> bool:
        """Go on from where the server is; False if it doesn't know this stream, with all that was said of its run."""
        window = self.window
        has_same_epoch = self._epoch in (None, welcome.epoch)
        if welcome.acked_seq < window.acked_seq or (window.acked_seq and not has_same_epoch):
            raise self._lost(welcome.acked_seq)
        self._epoch = welcome.epoch
        self._max_in_flight = welcome.max_in_flight
        self._max_event_bytes = welcome.max_message_bytes - _FRAME_BYTES
        self._biggest = (0, 0)
        self.confirm(welcome.acked_seq)
        window.rewind(window.acked_seq + 1)
        is_known = has_same_epoch and welcome.run_id is not None
        if not is_known:
            self.receipt = None
        return is_known

    def confirm(self, seq: int) -> None:
        """Everything up to `seq` is committed or refused for good."""
        window = self.window
        if seq > window.sent_seq:
            raise Rejected(f"the server acknowledged event {seq}, and only {window.sent_seq} were sent")
        if seq > window.acked_seq:
            window.acknowledge(seq)
            self._refused_unacked = {refused for refused in self._refused_unacked if refused > seq}

    def refuse(self, seq: int, code: str) -> None:
        """The server will never take this event; it says so before the acknowledgement, perhaps once a connection."""
        if self.window.acked_seq < seq <= self.window.sent_seq and seq not in self._refused_unacked:
            self._refused_unacked.add(seq)
            self._refused_there += 1
            self.refused[TOO_LARGE if seq in self._withdrawn else code] += 1

    def go_back_to(self, seq: int) -> None:
        """The server has taken nothing from `seq` on: let it wait to be sent again."""
        window = self.window
        if seq <= window.acked_seq:
            raise self._lost(seq - 1)
        if seq > window.sent_seq + 1:
            raise Rejected(f"the server expects event {seq}, and only {window.sent_seq} were sent")
        window.rewind(seq)

    def shrink(self) -> bool:
        """The connection was closed because of a message that was too big: see to it that it isn't sent again.

        A message of several events is halved. A single event gives its place to one that the server is bound to
        refuse, since its `seq` has to be used. False if there was no message of events.
        """
        size_bytes, seq = self._biggest
        if seq > self.window.acked_seq:
            self._withdrawn.add(seq)
            self.window.replace(unsound_event(self.event_id(seq), seq))
        else:
            self._max_batch_bytes = size_bytes // 2
        return size_bytes > 0

    def event_id(self, seq: int) -> str:
        """Unique in the run, as long as no two streams have the same id."""
        return f"{self.stream_id}-{seq}"

    def take_receipt(self, receipt: Receipt) -> None:
        """Compare the server's account with this one."""
        self.receipt = receipt
        self.contradiction = receipt.contradiction(
            last_seq=self.window.last_seq, digest=self.digest(), refused=self._refused_there
        )
        unheard = receipt.refused - self._refused_there
        if self.contradiction is None and unheard:
            self._refused_there += unheard
            self.refused[UNHEARD] += unheard

    def _lost(self, has_seq: int) -> Rejected:
        return Rejected(
            f"the server has lost its database: it has {has_seq:,} events of this stream, "
            f"and {self.window.acked_seq:,} that it had acknowledged can't be sent again"
        )
