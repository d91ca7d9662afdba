"""The parts without I/O: the window, close codes, ids, encoding, the summary."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from testorch_client.delivery import Delivery
from testorch_client.encoding import Encoder, decode_message, encode_payload, visible
from testorch_client.errors import Closed, Rejected, Unreachable
from testorch_client.failures import MAX_MESSAGE_CHARACTERS, MAX_STACK_CHARACTERS, describe
from testorch_client.identity import bounded, identify, without_group
from testorch_client.ledger import Ledger, RunRequest
from testorch_client.outbox import Emitted, Outbox
from testorch_client.outcomes import Phases, judge
from testorch_client.recorder import Recorder
from testorch_client.rules import after, backoff_seconds, redacted
from testorch_client.summary import summary_line
from testorch_client.window import Encoded, Window


def event(number: int, size_bytes: int = 10) -> Encoded:
    return Encoded(f"e-{number}", number, "{}", size_bytes)


def ids(events: list[Encoded]) -> list[str]:
    return [event.event_id for event in events]


def window_of(count: int) -> Window:
    window = Window()
    for number in range(1, count + 1):
        window.add(event(number))
    return window


def test_an_answer_confirms_what_was_sent_before_the_question_and_no_more() -> None:
    window = window_of(3)
    window.batch(max_events=2, max_bytes=1000)
    mark = window.mark()
    window.batch(max_events=2, max_bytes=1000)
    assert window.confirm(mark) == 2
    assert (len(window), window.in_flight) == (1, 1)
    assert window.confirm(mark) == 0


def test_after_a_rewind_everything_unconfirmed_comes_again_in_order() -> None:
    window = window_of(4)
    window.batch(max_events=3, max_bytes=1000)
    window.postpone("e-1")
    window.refuse("e-2")
    window.rewind()
    assert ids(window.batch(max_events=9, max_bytes=1000)) == ["e-1", "e-3", "e-4"]


def test_what_is_postponed_waits_until_it_is_resumed() -> None:
    window = window_of(3)
    window.batch(max_events=2, max_bytes=1000)
    assert window.postpone("e-1")
    assert not window.postpone("e-9")
    assert window.confirm(window.mark()) == 1
    window.resume()
    assert ids(window.batch(max_events=9, max_bytes=1000)) == ["e-1", "e-3"]


def test_a_batch_holds_at_least_one_event_however_big_it_is() -> None:
    window = Window()
    window.add(event(1, size_bytes=5000))
    window.add(event(2))
    assert ids(window.batch(max_events=9, max_bytes=1000)) == ["e-1"]


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
        ({}, "testorch: run 3f2a0000… — 1,402 tests delivered and confirmed"),
        ({"sent": 0, "unconfirmed": 9, "error": "ws://h: gone"}, "testorch: nothing sent — ws://h: gone"),
        (
            {"unconfirmed": 1234, "error": "ws://h: gone"},
            "testorch: run 3f2a0000… — 1,234 events not confirmed; ws://h: gone",
        ),
        (
            {"refused": 3, "refused_by_code": {"too_large": 1, "conflict": 2}, "dropped": 7},
            "testorch: run 3f2a0000… — 3 events refused (conflict 2, too_large 1), "
            "7 events dropped, the queue was full",
        ),
        ({"run_id": "nightly"}, "testorch: run nightly — 1,402 tests delivered and confirmed"),
    ],
)
def test_the_summary_says_what_became_of_the_events(delivery: dict[str, Any], line: str) -> None:
    whole = {"run_id": "3f2a" + "0" * 28, "sent": 5, "confirmed": 5, "refused": 0, "dropped": 0, "unconfirmed": 0}
    assert summary_line(Delivery(**{**whole, **delivery}), tests=1402) == line


def test_an_event_that_is_just_being_encoded_is_counted_as_unconfirmed() -> None:
    seen: list[int] = []

    class Watching(Encoder):
        def encode(self, event: Emitted, address: str) -> Encoded:
            seen.append(ledger.delivery(None).unconfirmed)
            return super().encode(event, address)

    outbox = Outbox(10)
    ledger = Ledger(RunRequest(run_id="r"), outbox, Watching("me"))
    for _ in range(3):
        outbox.put(Emitted("x", {}, 1))
    ledger.fill_window("r")
    assert seen == [3, 3, 3]
    assert ledger.delivery(None).unconfirmed == 3
