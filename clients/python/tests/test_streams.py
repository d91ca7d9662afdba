"""What the client does on a stream that goes well, or is refused something, in virtual time."""

from __future__ import annotations

import json
from itertools import pairwise

import fake_faults as faults
import pytest
from fake_streams import Message, Peer, StreamServer
from virtual_link import Delivering, digest_of, receipt_of


@pytest.fixture
def server() -> StreamServer:
    return StreamServer()


# The ordinary course


def test_a_stream_is_opened_numbered_acknowledged_and_receipted(server: StreamServer) -> None:
    delivery = Delivering(server).deliver(3)
    assert server.kinds() == ["hello", "startTestRun", "events", "streamEnd", "endTestRun"]
    assert server.batches() == [[1, 2, 3]]
    assert server.payloads("streamEnd") == [{"lastSeq": 3, "digest": digest_of(3)}]
    assert delivery.receipt == receipt_of(3)
    assert delivery.receipt_matches
    assert delivery.is_complete


def test_a_stream_without_events_has_a_receipt_too(server: StreamServer) -> None:
    delivery = Delivering(server).deliver(0)
    assert delivery.receipt == receipt_of(0)
    assert delivery.is_complete


def test_a_part_that_is_not_ended_rests_on_the_acknowledgements(server: StreamServer) -> None:
    client = Delivering(server)
    client.emit(3)
    client.finish(ending=False)
    delivery = client.run()
    assert server.kinds() == ["hello", "startTestRun", "events"]
    assert (delivery.confirmed, delivery.receipt, delivery.receipt_matches) == (3, None, None)
    assert delivery.is_complete


def test_what_was_acknowledged_is_let_go_while_the_suite_runs(server: StreamServer) -> None:
    client = Delivering(server)
    for second in range(10):
        client.time.at(second, lambda: client.emit(50))
    client.time.at(9.9, lambda: sizes.append((len(client.stream.window), client.stream.window.size_bytes)))
    client.time.at(10, client.finish)
    sizes: list[tuple[int, int]] = []
    assert client.run().is_complete
    assert sizes == [(0, 0)]


def test_events_wait_for_company_rather_than_wake_the_sender(server: StreamServer) -> None:
    client = Delivering(server)
    for millisecond in range(0, 2000, 10):
        client.time.at(millisecond / 1000, client.emit)
    client.time.at(2.0, client.finish)
    assert client.run().confirmed == 200
    assert len(server.batches()) <= 11


def test_heartbeats_fill_the_silence_of_a_suite_that_emits_nothing(server: StreamServer) -> None:
    heard: list[float] = []
    client = Delivering(server)
    server.misbehave = lambda peer, message: heard.append(client.time()) or False
    client.time.at(60, client.finish)
    client.run()
    assert 40 <= server.heartbeats <= 62  # at least one in 2 s, and with a margin


@pytest.mark.parametrize("heartbeat_ms", [200, 1000, 5000])
def test_no_silence_is_longer_than_the_server_allows_not_even_while_held(
    server: StreamServer, heartbeat_ms: int
) -> None:
    server.limits["heartbeatMs"] = heartbeat_ms
    server.judge = faults.postpone_event("storage_failed", 1, retry_ms=20_000)
    client = Delivering(server)
    heard = [client.time()]
    receive = server.receive

    def listen(peer: Peer, message: Message) -> None:
        heard.append(client.time())
        receive(peer, message)

    server.receive = listen  # type: ignore[method-assign]
    client.emit()
    client.time.at(15, client.finish)
    assert client.run().is_complete
    assert max(later - earlier for earlier, later in pairwise(heard)) <= heartbeat_ms / 1000


def test_no_more_is_in_flight_than_the_server_allows(server: StreamServer) -> None:
    server.limits["maxInFlight"] = 7
    server.does_commit = False
    client = Delivering(server)
    client.emit(100)
    in_flight: list[int] = []

    def commit() -> None:
        stream = server.streams["me"]
        in_flight.append(len(stream.uncommitted))
        server.commit(stream)
        client.time.at(0.01, commit)

    client.time.at(0.05, commit)
    client.time.at(0.04, client.finish)
    delivery = client.run()
    assert delivery.confirmed == 100
    assert max(in_flight) == 7
    assert len(client.stream.window) == 0


def test_a_full_window_goes_on_with_the_acknowledgement_and_not_with_the_clock(server: StreamServer) -> None:
    server.limits["maxInFlight"] = 10
    client = Delivering(server)
    began = client.time()
    client.emit(1000)
    client.time.at(100, client.finish)
    client.time.at(1, lambda: done.append(client.stream.window.acked_seq))
    done: list[int] = []
    client.run()
    assert done == [1000]
    assert client.time() - began < 102


# Refusals


def test_a_refused_event_is_counted_and_the_rest_goes_on(server: StreamServer) -> None:
    server.judge = faults.refuse_event("invalid_event", 2, 4)
    delivery = Delivering(server).deliver(5)
    assert server.stored() == [1, 3, 5]
    assert (delivery.confirmed, delivery.refused_by_code) == (3, {"invalid_event": 2})
    assert delivery.receipt == receipt_of(5, refused=2)
    assert delivery.receipt_matches
    assert not delivery.is_complete


@pytest.mark.parametrize("code", ["rate_limited", "overloaded", "storage_failed"])
def test_what_is_refused_for_now_is_sent_again_from_there_when_its_time_has_come(
    server: StreamServer, code: str
) -> None:
    server.judge = faults.postpone_event(code, 3, retry_ms=750)
    client = Delivering(server)
    times: list[float] = []

    def note(peer: Peer, message: Message) -> bool:
        if message["type"] == "events":
            times.append(client.time())
        return False

    server.misbehave = note
    delivery = client.deliver(5)
    assert server.batches() == [[1, 2, 3, 4, 5], [3, 4, 5]]
    assert 0.75 <= times[1] - times[0] < 1.0
    assert delivery.is_complete


def test_nothing_is_sent_after_a_refusal_for_now_that_was_read_between_two_messages(server: StreamServer) -> None:
    server.judge = faults.postpone_event("overloaded", 1, retry_ms=1000)
    delivery = Delivering(server).deliver(600)
    assert [batch[0] for batch in server.batches()] == [1, 1, 201, 401]
    assert delivery.is_complete


def test_a_store_that_fails_for_a_minute_is_asked_once_a_second(server: StreamServer) -> None:
    server.judge = faults.postpone_event("storage_failed", 2, times=60, retry_ms=1000)
    delivery = Delivering(server).deliver(3)
    assert delivery.is_complete
    assert len(server.batches()) == 61


def test_a_refusal_for_now_that_names_no_event_is_about_all_that_is_unacknowledged(server: StreamServer) -> None:
    server.misbehave = faults.at("events", faults.refuse("rate_limited", temporary=True, retryAfterMs=100))
    delivery = Delivering(server).deliver(3)
    assert server.batches() == [[1, 2, 3], [1, 2, 3]]
    assert delivery.is_complete


@pytest.mark.parametrize("retry_ms", [0, -5, "soon", None, float("nan")])
def test_a_server_that_asks_for_it_at_once_is_not_asked_in_a_tight_loop(server: StreamServer, retry_ms: object) -> None:
    server.judge = faults.postpone_event("overloaded", 1, times=50, retry_ms=retry_ms)  # type: ignore[arg-type]
    client = Delivering(server)
    began = client.time()
    assert client.deliver(1).is_complete
    assert client.time() - began >= 1.0


def test_requests_refused_for_now_are_asked_again(server: StreamServer) -> None:
    refused: set[str] = set()

    def refuse_each_once(peer: Peer, message: Message) -> bool:
        if "id" not in message or message["type"] in refused:
            return False
        refused.add(message["type"])
        peer.refuse("overloaded", message, temporary=True, retryAfterMs=10)
        return True

    server.misbehave = refuse_each_once
    assert Delivering(server).deliver(3).is_complete
    assert refused == {"hello", "startTestRun", "streamEnd", "endTestRun"}
    assert len(server.peers) == 1


def test_a_refused_message_without_a_seq_stops_the_stream_rather_than_leave_a_gap(server: StreamServer) -> None:
    server.misbehave = faults.at("events", faults.refuse("forbidden"))
    delivery = Delivering(server).deliver(3)
    assert delivery.error == "the server refused `events` with `forbidden`: refused: forbidden"
    assert (delivery.confirmed, delivery.unconfirmed) == (0, 3)
    assert len(server.peers) == 1


def test_a_server_that_knows_no_streams_is_told_from_one_that_is_not_there(server: StreamServer) -> None:
    server.misbehave = faults.at("hello", faults.refuse("unknown_type"))
    delivery = Delivering(server).deliver(3)
    assert delivery.error == "the server refused `hello` with `unknown_type`: refused: unknown_type"
    assert (delivery.sent, len(server.peers)) == (0, 1)


# Too large, and not sendable


def test_an_event_larger_than_a_message_may_be_uses_no_seq(server: StreamServer) -> None:
    server.limits["maxMessageBytes"] = 2000
    client = Delivering(server)
    client.emit(2)
    client.emit(text="x" * 2000)
    client.emit(2)
    client.finish()
    delivery = client.run()
    assert server.batches() == [[1, 2, 3, 4]]
    assert (delivery.confirmed, delivery.refused_by_code) == (4, {"too_large": 1})
    assert delivery.receipt == receipt_of(4)
    assert delivery.receipt_matches
    assert not delivery.is_complete


def test_no_message_is_larger_than_the_server_takes(server: StreamServer) -> None:
    server.limits["maxMessageBytes"] = 1000
    sizes: list[int] = []
    client = Delivering(server)
    receive = server.receive

    def measure(peer: Peer, message: Message) -> None:
        sizes.append(len(json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()))
        receive(peer, message)

    server.receive = measure  # type: ignore[method-assign]
    client.emit(50, text="ä" * 100)
    client.emit(1, text="ä" * 380)
    client.finish()
    assert client.run().is_complete
    assert max(sizes) <= 1000


@pytest.mark.parametrize("is_told", [True, False], ids=["error", "close"])
def test_a_message_too_big_for_what_stands_between_is_split_until_it_passes(
    server: StreamServer, is_told: bool
) -> None:
    def limit(peer: Peer, message: Message) -> bool:
        is_too_big = message["type"] == "events" and len(str(message)) > 5_000
        if is_too_big and is_told:
            peer.refuse("too_large")
        elif is_too_big:
            peer.close(1009)
        return is_too_big

    server.misbehave = limit
    delivery = Delivering(server).deliver(200)
    assert delivery.is_complete
    assert server.stored() == list(range(1, 201))
    assert len(server.peers) < 10


def test_a_single_event_too_big_for_what_stands_between_gives_its_place_to_one_that_is_refused(
    server: StreamServer,
) -> None:
    def limit(peer: Peer, message: Message) -> bool:
        if message["type"] == "events" and len(str(message)) > 5_000:
            peer.close(1009)
            return True
        return False

    server.misbehave = limit
    client = Delivering(server)
    client.emit(3)
    client.emit(text="x" * 6_000)
    client.emit(3)
    client.finish()
    delivery = client.run()
    assert server.stored() == [1, 2, 3, 5, 6, 7]
    assert (delivery.confirmed, delivery.refused_by_code) == (6, {"too_large": 1})
    assert delivery.receipt_matches  # the digest is over ids, and the id is the same


def test_a_start_too_big_is_an_error_and_no_loop(server: StreamServer) -> None:
    server.misbehave = faults.at("startTestRun", faults.close(1009))
    delivery = Delivering(server).deliver(3)
    assert delivery.error == "the connection was closed with code 1009"
    assert len(server.peers) == 1


# Memory


def test_what_is_unconfirmed_is_bounded_in_bytes_and_the_outbox_then_drops_output_first(server: StreamServer) -> None:
    server.limits["maxInFlight"] = 100_000
    server.does_commit = False
    client = Delivering(server, max_events=20)
    for second in range(20):
        client.time.at(second, lambda: client.emit(10, kind="test/output", text="x" * 100_000))
        client.time.at(second + 0.5, lambda: client.emit(1, kind="test/end"))
    sizes: list[int] = []
    client.time.at(25, lambda: sizes.append(client.stream.window.size_bytes))
    client.time.at(26, lambda: setattr(server, "does_commit", True))
    client.time.at(26, lambda: server.commit(server.streams["me"]))
    client.time.at(27, client.finish)
    delivery = client.run()
    assert 8 * 2**20 <= sizes[0] < 8 * 2**20 + 200_000
    assert delivery.dropped > 90
    assert delivery.confirmed + delivery.dropped == 220
    assert len(server.of_type("test/end")) == 20


def test_what_is_unconfirmed_is_bounded_in_number(server: StreamServer) -> None:
    server.limits["maxInFlight"] = 100_000
    server.does_commit = False
    client = Delivering(server)
    client.emit(6_000)
    client.time.at(1, lambda: sizes.append(len(client.stream.window)))
    client.time.at(1, lambda: setattr(server, "does_commit", True))
    client.time.at(1, lambda: server.commit(server.streams["me"]))
    client.time.at(2, client.finish)
    sizes: list[int] = []
    assert client.run().confirmed == 6_000
    assert sizes == [5_000]
