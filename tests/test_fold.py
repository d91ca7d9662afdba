"""The laws of the fold: total, idempotent, indifferent to disorder, and counters that are derived."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testorch_core import fold
from testorch_core.events import SEVERITY, Source
from testorch_core.fold import Draft
from testorch_core.runs import BUCKETS, RunState, standing

CLIENT = Source("connection-1")


def event(kind: str, event_id: str = "e1", /, **payload: Any) -> dict[str, Any]:
    return {"id": event_id, "type": kind, "timestamp": 1, "payload": payload}


def folded(*events: Any, state: RunState | None = None) -> RunState:
    """The state after events; each is an event of `CLIENT`, or a pair of an event and its source."""
    state = state or RunState("p", "r")
    for one in events:
        wire, source = one if isinstance(one, tuple) else (one, CLIENT)
        draft = Draft(state)
        draft.fold(draft.with_attempt(wire), offset=state.head.last_offset + 1, received_at=1000, source=source)
        draft.merge()
    return state


def counts(state: RunState) -> dict[str, int]:
    return {key: value for key, value in state.status().counts.items() if value}


START = event("run/start", "s", participant="connection-1")


def test_a_test_that_starts_is_running_and_one_that_ends_is_counted_by_its_status():
    state = folded(START, event("test/start", "a", testId="t", testName="T"))
    assert counts(state) == {"total": 1, "running": 1}
    assert [one["testName"] for one in state.status().running] == ["T"]
    folded(event("test/end", "b", testId="t", status="skipped"), state=state)
    assert counts(state) == {"total": 1, "skipped": 1}
    assert state.status().running == ()


def test_an_end_before_its_start_is_healed_when_the_start_comes():
    in_order = folded(START, event("test/start", "a", testId="t"), event("test/end", "b", testId="t", status="passed"))
    reversed_ = folded(
        START,
        event("test/end", "b", testId="t", status="passed", attempt=1),
        event("test/start", "a", testId="t", attempt=1),
    )
    assert in_order.attempts == reversed_.attempts
    assert counts(in_order) == counts(reversed_) == {"total": 1, "passed": 1}


def test_a_pass_after_a_failed_attempt_is_flaky_and_does_not_fail_the_run():
    state = folded(
        START,
        event("test/start", "a", testId="t"),
        event("test/end", "b", testId="t", status="failed"),
        event("test/start", "c", testId="t"),
        event("test/end", "d", testId="t", status="passed"),
    )
    assert counts(state) == {"total": 1, "passed": 1, "flaky": 1}
    assert state.head.unexpected == 0
    assert state.attempts["t"].number == 2
    assert [one.status for one in state.earlier["t"]] == ["failed"]


@pytest.mark.parametrize(
    ("end", "bucket", "outcome"),
    [
        ({"status": "passed"}, "passed", "expected"),
        ({"status": "failed"}, "failed", "unexpected"),
        ({"status": "error"}, "error", "unexpected"),
        ({"status": "timedOut"}, "timedOut", "unexpected"),
        ({"status": "interrupted"}, "interrupted", "unexpected"),
        ({"status": "skipped"}, "skipped", "skipped"),
        ({"status": "todo"}, "todo", "skipped"),
        ({"status": "failed", "expectedStatus": "failed"}, "expectedFailed", "expected"),
        ({"status": "passed", "expectedStatus": "failed", "ok": True}, "passed", "expected"),
        ({"status": "failed", "expectedStatus": "failed", "ok": False}, "failed", "unexpected"),
        ({"status": "passed", "expectedStatus": "failed"}, "failed", "unexpected"),
        ({"status": "no such word"}, "unknown", "unexpected"),
        ({}, "unknown", "unexpected"),
        ({"status": ["passed"]}, "unknown", "unexpected"),
    ],
)
def test_every_status_has_one_bucket_and_one_outcome(end: dict[str, Any], bucket: str, outcome: str):
    state = folded(START, event("test/end", "b", testId="t", **end))
    assert counts(state) == {"total": 1, bucket: 1}
    assert standing(state.attempts["t"], (), interrupted=False).outcome == outcome


def test_of_two_ends_the_more_severe_counts_and_then_the_greater_id():
    ends = [event("test/end", name, testId="t", attempt=1, status=status) for name, status in
            (("b", "passed"), ("a", "failed"), ("c", "failed"), ("d", "skipped"))]  # fmt: skip
    for seed in range(5):
        random.Random(seed).shuffle(ends)
        state = folded(START, *ends)
        assert (state.attempts["t"].status, state.attempts["t"].ended_id) == ("failed", "c")


def test_open_tests_become_interrupted_with_the_runs_end_and_a_late_end_still_counts():
    state = folded(
        START,
        event("test/start", "a", testId="t"),
        event("run/end", "z", status="failed", complete=True),
    )
    assert counts(state) == {"total": 1, "interrupted": 1}
    folded(event("test/end", "b", testId="t", status="passed"), state=state)
    assert counts(state) == {"total": 1, "passed": 1, "late": 1}
    assert state.head.status == "failed", "a late event never changes the run's status"


def test_exactly_the_open_tests_of_a_lost_participant_are_interrupted_until_it_returns():
    other = Source("connection-2")
    state = folded(
        START,
        (event("run/join", "j", participant="connection-2"), other),
        event("test/start", "a", testId="mine"),
        (event("test/start", "b", testId="theirs"), other),
        (event("test/start", "c", testId="theirs-ended"), other),
        (event("test/end", "d", testId="theirs-ended", status="passed"), other),
        event("run/leave", "l", participant="connection-2", reason="lost"),
    )
    assert counts(state) == {"total": 3, "running": 1, "interrupted": 1, "passed": 1}
    folded((event("run/join", "k", participant="connection-2"), other), state=state)
    assert counts(state) == {"total": 3, "running": 2, "passed": 1}


def test_planned_tests_are_queued_until_something_is_heard_of_them():
    state = folded(START, event("run/plan", "p", total=3), event("test/start", "a", testId="t"))
    assert counts(state) == {"total": 3, "queued": 2, "running": 1}


def test_a_draft_that_is_dropped_leaves_no_trace():
    state = folded(START, event("test/start", "a", testId="t"))
    before = (dict(state.attempts), dict(state.open), state.head.copy())
    draft = Draft(state)
    draft.fold(event("test/end", "b", testId="t", status="failed"), offset=9, received_at=1, source=CLIENT)
    draft.fold(event("run/end", "z", status="failed"), offset=10, received_at=1, source=CLIENT)
    assert (state.attempts, state.open, state.head) == before


# Laws.

TEXT = st.text(max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        "testId",
        "attempt",
        "status",
        "expectedStatus",
        "ok",
        "errors",
        "total",
        "ids",
        "message",
        "participant",
        "reason",
        "key",
        "name",
        "metadata",
        "complete",
        "expect",
        "previousRunId",
        "implicit",
        "durationMs",
        "testName",
        "workerId",
    ]
)
KINDS = st.sampled_from(
    [
        "test/start",
        "test/end",
        "run/plan",
        "run/error",
        "run/start",
        "run/join",
        "run/leave",
        "run/end",
        "test/output",
        "stream/lost",
        "x/y",
    ]
)


@given(st.lists(st.tuples(KINDS, st.dictionaries(FIELDS, JSON, max_size=5)), max_size=8))
def test_the_fold_never_raises_on_any_json(given_events: list[tuple[str, dict[str, Any]]]):
    events = [event(kind, str(index)) | {"payload": payload} for index, (kind, payload) in enumerate(given_events)]
    state = folded(*events)
    state.status().payload()
    Draft(state).run_row()


@st.composite
def client_streams(draw: st.DrawFn) -> list[list[tuple[dict[str, Any], Source]]]:
    """A few sources, each with its own events in its own order, about a few tests that they share."""
    streams = []
    for number in range(draw(st.integers(1, 3))):
        source = Source(f"connection-{number}")
        stream = []
        for index in range(draw(st.integers(0, 6))):
            payload: dict[str, Any] = {
                "testId": draw(st.sampled_from(["t1", "t2"])),
                "attempt": draw(st.integers(1, 3)),
            }
            kind = draw(st.sampled_from(["test/start", "test/end", "test/end", "run/plan", "run/error"]))
            if kind == "test/end":
                payload["status"] = draw(st.sampled_from([*SEVERITY, "other"]))
                payload["durationMs"] = draw(st.sampled_from([1, 2.5]))
                payload |= draw(st.sampled_from([{}, {"ok": True}, {"ok": False}, {"expectedStatus": "failed"}]))
            stream.append((event(kind, f"{number}-{index}") | {"payload": payload | {"total": index}}, source))
        streams.append(stream)
    return streams


def shape(state: RunState) -> Any:
    """What must not depend on the order: all but the bookkeeping of the log itself."""
    head = state.head
    return (
        dict(sorted(state.attempts.items())),
        {test_id: attempts for test_id, attempts in sorted(state.earlier.items()) if attempts},
        dict(sorted(state.open.items())),
        {bucket: head.counts.get(bucket, 0) for bucket in BUCKETS},
        (head.tests, head.flaky, head.unexpected, dict(sorted(head.plans.items())), dict(sorted(head.errors.items()))),
    )


@settings(max_examples=60)
@given(client_streams(), st.randoms(use_true_random=False))
def test_any_interleaving_with_any_duplicates_reaches_the_same_state(
    streams: list[list[tuple[dict[str, Any], Source]]], chance: random.Random
):
    """P2: what the log holds twice, the fold makes one."""
    one_after_the_other = folded(START, *[one for stream in streams for one in stream])
    waiting = [list(stream) for stream in streams if stream]
    mixed: list[Any] = []
    while waiting:
        stream = chance.choice(waiting)
        mixed.append(stream.pop(0))
        if chance.random() < 0.3:
            mixed.append(chance.choice(mixed))  # the same again, later
        waiting = [rest for rest in waiting if rest]
    assert shape(folded(START, *mixed)) == shape(one_after_the_other)


@settings(max_examples=60)
@given(client_streams(), st.booleans())
def test_the_counters_are_what_counting_the_tests_gives(streams: list[list[tuple[dict[str, Any], Source]]], ends: bool):
    events: list[Any] = [START, *[one for stream in streams for one in stream]]
    state = folded(*events, *([event("run/end", "z", status="passed")] if ends else []))
    standings = [standing(last, state.earlier.get(name, ()), interrupted=ends) for name, last in state.attempts.items()]
    assert Counter(one.bucket for one in standings) == Counter(+Counter(state.head.counts))
    assert sum(one.flaky for one in standings) == state.head.flaky
    assert sum(one.unexpected for one in standings) == state.head.unexpected
    assert len(standings) == state.head.tests


@pytest.mark.parametrize("broken", ["counts every end", "the last end wins"])
def test_a_fold_that_breaks_the_laws_is_caught(broken: str, monkeypatch: pytest.MonkeyPatch):
    """The laws above bite: each of these variants reaches another state from the same events in another order, or twice."""
    folders = dict(fold._FOLDERS)

    def forgetful(draft: Draft, wire: Any, payload: Any, source: Source) -> None:
        if broken == "counts every end":
            draft.head.counts["passed"] = draft.head.counts.get("passed", 0) + 1
        draft._attempts.pop(payload["testId"], None)
        draft.base.attempts.pop(payload["testId"], None)
        folders["test/end"](draft, wire, payload, source)

    monkeypatch.setitem(fold._FOLDERS, "test/end", forgetful)
    ends = [event("test/end", "a", testId="t", attempt=1, status="failed"),
            event("test/end", "b", testId="t", attempt=1, status="passed")]  # fmt: skip
    assert shape(folded(START, *ends)) != shape(folded(START, *reversed(ends))) or shape(folded(START, *ends)) != shape(
        folded(START, *ends, ends[1])
    )
