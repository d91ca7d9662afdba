"""Any disorder of streams (duplicates, gaps, takeovers, a failing store, restarts) ends with every event stored once, in order."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from faults.disorder_model import (
    Leave,
    Restart,
    Schedule,
    Send,
    Shuffle,
    Step,
    StoreDown,
    TakeOver,
    Wait,
    violations_of,
)
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from testorch_core.committer import Committer
from testorch_core.intake import Sorted, StreamIntake
from testorch_core.items import StreamSubmission

STEPS: st.SearchStrategy[Step] = st.one_of(
    st.builds(Send, st.integers(1, 5), st.just(0), st.booleans()),
    st.builds(Send, st.integers(1, 4), st.integers(-4, 3), st.booleans()),
    st.builds(Shuffle, st.lists(st.integers(-2, 4), min_size=1, max_size=5), st.booleans()),
    st.builds(Wait, st.sampled_from([0.0, 0.001, 0.01, 0.1, 3.0, 6.0, 12.0])),
    st.builds(Leave),
    st.builds(TakeOver),
    st.builds(StoreDown, st.sampled_from([0.02, 1.0, 7.0])),
    st.builds(Restart, st.booleans()),
)
SCHEDULES = st.builds(
    Schedule,
    st.lists(st.tuples(st.integers(0, 2), STEPS), max_size=25),
    st.lists(st.integers(1, 16), min_size=1, max_size=3),
    st.sampled_from([0.0, 0.01, 0.3]),
)
QUICKLY = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.slow(reason="plays forty schedules of disorder")
@QUICKLY
@given(schedule=SCHEDULES)
def test_through_any_disorder_every_stream_is_stored_once_in_order_and_receipted(schedule: Schedule):
    """P1: no ack leaves before its commit. P2: nothing is stored twice. P3: in order, and no gap is accepted."""
    assert violations_of(schedule) == []


@pytest.mark.usefixtures("long_faults")
@pytest.mark.slow(reason="plays three thousand schedules of disorder")
@settings(QUICKLY, max_examples=3_000)
@given(schedule=SCHEDULES)
def test_through_much_more_disorder_too(schedule: Schedule):
    """P1, P2 and P3."""
    assert violations_of(schedule) == []


# Servers that are broken on purpose.


def sort_forgetfully(self: StreamIntake, events: Sequence[Any]) -> Sorted:
    """Whatever comes is next: what came before is taken again."""
    self.expected = max(self.expected, events[-1]["seq"] + 1)
    return Sorted(events[0]["seq"], events)


def sort_over_gaps(self: StreamIntake, events: Sequence[Any]) -> Sorted:
    """What is beyond a gap is taken as if nothing were missing."""
    taken = [event for event in events if event["seq"] >= self.expected]
    first_seq = taken[0]["seq"] if taken else self.expected
    self.expected = max([self.expected, *(event["seq"] + 1 for event in taken)])
    return Sorted(first_seq, taken, duplicates=len(events) - len(taken))


def dedupe_off(patch: pytest.MonkeyPatch) -> None:
    real = StreamSubmission.apply

    def apply(self: StreamSubmission, transaction: Any) -> None:
        real(self, transaction)
        if self.skipped:
            draft = transaction.draft(self.project, self.run_id)
            self._take(transaction, draft, self.entries[: self.skipped])

    patch.setattr(StreamSubmission, "apply", apply)
    patch.setattr(StreamIntake, "sort", sort_forgetfully)


def gaps_accepted(patch: pytest.MonkeyPatch) -> None:
    real = StreamSubmission.apply

    def apply(self: StreamSubmission, transaction: Any) -> None:
        real(self, transaction)
        if self.stopped:
            self.stopped = False
            self._take(transaction, transaction.draft(self.project, self.run_id), self.entries)
            self.acked_seq = self.first_seq + len(self.entries) - 1

    patch.setattr(StreamSubmission, "apply", apply)
    patch.setattr(StreamIntake, "sort", sort_over_gaps)


def acknowledged_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    real = Committer._store_all

    async def store_all(self: Committer, items: Sequence[Any]) -> Any:
        self._build(items, {})  # it gives each item its answer
        for item in items:
            item.done.set()
        await trio.sleep(0.001)
        return await real(self, items)

    patch.setattr(Committer, "_store_all", store_all)


@pytest.mark.slow(reason="searches for a schedule that shows the defect")
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (dedupe_off, "comes twice"),
        (gaps_accepted, "not in order without a hole"),
        (acknowledged_before_the_commit, "is not committed"),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_a_broken_server_is_caught(broken: Any, words: str):
    """The laws bite: a schedule is found at which they don't hold."""

    def is_caught(schedule: Schedule) -> bool:
        return any(words in one for one in violations_of(schedule))

    quick = settings(max_examples=300, phases=[Phase.generate], database=None)
    with pytest.MonkeyPatch.context() as patch:
        broken(patch)
        find(SCHEDULES, is_caught, settings=quick)
