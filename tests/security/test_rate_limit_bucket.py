"""GCRA as laws: what holds of every series of messages, whatever their sizes and times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from testorch_plugins.security.rate_limit.bucket import Bucket, Limits, Rate
from testorch_plugins.security.rate_limit.table import FEW, SWEEP_SECONDS, Buckets

ROUNDING = 1e-6
"""Seconds that sums of floats may be off by."""

RATES = st.builds(Rate, st.floats(0.1, 10_000), st.floats(1, 1_000))
MESSAGES = st.lists(st.tuples(st.floats(0, 2), st.integers(1, 2_000)), max_size=60)
"""Pauses before each in seconds, and sizes."""


@dataclass(frozen=True)
class Passed:
    """When a message passed, in seconds, and its size."""

    at: float
    size: int


def passed(rate: Rate, messages: Iterable[tuple[float, int]], *, patience: float) -> list[Passed]:
    """What passes of several connections of one client, each of which waits as it is told; others don't come again."""
    limits, bucket, now = Limits("test", rate, None), Bucket(0.0), 0.0
    found = []
    for pause, size in messages:
        now += pause
        if bucket.take(limits, now, size, 0):
            found.append(Passed(now, size))
            continue
        wait = bucket.wait(limits, now, size, 0)
        if wait <= patience:
            bucket.charge(limits, now, size, 0)
            found.append(Passed(now + max(0.0, wait), size))
    return found


def worst_excess(rate: Rate, messages: Sequence[Passed]) -> float:
    """By how many cells the worst of all windows is beyond what may pass in it."""
    ordered = sorted(messages, key=lambda one: one.at)
    excess = 0.0
    for first in range(len(ordered)):
        sum_of = largest = 0
        for one in ordered[first:]:
            sum_of += one.size
            largest = max(largest, one.size)
            window = one.at - ordered[first].at + ROUNDING
            excess = max(excess, sum_of - rate.per_second * window - max(rate.burst, largest))
    return excess


@given(RATES, MESSAGES, st.floats(0, 3))
def test_no_window_holds_more_than_its_rate_and_the_burst(
    rate: Rate, messages: list[tuple[float, int]], patience: float
):
    """The burst, or one message where a single one is larger."""
    assert worst_excess(rate, passed(rate, messages, patience=patience)) <= 1e-6 * rate.per_second + 1e-6


@given(RATES, st.lists(st.integers(1, 1_000), max_size=60), st.floats(1, 2))
def test_who_keeps_to_the_rate_never_waits(rate: Rate, sizes: list[int], slack: float):
    limits, bucket, now = Limits("test", rate, None), Bucket(0.0), 0.0
    for size in (one for one in sizes if one <= rate.burst):
        assert bucket.wait(limits, now, size, 0) < ROUNDING
        bucket.charge(limits, now, size, 0)
        now += slack * size / rate.per_second + ROUNDING


@given(RATES, MESSAGES, st.floats(0, 100), st.integers(1, 2_000), st.integers(0, 100), st.floats(0, 10))
def test_waits_grow_with_size_and_shrink_with_time(
    rate: Rate, messages: list[tuple[float, int]], later: float, size: int, more: int, pause: float
):
    limits, bucket, now = Limits("test", rate, Rate(1000, 1000)), Bucket(0.0), 0.0
    for before, one in messages:
        now += before
        bucket.charge(limits, now, one, one)
    wait = bucket.wait(limits, now + pause, size, size)
    assert bucket.wait(limits, now + pause, size + more, size) >= wait
    assert bucket.wait(limits, now + pause, size, size + more) >= wait
    assert bucket.wait(limits, now + pause + later, size, size) <= wait
    assert bucket.wait(limits, now + pause + max(0.0, wait) + ROUNDING, size, size) <= 0, "after its wait it conforms"


@given(RATES, st.integers(1, 10_000), MESSAGES)
def test_a_message_that_is_larger_than_the_burst_passes_a_full_bucket_and_is_paid_in_full(
    rate: Rate, size: int, messages: list[tuple[float, int]]
):
    limits, bucket = Limits("test", rate, None), Bucket(0.0)
    bucket.charge(limits, 0.0, sum(one for _, one in messages), 0)
    now = bucket.events_tat
    assert bucket.wait(limits, now, size, 0) <= 0
    bucket.charge(limits, now, size, 0)
    assert abs(bucket.events_tat - now - size / rate.per_second) < ROUNDING


@given(RATES, MESSAGES)
def test_what_is_given_back_was_never_taken(rate: Rate, messages: list[tuple[float, int]]):
    limits, bucket, other, now = Limits("test", rate, None), Bucket(0.0), Bucket(0.0), 0.0
    for pause, size in messages:
        now += pause
        if size % 3 == 0:
            if other.take(limits, now, size, 0):
                other.give_back(limits, size, 0)
        else:
            bucket.charge(limits, now, size, 0)
            other.charge(limits, now, size, 0)
        assert abs(bucket.wait(limits, now, 1, 0) - other.wait(limits, now, 1, 0)) < ROUNDING


def test_where_nothing_is_limited_everything_passes():
    limits, bucket = Limits("test", None, None), Bucket(0.0)
    assert not limits
    assert all(bucket.take(limits, 0.0, 10**9, 10**12) for _ in range(10))
    assert bucket.is_idle(0.0)


def test_events_and_bytes_are_limited_each_for_itself():
    limits, bucket = Limits("test", Rate(10, 10), Rate(1000, 1000)), Bucket(0.0)
    assert bucket.take(limits, 0.0, 1, 1000)
    assert not bucket.take(limits, 0.0, 1, 1)
    assert bucket.wait(limits, 0.0, 1, 500) == 0.5
    assert bucket.take(limits, 0.0, 9, 0)
    assert bucket.wait(limits, 0.0, 5, 0) == 0.5


# What is remembered.


def spend(buckets: Buckets, key: object, now: float, limits: Limits, events: int) -> Bucket:
    bucket = buckets.get(key) or buckets.new(key, now)
    bucket.charge(limits, now, events, 0)
    return bucket


def test_a_limited_client_is_not_forgotten_however_many_others_come():
    limits, buckets = Limits("test", Rate(1, 10), None), Buckets(100)
    limited = spend(buckets, "limited", 0.0, limits, 1_000)
    for number in range(100_000):
        spend(buckets, f"other {number}", number / 1_000, limits, 1)
    assert buckets.get("limited") is limited
    assert len(buckets) == 100


def test_those_for_whom_there_is_no_room_share_a_bucket_until_there_is():
    limits, buckets = Limits("test", Rate(1, 10), None), Buckets(2)
    for key in ("a", "b"):
        spend(buckets, key, 0.0, limits, 5)
    shared = spend(buckets, "c", 1.0, limits, 5)
    assert spend(buckets, "d", 1.0, limits, 5) is shared
    assert not shared.take(limits, 1.0, 1, 0), "together they are beyond the burst"
    own = spend(buckets, "c", 5.0 + SWEEP_SECONDS, limits, 5)
    assert own is not shared


def test_idle_clients_are_forgotten_as_others_come():
    limits, buckets = Limits("test", Rate(1, 10), None), Buckets(1_000_000)
    for number in range(100_000):
        spend(buckets, number, number / 10, limits, 1)
    assert len(buckets) <= FEW
