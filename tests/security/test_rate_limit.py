"""The rate limit policy: its contract, whom it counts by, and its options."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest

from testorch_core.interfaces.security import ALLOW, ANONYMOUS, AccessRequest, Admission, Delay, Principal, Refuse
from testorch_core.interfaces.transport import Handshake
from testorch_core.options import OptionsError
from testorch_core.testing import SecurityPolicyContract
from testorch_plugins.security.rate_limit.options import RateLimitOptions
from testorch_plugins.security.rate_limit.plugin import RateLimit, network_of

STRICT = RateLimitOptions(
    events_per_second=1.0, bytes_per_second=1.0, address_events_per_second=1.0, connection_events_per_second=1.0,
    max_early_messages=5, max_remembered=3,
)  # fmt: skip


@pytest.mark.parametrize("options", [RateLimitOptions(), STRICT], ids=["default", "strict"])
class TestRateLimit(SecurityPolicyContract):
    @pytest.fixture(autouse=True)
    def _setting(self, options: RateLimitOptions):
        self.options = options

    def make_plugin(self):
        return RateLimit("limit", self.options)


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def policy(clock: Clock | None = None, **options: Any) -> RateLimit:
    off = dict.fromkeys(
        ("bytes_per_second", "address_events_per_second", "address_bytes_per_second", "connection_events_per_second",
         "connection_bytes_per_second"), 0.0
    )  # fmt: skip
    return RateLimit("limit", RateLimitOptions(**(off | options)), clock=clock or Clock())


def admit(
    one: RateLimit,
    principal: Principal = ANONYMOUS,
    *,
    address: str = "10.0.0.1",
    connection: str = "c",
    events: int = 0,
    size_bytes: int = 0,
    action: str = "events",
) -> Admission:
    handshake = Handshake(address=address, transport="fake")
    return one.admit(
        AccessRequest(
            principal=principal, handshake=handshake, action=action, project="p", events=events, size_bytes=size_bytes,
            connection=connection,
        )
    )  # fmt: skip


CI = Principal(name="ci", issuer="tokens")


def test_a_principal_is_counted_wherever_it_connects_from():
    one = policy(events_per_second=10.0, events_burst=10)
    assert admit(one, CI, events=10) is ALLOW
    assert admit(one, CI, events=10, address="10.0.0.2", connection="d") == Delay(1.0)


def test_anonymous_clients_are_counted_by_their_addresses():
    one = policy(events_per_second=10.0, events_burst=10)
    assert admit(one, events=10) is ALLOW
    assert admit(one, events=10, address="10.0.0.2") is ALLOW
    assert admit(one, events=10, connection="d") == Delay(1.0)


def test_principals_of_the_same_name_and_of_different_issuers_are_two_and_neither_is_an_address():
    one = policy(events_per_second=10.0, events_burst=10)
    for principal in (CI, Principal(name="ci", issuer="oidc"), Principal(name="10.0.0.1"), ANONYMOUS):
        assert admit(one, principal, events=10) is ALLOW


def test_requests_count_as_one_event_and_their_bytes():
    one = policy(events_per_second=1.0, events_burst=3, max_delay_seconds=0.0)
    assert [admit(one, action="getRuns") for _ in range(3)] == [ALLOW] * 3
    assert isinstance(admit(one, action="getRuns"), Refuse)
    one = policy(events_per_second=0.0, bytes_per_second=100.0, bytes_burst=100)
    assert admit(one, action="getRuns", size_bytes=100) is ALLOW
    assert admit(one, action="getRuns", size_bytes=50) == Delay(0.5)


def test_without_a_burst_two_seconds_of_the_rate_pass_at_once():
    clock = Clock()
    one = policy(clock, events_per_second=10.0)
    assert admit(one, events=20) is ALLOW
    assert admit(one, events=1) == Delay(pytest.approx(0.1))
    clock.now += 10
    assert admit(one, events=20) is ALLOW


def test_a_rate_of_zero_is_no_limit_and_a_very_low_one_lets_one_event_pass():
    one = policy(events_per_second=0.0)
    assert all(admit(one, events=10_000, size_bytes=10**8) is ALLOW for _ in range(100))
    assert admit(policy(events_per_second=0.01), events=1) is ALLOW


def test_the_defaults_leave_a_healthy_fleet_alone():
    """Two hundred runners of one principal, behind one address, that each send 20 events of 1 KB, five times a second."""
    clock = Clock()
    one = RateLimit("limit", RateLimitOptions(), clock=clock)
    for _ in range(50):
        for runner in range(200):
            clock.now += 0.2 / 200
            assert admit(one, CI, connection=f"c{runner}", events=20, size_bytes=20_000) is ALLOW


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("the host's own", "the host's own"),
        ("", ""),
        ("x" * 1_000, "x" * 200),
    ],
)
def test_an_address_is_counted_by_its_network(address: str, counted: str):
    assert network_of(address) == counted


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("events_per_second", -1), ("events_per_second", "many"), ("events_per_second", True), ("events_burst", 0),
        ("bytes_burst", 1.5), ("max_delay_seconds", 61), ("max_delay_seconds", -0.1), ("max_early_messages", 0),
        ("max_remembered", 0), ("events_per_secnd", 1),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(name: str, value: Any, tmp_path: Path):
    with pytest.raises(OptionsError, match=name):
        RateLimitOptions.load({name: value}, folder=tmp_path)


def test_the_sample_is_sound_and_the_readme_names_every_option(tmp_path: Path):
    folder = Path(inspect.getfile(RateLimit)).parent
    sample = tomllib.loads((folder / "sample.toml").read_text("utf-8"))["security"]["limit"]
    assert sample.pop("use") == "rate_limit"
    assert RateLimitOptions.load(sample, folder=tmp_path) == RateLimitOptions(), "it shows the defaults"
    told = (folder / "README.md").read_text("utf-8")
    assert [spec.name for spec in RateLimitOptions.specs() if f"`{spec.name}`" not in told] == []
