"""The three stages, over the levels: who is slowed down, who is refused, who is closed, and that nobody starves."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testorch_core.interfaces.security import ALLOW, Admission, Close, Delay, Refuse
from testorch_plugins.security.rate_limit.bucket import Limits, Rate
from testorch_plugins.security.rate_limit.limiter import SHORTEST_DELAY_SECONDS, Limiter


def limiter(
    principal: Rate | None = None,
    address: Rate | None = None,
    connection: Rate | None = None,
    *,
    max_delay_seconds: float = 1.0,
    max_early: int = 1000,
    most: int = 1000,
) -> Limiter:
    levels = (
        Limits("principal", principal, None),
        Limits("address", address, None),
        Limits("connection", connection, None),
    )
    return Limiter(levels, max_delay_seconds=max_delay_seconds, max_early=max_early, most=most)


def ask(one: Limiter, connection: str, now: float, events: int, principal: str = "p", address: str = "a") -> Admission:
    return one.ask((principal, address, connection), now, events, 100)


def test_a_client_is_let_in_then_slowed_down_then_refused():
    one = limiter(Rate(100, 200))
    assert ask(one, "c", 0.0, 200) is ALLOW
    assert ask(one, "c", 0.0, 50) == Delay(0.5)
    assert ask(one, "c", 0.0, 50) == Delay(1.0)
    refused = ask(one, "c", 0.0, 10)
    assert isinstance(refused, Refuse)
    assert (refused.code, refused.retry_after_ms) == ("rate_limited", 1100)
    assert refused.reason == (
        "more than one principal may send (100 events a second and 200 at once); send again after `retryAfterMs`"
    )
    assert ask(one, "c", 1.1, 10) is ALLOW, "what was refused has cost nothing, and the wait was enough"


def test_a_delay_is_not_too_short_to_be_worth_it_and_leaves_room_for_the_next_messages():
    one = limiter(Rate(10_000, 100))
    assert ask(one, "c", 0.0, 100) is ALLOW
    assert ask(one, "c", 0.0, 1) == Delay(SHORTEST_DELAY_SECONDS)
    assert all(ask(one, "c", SHORTEST_DELAY_SECONDS, 1) is ALLOW for _ in range(98))


def test_the_level_with_the_least_room_decides_and_is_named():
    one = limiter(Rate(1000, 1000), Rate(100, 100), Rate(10, 10), max_delay_seconds=0)
    assert ask(one, "c", 0.0, 10) is ALLOW
    assert "one connection may send (10 events" in str(ask(one, "c", 0.0, 100))
    assert ask(one, "d", 0.0, 90) is ALLOW, (
        "what was refused was charged at no level; what is larger than a burst passes once"
    )
    assert "one address may send (100 events" in str(ask(one, "e", 0.0, 10))
    assert ask(one, "f", 0.0, 10, address="b") is ALLOW


def test_what_one_level_refuses_is_given_back_at_the_others():
    one = limiter(Rate(100, 100), None, Rate(10, 10), max_delay_seconds=0)
    assert ask(one, "c", 0.0, 10) is ALLOW
    for _ in range(50):
        assert isinstance(ask(one, "c", 0.0, 20), Refuse)
    assert ask(one, "d", 0.0, 10) is ALLOW
    assert ask(one, "e", 0.0, 10) is ALLOW


def test_reconnecting_resets_neither_the_principal_nor_the_address():
    one = limiter(Rate(100, 100), Rate(200, 200))
    assert ask(one, "first", 0.0, 200) is ALLOW
    assert isinstance(ask(one, "second", 0.0, 10), Refuse | Delay)
    assert isinstance(ask(one, "third", 0.0, 150, principal="q"), Refuse | Delay), "the address is known, too"
    assert ask(one, "fourth", 0.0, 10, principal="r", address="b") is ALLOW


def test_a_batch_that_is_larger_than_the_burst_passes_at_last_and_again():
    one = limiter(Rate(1_000, 5_000))
    now, passes = 0.0, []
    while now < 100:
        said = ask(one, "c", now, 10_000)
        if isinstance(said, Refuse):
            now += (said.retry_after_ms or 0) / 1000
            continue
        now += said.seconds if isinstance(said, Delay) else 0.0
        passes.append(now)
    assert passes == [10.0 * number for number in range(10)], "at the rate"


def test_who_hammers_while_refused_is_closed_and_who_waits_is_not():
    one = limiter(Rate(10, 10), max_early=100)
    assert ask(one, "c", 0.0, 1_000) is ALLOW
    said = [ask(one, "c", 0.001 * number, 10) for number in range(200)]
    first = [isinstance(each, Close) for each in said].index(True)
    assert 101 <= first <= 103, "one to be told, a hundred too early, and what is forgiven meanwhile"
    assert said[first] == Close(4429, "too many messages were sent before `retryAfterMs` was over")
    assert isinstance(ask(one, "d", 0.1, 10), Refuse), (
        "another connection of the same principal is refused and not closed"
    )
    now = 0.2
    for _ in range(1_000):
        waiting = ask(one, "e", now, 10)
        assert not isinstance(waiting, Close)
        now += (waiting.retry_after_ms or 0) / 1000 if isinstance(waiting, Refuse) else 1.0


def test_early_messages_are_forgiven_with_time():
    one = limiter(Rate(0.001, 1), max_early=100)
    assert ask(one, "c", 0.0, 1) is ALLOW
    assert not any(isinstance(ask(one, "c", 0.2 * number, 1), Close) for number in range(5_000)), "five a second of ten"


def test_an_unknown_connection_is_limited_by_what_is_known_and_never_closed():
    one = limiter(Rate(10, 10), None, Rate(1, 1), max_early=1)
    assert one.ask(("p", "a", None), 0.0, 10, 0) is ALLOW
    assert all(isinstance(one.ask(("p", "a", None), 0.0, 100, 0), Delay | Refuse) for _ in range(100))
    assert isinstance(one.ask(("p", "a", None), 0.0, 100, 0), Refuse)


def test_what_is_remembered_is_bounded_whatever_comes():
    one = limiter(Rate(1, 1), Rate(1, 1), Rate(1, 1), most=50)
    for number in range(20_000):
        ask(one, f"c{number}", number / 10_000, 5, principal=f"p{number}", address=f"a{number}")
        ask(one, f"c{number}", number / 10_000, 500, principal=f"p{number}", address=f"a{number}")
    assert one.sizes() == {"principal": 50, "address": 50, "connection": 50, "refused": 50}


class Client:
    """A connection that sends messages of one size as fast as it may, and waits as it is told."""

    def __init__(self, name: str, events: int) -> None:
        self.name = name
        self.events = events


def compete(one: Limiter, clients: list[Client], seconds: float) -> Counter[str]:
    """How many events of each pass in a time. Those of one principal, at one address; each turn takes one to three ms."""
    passed: Counter[str] = Counter()
    chance = random.Random(5)
    due = [(chance.uniform(0, 0.01), number) for number in range(len(clients))]
    heapq.heapify(due)
    while due[0][0] < seconds:
        now, number = heapq.heappop(due)
        client = clients[number]
        said = ask(one, client.name, now, client.events)
        assert not isinstance(said, Close)
        if isinstance(said, Refuse):
            wait = (said.retry_after_ms or 0) / 1000
        else:
            wait = said.seconds if isinstance(said, Delay) else 0.0
            passed[client.name] += client.events
        heapq.heappush(due, (now + wait + chance.uniform(0.001, 0.003), number))
    return passed


def test_connections_that_do_the_same_get_about_the_same():
    passed = compete(limiter(Rate(1_000, 2_000)), [Client(f"c{number}", 10) for number in range(10)], 60)
    assert passed.total() <= 1_000 * 60 + 2_000 + 1_000
    assert passed.total() >= 0.95 * 1_000 * 60
    assert min(passed.values()) > 0.8 * max(passed.values())


def test_connections_that_are_refused_get_about_the_same_too():
    passed = compete(limiter(Rate(1_000, 2_000)), [Client(f"c{number}", 400) for number in range(10)], 120)
    assert passed.total() >= 0.95 * 1_000 * 120
    assert min(passed.values()) > 0.3 * max(passed.values())


@pytest.mark.parametrize("batch", [100, 1_000])
def test_batches_are_not_starved_by_many_small_messages(batch: int):
    """Three hundred connections that send an event at a time keep the bucket as empty as it may be."""
    small = [Client(f"s{number}", 1) for number in range(300)]
    passed = compete(limiter(Rate(100, 200)), [*small, Client("large", batch)], 60)
    assert passed["large"] >= batch * 2
    assert sum(passed[client.name] for client in small) > 1_000, "and nobody else is"


def test_without_its_turn_a_batch_would_starve(monkeypatch: pytest.MonkeyPatch):
    """The test above bites."""
    monkeypatch.setattr(Limiter, "_is_turn", lambda *_: False)
    small = [Client(f"s{number}", 1) for number in range(300)]
    assert compete(limiter(Rate(100, 200)), [*small, Client("large", 100)], 60)["large"] <= 200


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1), st.integers(1, 500)), max_size=80),
    st.floats(0, 2),
    st.booleans(),
)
def test_no_window_holds_more_than_its_rate_the_burst_and_one_message(
    messages: list[tuple[int, float, int]], max_delay_seconds: float, waits: bool
):
    """Whatever four connections of one principal send, and whether they wait as told or not."""
    rate, now = Rate(100, 200), 0.0
    one = limiter(rate, max_delay_seconds=max_delay_seconds)
    free = [0.0] * 4
    passed: list[tuple[float, int]] = []
    for number, pause, events in messages:
        now = max(now + pause, free[number])
        said = ask(one, f"c{number}", now, events)
        if isinstance(said, Refuse):
            free[number] = now + (said.retry_after_ms or 0) / 1000 if waits else now
        else:
            free[number] = now + (said.seconds if isinstance(said, Delay) else 0.0)
            passed.append((free[number], events))
    passed.sort()
    for first in range(len(passed)):
        window = passed[first:]
        for last in range(len(window)):
            room = 100 * (window[last][0] - window[0][0]) + 200 + max(events for _, events in window[: last + 1])
            assert sum(events for _, events in window[: last + 1]) <= room + 0.01
