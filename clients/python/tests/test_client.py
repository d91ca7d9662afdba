"""The client against a real socket: what it delivers, and what it does when the server misbehaves."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from typing import Any

import fake_faults as faults
import pytest
from fake_server import FakeServer
from fake_streams import Message, Peer
from websockets.sync.client import connect

from testorch_client import Client, Delivery, Receipt, __version__

ME = "0123456789ab"
"""The stream's id, and the beginning of its events' ids."""


def client_of(server: FakeServer, **options: Any) -> Client:
    options.setdefault("random", lambda: 0.1)  # short, repeatable backoff
    options.setdefault("stream_id", lambda: ME)
    return Client(server.url, **options)


def deliver(server: FakeServer, events: int = 3, **options: Any) -> Delivery:
    client = client_of(server, **options)
    client.start_run(run_id="run-1")
    for number in range(events):
        client.emit("test/start", {"testId": f"t{number}"})
    client.end_run()
    return client.close()


def test_a_run_is_started_filled_and_ended_on_a_stream(server: FakeServer) -> None:
    clock = iter([1766000000.0, 1766000000.5])
    client = client_of(server, clock=lambda: next(clock))
    client.start_run(run_id="run-1", name="unit", project="shop", metadata={"framework": "pytest"})
    client.emit("test/start", {"testId": "a"})
    client.emit("test/end", {"testId": "a", "status": "passed"})
    client.end_run()
    delivery = client.close()

    def event(seq: int, kind: str, timestamp: int, payload: Message) -> Message:
        said = {"id": f"{ME}-{seq}", "seq": seq, "type": kind, "timestamp": timestamp}
        return {**said, "runId": "run-1", "payload": payload}

    events = [
        event(1, "test/start", 1766000000000, {"testId": "a"}),
        event(2, "test/end", 1766000000500, {"testId": "a", "status": "passed"}),
    ]
    us = {"name": "testorch-client", "version": __version__}
    digest = hashlib.sha256(f"1:{ME}-1\n2:{ME}-2\n".encode()).hexdigest()
    start = {"runId": "run-1", "name": "unit", "metadata": {"framework": "pytest"}}
    assert server.messages == [
        {"type": "hello", "payload": {"streamId": ME, "runId": "run-1", "project": "shop", "client": us}, "id": 1},
        {"type": "startTestRun", "payload": start, "id": 2},
        {"type": "events", "payload": {"events": events}},
        {"type": "streamEnd", "payload": {"lastSeq": 2, "digest": digest}, "id": 3},
        {"type": "endTestRun", "payload": {"runId": "run-1"}, "id": 4},
    ]
    assert delivery == Delivery(
        run_id="run-1",
        sent=2,
        confirmed=2,
        refused=0,
        dropped=0,
        unconfirmed=0,
        status={"runId": "run-1", "status": "passed", "events": 2},
        receipt=Receipt(last_seq=2, accepted=2, refused=0, duplicates=0, digest=digest, is_complete=True),
        receipt_matches=True,
    )
    assert delivery.is_complete


def test_used_as_a_context_it_ends_the_run_and_closes(server: FakeServer) -> None:
    with client_of(server) as client:
        client.start_run(run_id="run-1")
        client.emit("test/start", {"testId": "a"})
    assert server.ended == ["run-1"]
    assert client.close().confirmed == 1


def test_without_an_id_the_client_makes_one_that_it_can_join_again(server: FakeServer) -> None:
    client = client_of(server)
    client.start_run()
    delivery = client.close()
    assert delivery.run_id is not None
    assert len(delivery.run_id) == 32
    assert server.payloads("startTestRun") == [{"runId": delivery.run_id}]


def test_with_a_key_alone_the_server_gives_the_run_its_id(server: FakeServer) -> None:
    client = client_of(server)
    client.start_run(key="build-7")
    client.emit("test/start", {"testId": "a"})
    client.end_run()
    delivery = client.close()
    assert server.payloads("startTestRun") == [{"key": "build-7"}]
    assert delivery.run_id == "run-of-build-7"
    assert [event["runId"] for event in server.events.values()] == ["run-of-build-7"]
    assert server.ended == ["run-of-build-7"]


def test_a_run_joined_by_its_key_is_resumed_by_its_id(server: FakeServer) -> None:
    server.misbehave = faults.at("events", faults.drop)
    client = client_of(server)
    client.start_run(key="build-7", name="unit")
    client.emit("test/start", {"testId": "a"})
    assert client.close().is_complete
    assert server.payloads("startTestRun") == [{"key": "build-7", "name": "unit"}]
    assert [hello.get("runId") for hello in server.payloads("hello")] == [None, "run-of-build-7"]


def test_a_token_goes_into_the_header_and_nowhere_else(server: FakeServer) -> None:
    deliver(server, token="testorch_secret")
    assert server.headers[0]["Authorization"] == "Bearer testorch_secret"
    assert "secret" not in str(server.messages)


def test_no_subprotocol_and_no_compression_is_offered(server: FakeServer) -> None:
    deliver(server)
    assert "Sec-WebSocket-Protocol" not in server.headers[0]
    assert "Sec-WebSocket-Extensions" not in server.headers[0]


def test_many_events_go_in_batches_of_at_most_two_hundred(server: FakeServer) -> None:
    delivery = deliver(server, 3_000)
    batches = [len(message["payload"]["events"]) for message in server.messages if message["type"] == "events"]
    assert delivery.confirmed == sum(batches) == 3_000
    assert max(batches) == 200
    assert list(server.events) == [f"{ME}-{number}" for number in range(1, 3_001)]


def test_a_batch_is_closed_before_it_gets_too_many_bytes(server: FakeServer) -> None:
    client = client_of(server)
    for number in range(8):
        client.emit("test/output", {"testId": f"t{number}", "text": "x" * 100_000})
    client.start_run(run_id="run-1")
    assert client.close().confirmed == 8
    assert [len(m["payload"]["events"]) for m in server.messages if m["type"] == "events"] == [2, 2, 2, 2]


def test_the_run_is_ended_without_waiting_for_close(server: FakeServer) -> None:
    client = client_of(server)
    client.start_run(run_id="run-1")
    client.emit("test/start", {"testId": "a"})
    client.end_run()
    server.wait_until(lambda: server.ended)
    assert client.close().is_complete


def test_what_is_emitted_after_the_end_is_counted_as_dropped(server: FakeServer) -> None:
    client = client_of(server)
    client.start_run(run_id="run-1")
    client.emit("x", {})
    client.end_run()
    client.emit("x", {})
    delivery = client.close()
    assert (delivery.confirmed, delivery.dropped) == (1, 1)
    assert delivery.receipt_matches
    assert not delivery.is_complete


@pytest.mark.parametrize("fault", [faults.drop, faults.obey_and_drop, faults.close(1012)])
@pytest.mark.parametrize("kind", ["hello", "startTestRun", "events", "streamEnd", "endTestRun"])
def test_a_connection_lost_anywhere_loses_nothing_and_stores_nothing_twice(
    server: FakeServer, kind: str, fault: faults.Action
) -> None:
    client = client_of(server)
    server.misbehave = faults.at(kind, fault)
    client.start_run(run_id="run-1")
    server.wait_until(lambda: len(server.peers) == (2 if kind in ("hello", "startTestRun") else 1))
    for number in range(450):
        client.emit("test/start", {"testId": f"t{number}"})
    client.end_run()
    delivery = client.close()
    assert delivery.is_complete
    assert delivery.receipt is not None
    assert delivery.receipt.accepted == delivery.confirmed == delivery.sent == 450
    assert list(server.events) == [f"{ME}-{number}" for number in range(1, 451)]


def test_a_stream_that_another_connection_takes_over_is_left_to_it(server: FakeServer) -> None:
    client = client_of(server)
    client.start_run(run_id="run-1")
    client.emit("x", {})
    server.wait_until(lambda: server.events)
    with connect(server.url) as other:
        other.send(json.dumps({"type": "hello", "payload": {"streamId": ME, "resume": True}, "id": 1}))
        assert json.loads(other.recv())["type"] == "welcome"
        delivery = client.close()
    assert delivery.error is not None
    assert "`stream_conflict`" in delivery.error
    assert len(server.peers) == 2


def test_starting_a_run_that_is_finished_is_an_error_and_sends_nothing(server: FakeServer) -> None:
    server.misbehave = faults.at("startTestRun", faults.refuse("run_finished"))
    delivery = deliver(server)
    assert delivery.sent == 0
    assert delivery.unconfirmed == 3
    assert delivery.error == (
        f"{server.url}: the server refused `startTestRun` with `run_finished`: refused: run_finished"
    )


def test_what_can_not_be_encoded_is_written_out_rather_than_lost(server: FakeServer) -> None:
    client = client_of(server)
    client.start_run(run_id="run-1")
    recursive: list[object] = []
    recursive.append(recursive)
    client.emit(
        "x",
        {
            "nul": "a\x00b",
            "surrogate": "a\udc80b",
            "emoji": "🦔",
            "nan": float("nan"),
            "big": 10**400,
            "object": threading.Event,
            "bytes": b"b",
            "text about NUL": "\\u0000",
            3: {("a", "b"): {1}},
        },  # type: ignore[dict-item]  # the hostile keys are the point
    )
    client.emit("x", {"recursive": recursive})
    delivery = client.close()
    assert delivery.is_complete
    payload = server.of_type("x")[0]
    assert payload["nul"] == "a\\x00b"
    assert payload["surrogate"] == "a\\udc80b"
    assert payload["emoji"] == "🦔"
    assert payload["nan"] == "nan"
    assert payload["big"].startswith("<unprintable") or payload["big"].startswith("1000")
    assert payload["object"] == "<class 'threading.Event'>"
    assert payload["text about NUL"] == "\\u0000"
    assert payload["3"] == {"('a', 'b')": [1]}


def test_a_payload_that_raises_when_it_is_read_costs_itself_only(server: FakeServer) -> None:
    class Hostile(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            raise RuntimeError("no")

    client = client_of(server)
    client.start_run(run_id="run-1")
    client.emit("x", Hostile(a=1))
    client.emit("x", {"b": 2})
    delivery = client.close()
    assert (delivery.confirmed, delivery.refused_by_code) == (1, {"unsendable": 1})
    assert server.batches() == [[1]]


def test_an_event_larger_than_the_server_takes_costs_itself_only(server: FakeServer) -> None:
    server.limits["maxMessageBytes"] = 5_000
    client = client_of(server)
    client.start_run(run_id="run-1")
    client.emit("x", {"text": "x" * 5_000})
    client.emit("x", {"b": 2})
    client.end_run()
    delivery = client.close()
    assert (delivery.confirmed, delivery.refused_by_code) == (1, {"too_large": 1})
    assert delivery.receipt_matches


def test_a_full_queue_drops_output_first_and_then_the_newest(server: FakeServer) -> None:
    client = client_of(server, queue_events=4)
    for kind in ("test/start", "test/output", "test/output", "test/end", "test/start", "test/end", "test/start"):
        client.emit(kind, {"testId": "a"})
    client.emit("test/output", {"testId": "a"})
    client.start_run(run_id="run-1")
    delivery = client.close()
    assert [event["type"] for event in server.events.values()] == ["test/start", "test/end", "test/start", "test/end"]
    assert (delivery.confirmed, delivery.dropped) == (4, 4)


def test_what_is_emitted_after_close_is_counted_as_dropped(server: FakeServer) -> None:
    client = client_of(server)
    client.start_run(run_id="run-1")
    client.close()
    client.emit("x", {})
    assert client._outbox.dropped == 1


def test_a_client_that_started_no_run_says_so() -> None:
    client = Client("ws://127.0.0.1:9")
    client.emit("x", {})
    assert client.close() == Delivery(
        run_id=None, sent=0, confirmed=0, refused=0, dropped=0, unconfirmed=1, error="no run was started"
    )


def test_a_server_that_is_not_there_costs_next_to_nothing() -> None:
    began = time.monotonic()
    client = Client("ws://user:secret@127.0.0.1:9/path?token=x")
    client.start_run(run_id="run-1")
    client.emit("x", {})
    delivery = client.close()
    assert time.monotonic() - began < 1.0
    assert (delivery.sent, delivery.unconfirmed) == (0, 1)
    assert delivery.error == "ws://***@127.0.0.1:9/path?***: Connection refused"


@pytest.mark.slow(reason="a socket that never answers is waited for")
def test_a_socket_that_never_answers_costs_less_than_two_seconds(silent_socket: str) -> None:
    began = time.monotonic()
    client = Client(silent_socket)
    client.start_run(run_id="run-1")
    delivery = client.close()
    assert time.monotonic() - began < 2.0
    assert delivery.error == f"{silent_socket}: no answer in time"


@pytest.mark.slow(reason="a server that doesn't answer the start is waited for")
def test_a_server_that_never_joins_us_costs_less_than_two_seconds(server: FakeServer) -> None:
    server.misbehave = lambda peer, message: True
    began = time.monotonic()
    delivery = deliver(server)
    assert time.monotonic() - began < 2.0
    assert delivery.sent == 0


@pytest.mark.parametrize("hangs_on", ["events", "streamEnd", "endTestRun"])
def test_a_server_that_hangs_at_the_end_is_left_at_the_deadline(server: FakeServer, hangs_on: str) -> None:
    server.misbehave = lambda peer, message: message["type"] == hangs_on
    client = client_of(server)
    client.start_run(run_id="run-1")
    client.emit("x", {})
    client.end_run()
    server.wait_until(lambda: hangs_on in server.kinds())
    began = time.monotonic()
    delivery = client.close(deadline_seconds=0.3)
    assert 0.25 < time.monotonic() - began < 0.8
    assert delivery.unconfirmed == (1 if hangs_on == "events" else 0)
    assert delivery.error is not None
    assert delivery.error.endswith("the server did not confirm everything within 0.3 s")


def test_a_server_that_is_there_but_slow_has_until_the_deadline(server: FakeServer) -> None:
    asked: list[tuple[Peer, Message]] = []

    def keep_waiting(peer: Peer, message: Message) -> bool:
        if message["type"] == "streamEnd" and not asked:
            asked.append((peer, message))
            return True
        return False

    server.misbehave = keep_waiting
    now = [100.0]
    client = client_of(server, monotonic=lambda: now[0])
    client.start_run(run_id="run-1")
    client.emit("x", {})
    client.end_run()
    deliveries: list[Delivery] = []
    closing = threading.Thread(target=lambda: deliveries.append(client.close()))
    closing.start()
    server.wait_until(lambda: asked)
    now[0] += 5.0  # far more than an absent server gets
    closing.join(0.15)
    assert closing.is_alive()
    peer, message = asked[0]
    server.act(peer, message)
    closing.join(5)
    assert deliveries[0].is_complete


def test_nothing_of_the_connection_gets_into_the_log(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    deliver(server)
    assert not [record for record in caplog.records if record.name == "websockets.client"]
    assert not [record for record in caplog.records if record.name.startswith("testorch")]


def test_a_server_that_stops_reading_blocks_neither_emit_nor_close(server: FakeServer) -> None:
    go_on = threading.Event()

    def stop_reading(peer: Peer, message: Message) -> bool:
        return message["type"] == "events" and go_on.wait(10)

    server.misbehave = stop_reading
    client = client_of(server)
    client.start_run(run_id="run-1")
    for _ in range(300):
        client.emit("x", {"text": "x" * 100_000})
    began = time.monotonic()
    delivery = client.close(deadline_seconds=0.3)
    assert time.monotonic() - began < 0.8
    assert delivery.unconfirmed == 300
    go_on.set()


def test_emit_wakes_no_other_thread_and_costs_a_few_microseconds() -> None:
    client = Client("ws://127.0.0.1:9")
    payload = {"testId": "a"}
    began = time.perf_counter()
    for _ in range(10_000):
        client.emit("test/start", payload)
    # Ten times what it takes, so that a busy machine doesn't fail it; a lock or a condition would.
    assert (time.perf_counter() - began) / 10_000 < 30e-6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_silent(server: FakeServer) -> None:
    client = client_of(server)
    client.start_run(run_id="run-1")
    client.emit("x", {"from": "parent"})
    child = os.fork()
    if child == 0:
        client.emit("x", {"from": "child"})
        client.end_run()
        client.start_run(run_id="run-2")
        os._exit(0 if client.close().sent == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert client.close().confirmed == 1
    assert server.of_type("x") == [{"from": "parent"}]


def test_no_thread_is_left_after_close(server: FakeServer) -> None:
    before = set(threading.enumerate())
    deliver(server)
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("testorch")]
    for thread in left:
        thread.join(1)
    assert not any(thread.is_alive() for thread in left)


def test_an_environment_without_websockets_is_reported_and_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "testorch_client.transport", None)
    client = Client("ws://127.0.0.1:9")
    client.start_run(run_id="run-1")
    error = client.close().error
    assert error is not None
    assert error.startswith("ws://127.0.0.1:9: `websockets` could not be used")


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9", "ws://", "ws://[", "ws://127.0.0.1:99999", "\x00"])
def test_an_address_that_is_none_is_reported_and_harmless(url: str) -> None:
    client = Client(url)
    client.start_run(run_id="run-1")
    assert client.close().error
