"""`kill -9` in a loop, under load from four streams with 64 events in flight each: what was acknowledged is there, once."""

import random
from pathlib import Path

import pytest
from faults.broken_variants import FORGETFUL, LATE, with_broken_store
from faults.stream_clients import IN_FLIGHT, Crowd, RestartableServer, started

pytestmark = pytest.mark.slow(reason="kills and starts servers under load")


def survive_kills(folder: Path, *arguments: str, kills: int) -> None:
    """Kill the server so many times in the middle of its work, let the clients end, and ask the oracle."""
    server = RestartableServer(folder, *arguments)
    crowd, chance = Crowd(server.address), random.Random(kills)
    with started(server), crowd.at_work():
        for _ in range(kills):
            crowd.wait_for_load(more=chance.randrange(50, 200))
            server.kill()
            server.start()
        crowd.wait_for_load(more=50)
        crowd.finish()
        crowd.check_statuses(server.address)
        server.terminate(within_seconds=10)
    assert "Traceback" not in server.log
    cut = [unanswered for one in crowd.streams for _, unanswered in one.endings]
    assert len(cut) >= kills * len(crowd.streams)
    assert max(cut) == IN_FLIGHT
    crowd.check(server.database)


def test_after_every_kill_9_what_was_acknowledged_is_stored_once_and_the_streams_go_on(tmp_path: Path):
    """P1: acknowledged is durable. P2: exactly-once effect. P3: order. P8: the server starts again by itself."""
    survive_kills(tmp_path, kills=5)


@pytest.mark.usefixtures("long_faults")
def test_after_twenty_kills_nothing_is_lost_and_nothing_is_stored_twice(tmp_path: Path):
    """P1, P2, P3 and P8, twenty times over."""
    survive_kills(tmp_path, kills=20)


def test_a_server_that_acknowledges_before_the_commit_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The harness bites."""
    arguments = with_broken_store(tmp_path, monkeypatch, LATE)
    with pytest.raises(AssertionError, match="was acknowledged, and the server has only"):
        survive_kills(tmp_path, *arguments, kills=5)


def test_a_server_that_stores_what_comes_again_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The harness bites."""
    arguments = with_broken_store(tmp_path, monkeypatch, FORGETFUL)
    with pytest.raises(AssertionError, match="comes twice"):
        survive_kills(tmp_path, *arguments, kills=2)
