"""The client against a real socket: what it delivers, and what it does when the server misbehaves."""

from __future__ import annotations

import logging
import os
import threading
import time
from itertools import count
from typing import Any

import pytest
from fake_server import FakeServer, Message, Peer

from testorch_client import Client, Delivery

ME = "0123456789ab"
"""The participant's name, and the beginning of its events' ids."""


def client_of(server: FakeServer, **options: Any) -> Client:
    options.setdefault("random", lambda: 0.1)  # short, repeatable backoff
    options.setdefault("event_prefix", lambda: ME)
    return Client(server.url, **options)


def deliver(server: FakeServer, events: int = 3, **options: Any) -> Delivery:
    client = client_of(server, **options)
    client.start_run(run_id="run-1")
    for number in range(events):
        client.emit("test/start", {"testId": f"t{number}"})
    client.end_run()
    return client.close()


def test_a_run_is_started_filled_and_ended_in_the_plain_conversation(server: FakeServer) -> None:
    clock = iter([1766000000.0, 1766000000.5])
    client = client_of(server, clock=lambda: next(clock))
    client.start_run(run_id="run-1", name="unit", project="shop", metadata={"framework": "pytest"})
    client.emit("test/start", {"testId": "a"})
    client.emit("test/end", {"testId": "a", "status": "passed"})
    client.end_run()
    delivery = client.close()

    def event(number: int, kind: str, timestamp: int, payload: Message) -> Message:
        return {
            "id": f"{ME}-{number}",
            "type": kind,
            "timestamp": timestamp,
            "runId": "run-1",
            "project": "shop",
            "payload": payload,
        }

    events = [
        event(1, "test/start", 1766000000000, {"testId": "a"}),
        event(2, "test/end", 1766000000500, {"testId": "a", "status": "passed"}),
    ]
    run = {"runId": "run-1", "project": "shop"}
    assert server.messages == [
        {
            "type": "startTestRun",
            "payload": {**run, "participant": ME, "name": "unit", "metadata": {"framework": "pytest"}},
            "id": 1,
        },
        {"type": "events", "payload": {"events": events}},
        {"type": "getRunStatus", "payload": run, "id": 2},
        {"type": "endTestRun", "payload": run, "id": 3},
    ]
    assert delivery == Delivery(
        run_id="run-1",
        sent=2,
        confirmed=2,
        refused=0,
        dropped=0,
        unconfirmed=0,
        status={"runId": "run-1", "status": "passed", "events": 2},
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
    assert server.messages[0]["payload"] == {"runId": delivery.run_id, "participant": ME}


def test_with_a_key_alone_the_server_gives_the_run_its_id(server: FakeServer) -> None:
    client = client_of(server)
    client.start_run(key="build-7")
    client.emit("test/start", {"testId": "a"})
    client.end_run()
    delivery = client.close()
    assert server.messages[0]["payload"] == {"key": "build-7", "participant": ME}
    assert delivery.run_id == "run-of-build-7"
    assert [event["runId"] for event in server.events.values()] == ["run-of-build-7"]
    assert server.ended == ["run-of-build-7"]


def test_a_run_joined_by_its_key_is_joined_again_by_its_id(server: FakeServer) -> None:
    def vanish(peer: Peer, message: Message) -> bool:
        if peer.number == 1 and message["type"] == "events":
            peer.drop()
            return True
        return False

    server.misbehave = vanish
    client = client_of(server)
    client.start_run(key="build-7", name="unit")
    client.emit("test/start", {"testId": "a"})
    assert client.close().is_complete
    starts = [message["payload"] for message in server.messages if message["type"] == "startTestRun"]
    assert starts == [
        {"key": "build-7", "name": "unit", "participant": ME},
        {"runId": "run-of-build-7", "participant": ME},
    ]


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


def test_confirmation_is_asked_for_while_the_run_goes_on(server: FakeServer) -> None:
    client = client_of(server)
    client.start_run(run_id="run-1")
    for number in range(600):
        client.emit("test/start", {"testId": f"t{number}"})
    server.wait_until(lambda: "getRunStatus" in server.kinds())
    client.close()


def test_the_run_is_ended_without_waiting_for_close(server: FakeServer) -> None:
    client = client_of(server)
    client.start_run(run_id="run-1")
    client.emit("test/start", {"testId": "a"})
    client.end_run()
    server.wait_until(lambda: server.ended)
    assert client.close().is_complete


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013])
def test_after_a_close_that_may_pass_the_unconfirmed_is_sent_again_in_order(server: FakeServer, code: int) -> None:
    def forget(peer: Peer, message: Message) -> bool:
        if peer.number == 1 and message["type"] == "events":
            peer.close(code)  # taken, but not committed
            return True
        return False

    server.misbehave = forget
    delivery = deliver(server, 450)
    assert delivery.is_complete
    assert delivery.confirmed == delivery.sent == 450
    assert list(server.events) == [f"{ME}-{number}" for number in range(1, 451)]
    assert server.kinds().count("startTestRun") == 2
    assert server.messages[0]["payload"] == {"runId": "run-1", "participant": ME}


def test_a_connection_lost_before_the_answer_loses_nothing_and_stores_nothing_twice(server: FakeServer) -> None:
    def keep_but_vanish(peer: Peer, message: Message) -> bool:
        if peer.number <= 2 and message["type"] == "getRunStatus":
            peer.drop()  # committed, but the client can't know
            return True
        return False

    server.misbehave = keep_but_vanish
    delivery = deliver(server, 10)
    assert delivery.is_complete
    assert len(server.events) == 10
    sent = [event["id"] for m in server.messages if m["type"] == "events" for event in m["payload"]["events"]]
    assert len(sent) == 30


def test_a_run_that_finished_while_we_were_away_still_gets_its_late_events(server: FakeServer) -> None:
    def finish_meanwhile(peer: Peer, message: Message) -> bool:
        if peer.number == 1 and message["type"] == "events":
            peer.drop()
            return True
        if peer.number == 2 and message["type"] == "startTestRun":
            peer.send({"type": "error", "payload": {"code": "run_finished", "temporary": False}, "inReplyTo": 1})
            return True
        return False

    server.misbehave = finish_meanwhile
    delivery = deliver(server)
    assert delivery.confirmed == 3
    assert delivery.is_complete
    assert server.ended == []


def test_an_end_that_was_heard_but_not_answered_is_not_asked_for_again(server: FakeServer) -> None:
    def vanish_after_the_end(peer: Peer, message: Message) -> bool:
        if message["type"] == "endTestRun":
            peer.drop()
            return True
        if peer.number == 2 and message["type"] == "startTestRun":
            peer.send({"type": "error", "payload": {"code": "run_finished", "temporary": False}, "inReplyTo": 1})
            return True
        return False

    server.misbehave = vanish_after_the_end
    assert deliver(server).is_complete
    assert server.kinds().count("endTestRun") == 1


def test_starting_a_run_that_is_finished_is_an_error_and_sends_nothing(server: FakeServer) -> None:
    def refuse(peer: Peer, message: Message) -> bool:
        payload = {"code": "run_finished", "message": "run `run-1` is finished", "temporary": False}
        peer.send({"type": "error", "payload": payload, "inReplyTo": message["id"]})
        return True

    server.misbehave = refuse
    delivery = deliver(server)
    assert delivery.sent == 0
    assert delivery.unconfirmed == 3
    assert delivery.error == (
        f"{server.url}: the server refused `startTestRun` with `run_finished`: run `run-1` is finished"
    )


def test_an_event_refused_for_good_is_counted_under_its_code(server: FakeServer) -> None:
    def refuse_second(peer: Peer, message: Message) -> bool:
        if message["type"] == "events":
            for event in message["payload"]["events"]:
                if event["payload"]["testId"] == "t1":
                    peer.refuse("invalid_event", eventId=event["id"], temporary=False)
                else:
                    server.keep([event])
            return True
        return False

    server.misbehave = refuse_second
    delivery = deliver(server)
    assert (delivery.confirmed, delivery.refused, delivery.unconfirmed) == (2, 1, 0)
    assert delivery.refused_by_code == {"invalid_event": 1}
    assert not delivery.is_complete


@pytest.mark.parametrize("names_event", [True, False])
def test_what_is_refused_for_the_moment_is_sent_again(server: FakeServer, names_event: bool) -> None:
    times = count()

    def refuse_once(peer: Peer, message: Message) -> bool:
        if message["type"] == "events" and next(times) == 0:
            events = message["payload"]["events"]
            if names_event:
                server.keep(events[:1] + events[2:])
                peer.refuse("storage_failed", eventId=events[1]["id"], temporary=True, retryAfterMs=20)
            else:
                peer.refuse("rate_limited", temporary=True, retryAfterMs=20)
            return True
        return False

    server.misbehave = refuse_once
    delivery = deliver(server)
    assert delivery.is_complete
    assert {payload["testId"] for payload in server.of_type("test/start")} == {"t0", "t1", "t2"}


def test_what_is_refused_for_the_moment_is_not_sent_again_before_its_time(server: FakeServer) -> None:
    arrivals: list[float] = []

    def refuse_once(peer: Peer, message: Message) -> bool:
        if message["type"] == "events":
            arrivals.append(time.monotonic())
            if len(arrivals) == 1:
                peer.refuse("overloaded", temporary=True, retryAfterMs=200)
                return True
        return False

    server.misbehave = refuse_once
    assert deliver(server).is_complete
    assert arrivals[1] - arrivals[0] >= 0.19


def test_a_request_refused_for_the_moment_is_asked_again(server: FakeServer) -> None:
    refused: set[str] = set()

    def refuse_each_once(peer: Peer, message: Message) -> bool:
        if "id" in message and message["type"] not in refused:
            refused.add(message["type"])
            payload = {"code": "overloaded", "temporary": True, "retryAfterMs": 10}
            peer.send({"type": "error", "payload": payload, "inReplyTo": message["id"]})
            return True
        return False

    server.misbehave = refuse_each_once
    assert deliver(server).is_complete
    assert refused == {"startTestRun", "getRunStatus", "endTestRun"}


def test_a_token_that_may_not_observe_is_confirmed_by_joining_again(server: FakeServer) -> None:
    def forbid(peer: Peer, message: Message) -> bool:
        if message["type"] == "getRunStatus":
            peer.send(
                {"type": "error", "payload": {"code": "forbidden", "temporary": False}, "inReplyTo": message["id"]}
            )
            return True
        return False

    server.misbehave = forbid
    assert deliver(server).is_complete
    assert server.kinds() == ["startTestRun", "events", "getRunStatus", "startTestRun", "endTestRun"]


def test_a_message_too_big_is_split_until_the_culprit_alone_is_refused(server: FakeServer) -> None:
    def close_on_big(peer: Peer, message: Message) -> bool:
        if any(event["payload"]["testId"] == "t5" for event in message["payload"].get("events", ())):
            peer.close(1009)
            return True
        return False

    server.misbehave = close_on_big
    delivery = deliver(server, 8)
    assert (delivery.confirmed, delivery.refused_by_code) == (7, {"too_large": 1})
    assert {payload["testId"] for payload in server.of_type("test/start")} == {f"t{n}" for n in range(8) if n != 5}


def test_a_batch_refused_without_naming_an_event_is_never_taken_as_confirmed(server: FakeServer) -> None:
    def refuse_all_of_it(peer: Peer, message: Message) -> bool:
        if any(event["payload"]["testId"] == "t5" for event in message["payload"].get("events", ())):
            peer.refuse("invalid_message", temporary=False)
            return True
        return False

    server.misbehave = refuse_all_of_it
    delivery = deliver(server, 8)
    assert (delivery.confirmed, delivery.refused_by_code) == (7, {"invalid_message": 1})
    assert len(server.events) == 7


@pytest.mark.parametrize("code", [1000, 1002, 1008, 4400, 4401, 4403, 4409])
def test_after_a_close_for_good_the_client_stops(server: FakeServer, code: int) -> None:
    def close(peer: Peer, message: Message) -> bool:
        peer.close(code)
        return True

    server.misbehave = close
    delivery = deliver(server)
    assert len(server.peers) == 1
    assert delivery.unconfirmed == 3
    assert delivery.error is not None
    assert f"code {code}" in delivery.error


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


@pytest.mark.parametrize("hangs_on", ["getRunStatus", "endTestRun"])
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
    assert delivery.unconfirmed == (1 if hangs_on == "getRunStatus" else 0)
    assert delivery.error is not None
    assert delivery.error.endswith("the server did not confirm everything within 0.3 s")


def test_a_server_that_is_there_but_slow_has_until_the_deadline(server: FakeServer) -> None:
    asked: list[tuple[Peer, Message]] = []

    def keep_waiting(peer: Peer, message: Message) -> bool:
        if message["type"] == "getRunStatus" and not asked:
            asked.append((peer, message))
            return True
        return False

    server.misbehave = keep_waiting
    now = [100.0]
    client = client_of(server, monotonic=lambda: now[0])
    client.start_run(run_id="run-1")
    client.emit("x", {})
    deliveries: list[Delivery] = []
    closing = threading.Thread(target=lambda: deliveries.append(client.close()))
    closing.start()
    server.wait_until(lambda: asked)
    now[0] += 5.0  # far more than an absent server gets
    closing.join(0.15)
    assert closing.is_alive()
    peer, message = asked[0]
    peer.answer("runStatus", server.status("run-1"), message)
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
