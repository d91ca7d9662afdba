"""The parts without I/O: the window, close codes, ids, encoding, the summary."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from testorch_client.answers import Welcome
from testorch_client.delivery import Delivery
from testorch_client.encoding import decode_message, encode_payload, visible
from testorch_client.errors import Closed, Rejected, Unreachable
from testorch_client.failures import MAX_MESSAGE_CHARACTERS, MAX_STACK_CHARACTERS, describe
from testorch_client.identity import bounded, identify, without_group
from testorch_client.ledger import Ledger, RunRequest
from testorch_client.outbox import Emitted, Outbox, characters_in
from testorch_client.outcomes import Phases, judge
from testorch_client.receipt import StreamDigest
from testorch_client.recorder import Recorder
from testorch_client.rules import after, backoff_seconds, redacted
from testorch_client.stream import Stream
from testorch_client.summary import summary_line
from testorch_client.window import Encoded, Window


def event(seq: int, size_bytes: int = 10) -> Encoded:
    return Encoded(seq, f"e-{seq}", "{}", size_bytes)


def seqs(events: list[Encoded]) -> list[int]:
    return [event.seq for event in events]


def window_of(count: int) -> Window:
    window = Window()
    for seq in range(1, count + 1):
        window.add(event(seq))
    return window


def test_an_acknowledgement_lets_go_of_everything_up_to_it_and_no_more() -> None:
    window = window_of(5)
    window.batch(max_events=4, max_bytes=1000)
    window.acknowledge(3)
    assert (window.acked_seq, window.sent_seq, window.last_seq) == (3, 4, 5)
    assert (len(window), window.in_flight, window.size_bytes) == (2, 1, 20)
    window.acknowledge(2)
    assert window.acked_seq == 3


def test_after_a_rewind_everything_from_there_comes_again_in_order() -> None:
    window = window_of(5)
    window.batch(max_events=4, max_bytes=1000)
    window.rewind(3)
    assert window.in_flight == 2
    assert seqs(window.batch(max_events=9, max_bytes=1000)) == [3, 4, 5]


def test_an_acknowledgement_of_what_waits_again_is_taken_all_the_same() -> None:
    window = window_of(4)
    window.batch(max_events=4, max_bytes=1000)
    window.rewind(1)
    window.acknowledge(2)
    assert seqs(window.batch(max_events=9, max_bytes=1000)) == [3, 4]


def test_a_replaced_event_keeps_its_place() -> None:
    window = window_of(3)
    window.batch(max_events=2, max_bytes=1000)
    for seq in (2, 3, 9):
        window.replace(Encoded(seq, f"e-{seq}", "short", 5))
    assert window.size_bytes == 20
    window.rewind(1)
    assert [event.text for event in window.batch(max_events=9, max_bytes=1000)] == ["{}", "short", "short"]


def test_a_batch_holds_at_least_one_event_however_big_it_is() -> None:
    window = Window()
    window.add(event(1, size_bytes=5000))
    window.add(event(2))
    assert seqs(window.batch(max_events=9, max_bytes=1000)) == [1]


def test_a_batch_holds_none_where_none_may_be_sent() -> None:
    assert window_of(3).batch(max_events=0, max_bytes=1000) == []
    assert window_of(3).batch(max_events=-5, max_bytes=1000) == []


# Made by other means: printf '1:a\n2:b\n3:c\n' | sha256sum
DIGESTS = {
    (): "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ("evt-1",): "7e76ec1dc57159ea790ab188c99e77975d3d02d444cfa27be99fc33d0b036974",
    ("a", "b", "c"): "80112976b9ae72e49fda1fc9cb91c48d82000f3584c222999412e68b9fe88e13",
    ("prüfung-ä", "试验-🦔", "naïve"): "43f36530526c8777f004c81b40a04473eb224a39b1b5e16cadf90ee8e44256f7",
    ("line\nbreak", "2:not a line of its own", ""): "d30b225c55261e19b364c8e6b19c300d2c08dc4b8ca5a9203e20f4eb6b4e0d26",
}


@pytest.mark.parametrize("ids", DIGESTS)
def test_the_digest_is_over_seq_and_id_line_by_line(ids: tuple[str, ...]) -> None:
    digest = StreamDigest()
    for seq, event_id in enumerate(ids, 1):
        digest.add(seq, event_id)
    assert digest.hexdigest() == DIGESTS[ids]


@pytest.mark.parametrize(
    ("payload", "characters"),
    [
        ({}, 0),
        ({"text": "äöü", "stream": "stdout", "attempt": 1}, 9),
        ({"errors": [{"message": "four", "stack": "12345", "line": 3}, "text"]}, 13),
        ({"properties": [["key", "value"], [1, None]]}, 8),
        ({"extra": {"not": "counted"}}, 0),
        ({"key that is long": 1}, 0),
        ("not a payload", 0),
        (None, 0),
    ],
)
def test_a_payload_weighs_what_its_texts_do(payload: Any, characters: int) -> None:
    assert characters_in(payload) == characters


def test_no_foreign_code_is_called_to_weigh_a_payload() -> None:
    class Hostile(dict):  # type: ignore[type-arg]
        def values(self) -> Any:
            raise RuntimeError("no")

    assert characters_in(Hostile(text="x")) == 0
    assert characters_in({"errors": [Hostile(text="x")]}) == 0


def emitted(kind: str, text: str) -> Emitted:
    return Emitted(kind, {"text": text}, 1, characters_in({"text": text}))


def test_a_box_with_too_much_text_drops_output_first_and_then_the_newest() -> None:
    outbox = Outbox(max_events=100, max_characters=10)
    outbox.put(emitted("test/output", "x" * 6))
    outbox.put(emitted("test/end", "x" * 4))
    outbox.put(emitted("test/output", "x"))  # no room: dropped
    assert (len(outbox), outbox.dropped) == (2, 1)
    outbox.put(emitted("test/end", "x" * 6))  # takes the place of the first
    outbox.put(emitted("test/end", "x"))  # no room, and no output left
    assert (len(outbox), outbox.dropped) == (2, 3)
    taken = [outbox.take(), outbox.take(), outbox.take()]
    assert [event and len(event.payload["text"]) for event in taken] == [4, 6, None]
    outbox.put(emitted("test/output", "x" * 10))
    assert outbox.accepted == 3


def test_an_event_with_more_text_than_the_box_holds_costs_nothing_else() -> None:
    outbox = Outbox(max_events=100, max_characters=10)
    outbox.put(emitted("test/output", "x"))
    outbox.put(emitted("test/end", "x" * 11))
    assert (len(outbox), outbox.dropped) == (1, 1)


def test_an_event_that_is_emitted_while_another_is_being_put_away_does_not_deadlock() -> None:
    outbox = Outbox(max_events=100, max_characters=10)
    with outbox._lock:  # as a signal handler finds it
        outbox.put(emitted("test/end", "x"))
    assert len(outbox) == 1


@pytest.mark.parametrize(
    ("failure", "action"),
    [
        *[(Closed(code), "retry") for code in (1001, 1006, 1011, 1012, 1013, 4008, 4408, 4429)],
        *[(Closed(code), "stop") for code in (1000, 1002, 1003, 1007, 1008, 4400, 4401, 4403, 4406, 4409, 4999)],
        (Closed(1009), "split"),
        (Unreachable("refused"), "retry"),
        (Rejected("401"), "stop"),
    ],
    ids=str,
)
def test_every_end_of_a_connection_has_its_consequence(failure: Any, action: str) -> None:
    assert after(failure).action == action
    assert after(failure).is_restarting == (getattr(failure, "code", 0) in (1001, 1012))


def test_waits_grow_to_five_seconds_and_are_spread_over_all_of_it() -> None:
    assert [backoff_seconds(n, lambda: 1.0) for n in (0, 1, 2, 9, 10_000)] == [0.1, 0.2, 0.4, 5.0, 5.0]
    assert backoff_seconds(9, lambda: 0.0) == 0


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://host:8000/ws", "ws://host:8000/ws"),
        ("wss://user:secret@host/ws?token=secret", "wss://***@host/ws?***"),
        ("ws://secret@[::1]:80/", "ws://***@[::1]:80/"),
        ("ws://host:secret/", "<not an address>"),
    ],
)
def test_an_address_is_shown_without_credentials(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain", "plain"), ("ä🦔", "ä🦔"), ("a\x00b", "a\\x00b"), ("a\udc80b", "a\\udc80b"), ("\x1b[1m", "\x1b[1m")],
)
def test_what_the_server_refuses_in_text_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert json.loads(encode_payload({text: text})) == {shown: shown}


def test_a_payload_deeper_than_the_server_takes_ends_in_text() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert encode_payload(deep).startswith("[" * 20)
    deep.clear()


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"type":1}', '{"payload":{}}', "[" * 100_000])
def test_a_message_that_is_none_is_ignored(text: str) -> None:
    assert decode_message(text) == ("", {}, None)


def test_an_id_that_is_too_long_keeps_its_head_and_stays_unique() -> None:
    first, second = bounded("x" * 2000 + "a"), bounded("x" * 2000 + "b")
    assert len(first) == len(second) == 1024
    assert first != second
    assert first.startswith("x" * 1000)
    assert len(bounded("\x00" * 1000)) == 1024
    assert bounded("x" * 1024) == "x" * 1024


def test_a_node_id_without_a_function_is_its_own_name() -> None:
    assert identify("docs/a[1].rst", None) == {
        "testId": "docs/a[1].rst",
        "testName": "docs/a[1].rst",
        "fullName": "docs/a[1].rst",
        "suitePath": ["docs/a[1].rst"],
    }


@pytest.mark.parametrize(
    ("nodeid", "bare"),
    [
        ("a.py::t@g", "a.py::t"),
        ("a.py::t[x@y]@g", "a.py::t[x@y]"),
        ("a.py::t[x@y]", "a.py::t[x@y]"),
        ("a@b/c.py::t", "a@b/c.py::t"),
        ("a@b.py::t", "a@b.py::t"),
    ],
)
def test_only_the_group_that_xdist_appends_is_taken_off(nodeid: str, bare: str) -> None:
    assert without_group(nodeid) == bare


def report(when: str, outcome: str, **more: Any) -> Any:
    values = {"nodeid": "a.py::t", "location": ("a.py", 0, "t"), "longrepr": None, "sections": [], **more}
    return SimpleNamespace(when=when, outcome=outcome, **values)


def test_a_word_that_we_do_not_know_is_kept_and_unknown() -> None:
    phases = Phases()
    phases.add(report("setup", "passed"))
    phases.add(report("call", "retried"))
    verdict = judge(phases)
    assert (verdict.status, verdict.raw_status) == ("unknown", "retried")


def test_an_empty_xfail_reason_is_an_xfail_all_the_same() -> None:
    phases = Phases()
    phases.add(report("call", "skipped", wasxfail=""))
    assert (judge(phases).status, judge(phases).expected_status) == ("failed", "failed")


def test_messages_and_stacks_have_a_limit() -> None:
    crash = SimpleNamespace(path="/r/a.py", lineno=3, message="ValueError: " + "x" * 100_000)

    class Long:
        reprcrash = crash

        def __str__(self) -> str:
            return "begin" + "y" * 500_000 + "end"

    described = describe(Long(), "/r")
    assert (described["type"], described["filePath"], described["line"]) == ("ValueError", "a.py", 3)
    assert len(described["message"]) == MAX_MESSAGE_CHARACTERS
    assert len(described["stack"]) <= MAX_STACK_CHARACTERS
    assert described["stack"].startswith("begin")
    assert described["stack"].endswith("end")


def test_a_failure_whose_text_can_not_be_had_is_described_all_the_same() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert describe(Hostile(), "/r") == {"message": "<unprintable Hostile>"}


def test_a_report_without_a_start_opens_its_attempt_and_the_session_closes_it() -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    recorder = Recorder(lambda type, payload: told.append((type, payload)), root="/r", clock=lambda: 1.5)
    recorder.report(report("setup", "passed", duration=0.25), None)
    recorder.report(report("teardown", "passed", duration=0.5), None)
    recorder.end_session()
    assert [kind for kind, _ in told] == ["test/start", "test/end"]
    end = told[-1][1]
    assert (end["status"], end["durationMs"], end["startedAt"]) == ("passed", 750.0, 1500)


@pytest.mark.parametrize(
    ("delivery", "line"),
    [
        ({"receipt_matches": True}, "testorch: run 3f2a0000… — 1,402 tests, 2,806 events delivered, receipt matches"),
        ({}, "testorch: run 3f2a0000… — 1,402 tests, 2,806 events delivered"),
        (
            {"sent": 0, "confirmed": 0, "receipt_matches": True},
            "testorch: run 3f2a0000… — 1,402 tests, 0 events delivered, receipt matches",
        ),
        ({"sent": 0, "unconfirmed": 9, "error": "ws://h: gone"}, "testorch: nothing sent — ws://h: gone"),
        ({"sent": 0, "dropped": 9}, "testorch: nothing sent — 9 dropped, the queue was full"),
        (
            {"confirmed": 1572, "unconfirmed": 1234, "error": "ws://h: gone"},
            "testorch: run 3f2a0000… — 1,402 tests, 1,572 events delivered, 1,234 not confirmed; ws://h: gone",
        ),
        (
            {"refused": 3, "refused_by_code": {"too_large": 1, "conflict": 2}, "dropped": 7, "receipt_matches": True},
            "testorch: run 3f2a0000… — 1,402 tests, 2,806 events delivered, "
            "3 refused (conflict 2, too_large 1), 7 dropped, the queue was full, receipt matches",
        ),
        (
            {"receipt_matches": False, "error": "ws://h: the receipt is for 2 events, 3 were sent"},
            "testorch: run 3f2a0000… — 1,402 tests, 2,806 events delivered; "
            "ws://h: the receipt is for 2 events, 3 were sent",
        ),
        ({"run_id": "nightly"}, "testorch: run nightly — 1,402 tests, 2,806 events delivered"),
    ],
)
def test_the_summary_says_what_became_of_the_events(delivery: dict[str, Any], line: str) -> None:
    whole = {"run_id": "3f2a" + "0" * 28, "sent": 2806, "confirmed": 2806, "refused": 0, "dropped": 0, "unconfirmed": 0}
    assert summary_line(Delivery(**{**whole, **delivery}), tests=1402) == line


def test_a_single_test_and_event_are_counted_in_the_singular() -> None:
    delivery = Delivery(run_id="r", sent=1, confirmed=1, refused=0, dropped=0, unconfirmed=0)
    assert summary_line(delivery, tests=1) == "testorch: run r — 1 test, 1 event delivered"


def test_an_event_that_is_just_being_encoded_is_counted_as_unconfirmed() -> None:
    seen: list[int] = []

    class Watching(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            seen.append(ledger.delivery(None).unconfirmed)
            return super().items()

    outbox = Outbox(max_events=10, max_characters=100)
    ledger = Ledger(RunRequest(run_id="r"), outbox, Stream("me"))
    ledger.resume(Welcome.read({"ackedSeq": 0}))
    for _ in range(3):
        outbox.put(Emitted("x", Watching(a=object()), 1))
    ledger.fill_window()
    assert set(seen) == {3}
    assert ledger.delivery(None).unconfirmed == 3
