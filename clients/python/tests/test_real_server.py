"""The client against `testorch serve` in a process of its own, which is stopped, killed and robbed of its database."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testorch_client import Client, Delivery

pytest.importorskip("testorch_core", reason="the server is a distribution of its own")
pytestmark = pytest.mark.slow(reason="servers in processes of their own")


class RealServer:
    """A server that can be started again at its address, with what it had stored."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "testorch.db"
        self.url = ""
        self._port = "0"

    def start(self) -> None:
        command = [sys.executable, "-m", "testorch_core.cli", "serve", "--db", str(self.database), "--port", self._port]
        self._process = subprocess.Popen(
            command, cwd=self.database.parent, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        self.url = next(word.rstrip(",") for word in line.split() if word.startswith("ws://"))
        self._port = self.url.rpartition(":")[2].strip("/")

    def end(self, signal_number: int) -> None:
        self._process.send_signal(signal_number)
        self._process.wait(20)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def lose_database(self) -> None:
        for path in self.database.parent.glob("testorch.db*"):
            path.unlink()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealServer]:
    server = RealServer(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)


def wait_for(condition: Callable[[], object]) -> None:
    """Look every few milliseconds: the other side is another process."""
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("waited in vain")


def acknowledged(client: Client) -> int:
    assert client._ledger is not None
    return client._ledger.stream.window.acked_seq


def start(server: RealServer) -> Client:
    client = Client(server.url, random=lambda: 0.1)
    client.start_run(name="real")
    return client


def emit_tests(client: Client, first: int, count: int) -> None:
    for number in range(first, first + count):
        client.emit("test/start", {"testId": f"t{number}"})
        client.emit("test/end", {"testId": f"t{number}", "status": "passed"})


def end(client: Client) -> Delivery:
    client.end_run()
    return client.close()


def assert_proved(delivery: Delivery, *, tests: int) -> None:
    assert delivery.is_complete, delivery
    assert delivery.receipt is not None
    assert delivery.receipt.accepted == tests * 2
    assert delivery.status is not None
    assert (delivery.status["status"], delivery.status["complete"]) == ("passed", True)
    assert delivery.status["counts"]["total"] == delivery.status["counts"]["passed"] == tests


def test_all_arrives_and_the_receipt_matches(real: RealServer) -> None:
    client = start(real)
    emit_tests(client, 0, 1_500)
    assert_proved(end(client), tests=1_500)


def test_a_refused_event_is_in_the_receipt(real: RealServer) -> None:
    client = start(real)
    emit_tests(client, 0, 2)
    client.emit("test/end", {"status": "passed"})
    emit_tests(client, 2, 2)
    delivery = end(client)
    assert (delivery.confirmed, delivery.refused_by_code) == (8, {"invalid_event": 1})
    assert delivery.receipt is not None
    assert (delivery.receipt.accepted, delivery.receipt.refused) == (8, 1)
    assert delivery.receipt_matches


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_server_that_comes_back_is_given_the_rest(real: RealServer, how: int) -> None:
    client = start(real)
    emit_tests(client, 0, 500)
    wait_for(lambda: acknowledged(client) >= 200)
    emit_tests(client, 500, 1_000)
    real.end(how)
    emit_tests(client, 1_500, 500)
    real.start()
    assert_proved(end(client), tests=2_000)


def test_a_server_killed_again_and_again_while_the_suite_runs_has_everything_once(real: RealServer) -> None:
    client = start(real)
    for turn in range(4):
        emit_tests(client, turn * 300, 300)
        wait_for(lambda: acknowledged(client) > turn * 600)  # noqa: B023  # called at once
        real.end(signal.SIGKILL)
        real.start()
    assert_proved(end(client), tests=1_200)


def test_a_server_without_its_database_is_not_taken_for_the_same(real: RealServer) -> None:
    client = start(real)
    emit_tests(client, 0, 2)
    wait_for(lambda: acknowledged(client) == 4)
    real.end(signal.SIGKILL)
    real.lose_database()
    emit_tests(client, 2, 2)
    real.start()
    delivery = end(client)
    assert delivery.error == (
        f"{real.url.rstrip('/')}: the server has lost its database: it has 0 events of this stream, "
        "and 4 that it had acknowledged can't be sent again"
    )
    assert not delivery.is_complete


def test_a_part_that_is_not_ended_is_confirmed_without_a_receipt(real: RealServer) -> None:
    client = start(real)
    emit_tests(client, 0, 5)
    delivery = client.close()
    assert (delivery.confirmed, delivery.receipt) == (10, None)
    assert delivery.is_complete


def test_an_event_larger_than_the_server_takes_uses_no_place_in_the_stream(real: RealServer) -> None:
    client = start(real)
    emit_tests(client, 0, 1)
    client.emit("test/output", {"testId": "t0", "text": "x" * 5_000_000})
    emit_tests(client, 1, 1)
    delivery = end(client)
    assert (delivery.confirmed, delivery.refused_by_code) == (4, {"too_large": 1})
    assert delivery.receipt_matches
