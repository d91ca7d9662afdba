"""A flood from one principal beside ten light clients: the limiter slows it down, and the light ones hardly notice it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.broken_variants import configured, install_plugins
from faults.flood_agent import Agent, Order
from faults.flood_lab import (
    BY_NAME,
    Measured,
    check_log,
    ledger_of,
    light_clients,
    measure,
    tables,
)  # fmt: skip
from faults.stream_clients import RestartableServer, started, wait_until

pytestmark = pytest.mark.slow(reason="floods a server for some seconds")

RATE = 2_000
LIMITS = f"events_per_second = {RATE}\nmax_delay_seconds = 0.1"
"""So short a delay that four connections with 0.05 s each are also refused."""

SLACK = 1.25
"""By how much more than the rate may be acknowledged in a few seconds: what had passed before, and was still in the queue."""

LESS = 0.5
"""How much of the wait without a limiter may be left with it. On any machine that we have seen it is less than a fifth."""


@pytest.fixture(scope="module", autouse=True)
def _principals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install_plugins(tmp_path_factory.mktemp("plugins"), patch, BY_NAME, {"security": {"by_name": "ByName"}})
        yield


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """The same flood on a server without a limiter."""
    return measure(tmp_path_factory.mktemp("unlimited"), None, seconds=2.0, settle_seconds=1.0)


def check(limited: Measured, unlimited: Measured, *, rate: int) -> None:
    """What the limiter is for. All of it holds on a slow machine, too."""
    print(f"\nwithout: {unlimited}\nwith:    {limited}")
    assert limited.has_progressed, "the flooder stands still"
    assert limited.flooder_events_per_second < rate * SLACK, "the flooder is not slowed down"
    assert limited.flooded.p50 < unlimited.flooded.p50 * LESS, "the light clients wait as long as without"
    assert limited.flooded.p99 < unlimited.flooded.p99, "some of them wait as long as without"


def test_a_flood_is_slowed_down_and_light_clients_hardly_wait(tmp_path: Path, unlimited: Measured):
    """P1 and P3 of everybody, and P5."""
    limited = measure(tmp_path, LIMITS, seconds=2.0, settle_seconds=2.0)
    check(limited, unlimited, rate=RATE)
    assert limited.refusals, "the flooder was not told"


def test_a_server_without_a_limiter_is_caught(unlimited: Measured):
    """The harness bites."""
    with pytest.raises(AssertionError, match="the flooder is not slowed down"):
        check(unlimited, unlimited, rate=RATE)
    assert not unlimited.refusals


def test_who_goes_on_sending_while_refused_is_closed(tmp_path: Path):
    """The third stage; and what it had acknowledged is stored all the same."""
    limits = "events_per_second = 100\nmax_delay_seconds = 0\nmax_early_messages = 20"
    server = RestartableServer(tmp_path, *configured(tmp_path, tables(limits)))
    order = Order(address=server.address, principal="flooder", connections=2, events_each=100, heeds=False)
    with started(server), light_clients(server.address) as light, Agent(order) as agent:
        wait_until(lambda: all(one.closed == 4429 for one in agent.ask()), "both connections are closed")
        last = agent.ask()
    assert all(one.refusals >= 20 for one in last)
    check_log(server, [*(one.ledger for one in light), *map(ledger_of, last)])


@pytest.mark.usefixtures("long_faults")
@pytest.mark.parametrize("events_each", [1, 100, 1_000])
def test_a_long_flood_at_the_default_limits(events_each: int, tmp_path: Path):
    """As fast as it can, half a minute."""
    (tmp_path / "unlimited").mkdir()
    without = measure(tmp_path / "unlimited", None, seconds=15.0, events_each=events_each)
    limits = "" if events_each > 1 else f"events_per_second = {RATE}"
    rate = 20_000 if events_each > 1 else RATE
    check(measure(tmp_path, limits, seconds=30.0, events_each=events_each), without, rate=rate)
