"""The laws of a stream's book-keeping, for any course of things between the client and a server that may fail.

Whatever comes: nothing is lost, nothing is stored twice or out of order, nothing is sent twice unless the server or a
lost connection asked for it, and in the end both sides have the same digest and the same counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from fake_streams import Message, Peer, StreamServer
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_link import Delivering, Time

from testorch_client.answers import Welcome
from testorch_client.encoding import unsound_event
from testorch_client.errors import Rejected
from testorch_client.stream import Stream
from testorch_client.window import Encoded

EVENTS = 30
# What may happen to a message of events; when the list is used up, all goes well.
FATES = st.sampled_from(
    ["fine", "held", "lost", "drop", "drop after commit", "close 1012", "rate limit", "postpone", "big"]
)


class Unsteady(StreamServer):
    """Treats messages of events as fate has it."""

    def __init__(self, fates: list[str], refused: set[int], postponed: set[int]) -> None:
        super().__init__()
        self.time = Time()
        self._fates = iter(fates)
        self._refused = refused
        self._postponed = postponed
        self.misbehave = self._fate
        self.judge = self._judge

    def _fate(self, peer: Peer, message: Message) -> bool:
        if message["type"] != "events":
            if peer.stream is not None and message["type"] == "streamEnd":
                self.commit(peer.stream)
            return False
        fate = next(self._fates, "fine")
        self.does_commit = fate != "held"
        if fate in ("drop after commit", "postpone"):
            self._postponed |= {event["seq"] for event in message["payload"]["events"][1:2]}
        if fate == "drop after commit":
            peer.send = lambda message: None
        if fate in ("fine", "held", "postpone", "drop after commit"):
            self.act(peer, message)
            if not self.does_commit:
                self._commit_later(peer)
        if fate.startswith("drop"):
            peer.drop()
        elif fate == "close 1012":
            peer.close(1012)
        elif fate == "big":
            peer.close(1009)
        elif fate == "rate limit":
            peer.refuse("rate_limited", temporary=True, retryAfterMs=50)
        return True

    def _commit_later(self, peer: Peer) -> None:
        self.time.at(0.3, lambda: self.commit(peer.stream) if peer.stream and peer.stream.holder is peer else None)

    def _judge(self, event: Message) -> Message | None:
        seq = event["seq"]
        if seq in self._postponed:
            self._postponed.discard(seq)
            return {"code": "overloaded", "temporary": True, "retryAfterMs": 30}
        return {"code": "invalid_event"} if seq in self._refused else None


def reference_digest(seqs: Iterable[int]) -> str:
    return hashlib.sha256("".join(f"{seq}:me-{seq}\n" for seq in seqs).encode()).hexdigest()


@settings(max_examples=150, deadline=None)
@given(
    fates=st.lists(FATES, max_size=25),
    refused=st.sets(st.integers(1, EVENTS)),
    postponed=st.sets(st.integers(1, EVENTS)),
    pauses=st.lists(st.sampled_from([0.0, 0.1, 0.5]), min_size=EVENTS, max_size=EVENTS),
    in_flight=st.integers(1, 12),
)
def test_whatever_happens_on_the_way_all_arrives_once_and_in_order(
    fates: list[str], refused: set[int], postponed: set[int], pauses: list[float], in_flight: int
) -> None:
    server = Unsteady(fates, refused, postponed)
    server.limits["maxInFlight"] = in_flight
    client = Delivering(server)
    server.time = client.time
    at_seconds = 0.0
    for pause in pauses:
        client.time.at(at_seconds, client.emit)
        at_seconds += pause
    client.time.at(at_seconds, client.finish)
    delivery = client.run()

    stored = server.stored()
    assert stored == sorted(set(stored))
    assert len(stored) == delivery.confirmed == EVENTS - delivery.refused
    assert delivery.refused == server.streams["me"].refused
    assert len(refused) <= delivery.refused <= len(refused) + fates.count("big")
    assert (delivery.unconfirmed, delivery.dropped, delivery.error) == (0, 0, None)
    assert delivery.receipt is not None
    assert delivery.receipt.digest == reference_digest(range(1, EVENTS + 1))
    assert delivery.receipt_matches
    assert all(earlier + 1 == later for batch in server.batches() for earlier, later in pairwise(batch))


# One stream against a model of it: what the server does is drawn step by step.


STEPS = st.sampled_from(["emit", "send", "ack", "refuse", "rewind", "lose", "impossible"])


class Model:
    """What must be true of a `Stream`: plain lists where it has windows and counters."""

    def __init__(self) -> None:
        self.stream = Stream("me")
        self.acked = 0
        self.refused: set[int] = set()
        self.sent_since_rewind: list[int] = []
        self.stream.resume(Welcome.read({"ackedSeq": 0, "runId": "r", "maxInFlight": 10}))

    def check(self) -> None:
        stream, window = self.stream, self.stream.window
        assert window.acked_seq == self.acked
        assert len(window) == window.last_seq - self.acked  # nothing is lost, nothing let go too early
        assert stream.confirmed == self.acked - len({seq for seq in self.refused if seq <= self.acked})
        assert stream.refused.total() == len(self.refused)
        assert window.in_flight <= 10
        assert stream.digest() == reference_digest(range(1, window.last_seq + 1))

    def send(self) -> None:
        # Every event that isn't acknowledged, from the last place to go on from, and each of them once.
        expected = max(self.sent_since_rewind, default=self.acked)
        for event in self.stream.next_batch():
            expected = max(expected, self.acked) + 1
            assert event.seq == expected
            self.sent_since_rewind.append(event.seq)

    def go_back_to(self, seq: int) -> None:
        self.sent_since_rewind = [sent for sent in self.sent_since_rewind if sent < seq]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_interleaving_of_what_the_server_says_loses_or_repeats_an_event(data: st.DataObject) -> None:
    model = Model()
    stream, window = model.stream, model.stream.window
    steps = data.draw(st.lists(STEPS, max_size=60))
    for step in steps:
        unacked = st.integers(model.acked + 1, max(window.sent_seq, model.acked + 1))
        if step == "emit":
            for _ in range(data.draw(st.integers(1, 6))):
                seq = window.last_seq + 1
                stream.add(Encoded(seq, f"me-{seq}", "{}", 2))
        elif step == "send":
            model.send()
        elif step == "ack":
            seq = data.draw(st.integers(0, window.sent_seq))
            stream.confirm(seq)
            model.acked = max(model.acked, seq)
        elif step == "refuse":
            seq = data.draw(st.integers(1, window.last_seq + 1))
            stream.refuse(seq, "invalid_event")
            model.refused |= {seq} if model.acked < seq <= window.sent_seq else set()
        elif step == "rewind":
            seq = data.draw(unacked)
            stream.go_back_to(seq)
            model.go_back_to(seq)
        elif step == "lose":
            acked = data.draw(st.integers(model.acked, window.sent_seq))
            assert stream.resume(Welcome.read({"ackedSeq": acked, "runId": "r", "maxInFlight": 10}))
            model.acked = acked
            model.go_back_to(acked + 1)
        else:
            with pytest.raises(Rejected):
                stream.confirm(window.sent_seq + 1)
            with pytest.raises(Rejected):
                stream.go_back_to(model.acked)
        model.check()


def test_the_place_of_a_withdrawn_event_is_kept() -> None:
    assert unsound_event("me-3", 3) == Encoded(3, "me-3", '{"id":"me-3","seq":3}', 21)
