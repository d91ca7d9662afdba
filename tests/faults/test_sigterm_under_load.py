"""SIGTERM while four streams send as fast as they can: what was acknowledged is stored, and everybody is told to return."""

import signal
from pathlib import Path

import pytest
from faults.broken_variants import LATE, configured, with_broken_store
from faults.stream_clients import Crowd, RestartableServer, started, wait_until

pytestmark = pytest.mark.slow(reason="stops and starts servers under load")

RESTARTING = 1012

DRAIN_SECONDS = 3.0
SLACK_SECONDS = 3.0
ENDING_SECONDS = 8.0
"""For a server that doesn't drain: 1 s for the store, 3 s for the closing handshake of each connection, and slack."""

DRAIN = f"[server]\ndrain_seconds = {DRAIN_SECONDS}\nclose_seconds = 1.0"


def survive_stops(folder: Path, *arguments: str, stops: int) -> None:
    server = RestartableServer(folder, *(arguments or configured(folder, DRAIN)))
    crowd = Crowd(server.address)
    with started(server), crowd.at_work():
        for _ in range(stops):
            crowd.wait_for_load(more=100)
            server.terminate(within_seconds=DRAIN_SECONDS + SLACK_SECONDS)
            server.start()
        crowd.wait_for_load(more=50)
        crowd.finish()
        crowd.check_statuses(server.address)
        server.terminate(within_seconds=DRAIN_SECONDS)
    assert "Traceback" not in server.log
    codes = {one.name: [code for code, _ in one.endings] for one in crowd.workers}
    assert codes == {one.name: [RESTARTING] * stops for one in crowd.workers}
    crowd.check(server.database)


def test_streams_at_full_speed_are_told_to_come_back_and_lose_nothing(tmp_path: Path):
    """P1: acknowledged is durable. P8: it ends within its bound with 0, and the streams go on after the restart."""
    survive_stops(tmp_path, stops=1)


@pytest.mark.usefixtures("long_faults")
def test_ten_stops_in_a_row_lose_nothing(tmp_path: Path):
    """P1 and P8, ten times over."""
    survive_stops(tmp_path, stops=10)


def test_a_second_sigterm_ends_it_at_once_and_loses_nothing_that_was_acknowledged(tmp_path: Path):
    """P1: an impatient administrator costs nobody what was acknowledged."""
    server = RestartableServer(tmp_path, *configured(tmp_path, DRAIN))
    crowd = Crowd(server.address)
    with started(server), crowd.at_work():
        crowd.wait_for_load(more=100)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in server.log, "the first signal is noticed")
        server.terminate(within_seconds=ENDING_SECONDS)
        server.start()
        crowd.finish()
        server.terminate(within_seconds=DRAIN_SECONDS)
    assert "Traceback" not in server.log
    crowd.check(server.database)


def test_a_server_that_acknowledges_before_the_commit_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The harness bites."""
    arguments = with_broken_store(tmp_path, monkeypatch, LATE, "[server]\ndrain_seconds = 1.0")
    # It is caught in either of two ways: by the oracle, or since a client can't go on that has let go of what was lost.
    with pytest.raises(
        AssertionError, match=r"was acknowledged, and the server has only|more acknowledged and 64 in flight"
    ):
        survive_stops(tmp_path, *arguments, stops=5)
