"""A pytest that is killed in the middle of a test, and a machine that vanishes in it: exactly that test is interrupted.

These measure time as a user does, on the clock of the wall: they poll, each with the bound that is promised.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from faults.broken_variants import configured
from faults.stream_clients import RestartableServer, Wire, free_port, started, wait_until

pytestmark = pytest.mark.slow(reason="waits for silence and grace as users do, beside real pytest processes")

SUITE = """
import time

def test_before():
    pass

def test_fails():
    assert 1 == 2

def test_under_way():
    print("so far", flush=True)
    time.sleep(600)

def test_after():
    pass
"""

LOST_SECONDS, INTERRUPTED_SECONDS, VANISHED_SECONDS = 1.0, 7.0, 13.0
"""What is promised with the default times."""


@dataclass(frozen=True)
class Times:
    """How patient a server is, and how long a vanished machine may then take to be shown as interrupted."""

    heartbeat_seconds: float = 2.0
    silence_seconds: float = 5.0
    lost_grace_seconds: float = 5.0
    bound_seconds: float = VANISHED_SECONDS

    def arguments(self, folder: Path) -> list[str]:
        words = ("heartbeat_seconds", "silence_seconds", "lost_grace_seconds")
        return configured(folder, "[server]\n" + "".join(f"{word} = {getattr(self, word)}\n" for word in words))


QUICK = Times(0.2, 0.8, 0.4, bound_seconds=3.5)


@contextmanager
def suite_under_way(folder: Path, address: str, database: Path, prefix: Sequence[str] = ()) -> Iterator[int]:
    """Pytest in a process of its own, in the middle of a test; yields the process to kill."""
    (folder / "suite").mkdir()
    (folder / "suite" / "test_suite.py").write_text(SUITE)
    command = [*prefix, sys.executable, "-B", "-m", "pytest", "suite", "--rootdir", "suite", "-p", "no:cacheprovider",
               "-p", "no:randomly", "--testorch", address, "--testorch-run-id", "r"]  # fmt: skip
    with (folder / "pytest.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    try:
        wait_until(lambda: _running(database) == ["test_under_way"], "pytest is in the middle of its test")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def status_in(database: Path) -> dict[str, Any]:
    """The run's status as the server has stored it: what `getRunStatus` answers, seen from any network."""
    with suppress(sqlite3.OperationalError):  # not made yet
        connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
        try:
            for (document,) in connection.execute("SELECT document FROM runs WHERE run_id = 'r'"):
                return dict(json.loads(document))
        finally:
            connection.close()
    return {}


def _running(database: Path) -> list[str]:
    return [one["testName"] for one in status_in(database).get("running", [])]


def interrupted(status: dict[str, Any]) -> bool:
    return bool(status) and status["counts"]["interrupted"] > 0


def check_status(status: dict[str, Any]) -> None:
    counts = {name: count for name, count in status["counts"].items() if count}
    assert counts == {"total": 4, "passed": 1, "failed": 1, "interrupted": 1, "queued": 1}
    assert (status["status"], status["complete"]) == ("interrupted", False)


def check_verdict(server: RestartableServer) -> None:
    """Exactly the test that was under way is interrupted, the others are as they were, and the run is not whole."""
    watcher = Wire(server.address)
    status = watcher.ask("getRunStatus", {"runId": "r"})
    results = watcher.ask("getResults", {"runId": "r"})["results"]
    watcher.close()
    verdicts = {one["testId"].rpartition("::")[2]: one["status"] for one in results}
    assert verdicts == {"test_before": "passed", "test_fails": "failed", "test_under_way": "interrupted"}
    check_status(status)
    assert [one["state"] for one in status["participants"]] == ["gone"]


def test_a_killed_pytest_is_lost_within_a_second_and_its_test_interrupted_within_seven(tmp_path: Path):
    """P5 and P6 as the events have them: what is shown of a dead client is the truth, and only of that client."""
    server = RestartableServer(tmp_path)
    with started(server):
        subscriber = Wire(server.address)
        subscriber.ask("subscribe", {"types": ["stream/lost", "run/leave"]})
        with suite_under_way(tmp_path, server.address, server.database) as victim:
            asked = Wire(server.address)
            wait_until(lambda: _last_outputs(asked, "running") == ["so far\n"], "what it has printed is shown")
            killed_at = time.monotonic()
            os.kill(victim, 9)
            [lost] = _next_events(subscriber)
            assert time.monotonic() - killed_at < LOST_SECONDS
            assert (lost["type"], lost["runId"]) == ("stream/lost", "r")
            [participant] = asked.ask("getRunStatus", {"runId": "r"})["participants"]
            assert participant["state"] == "lost"
            left = killed_at + INTERRUPTED_SECONDS - time.monotonic()
            wait_until(lambda: interrupted(asked.ask("getRunStatus", {"runId": "r"})), "it is interrupted", left)
            assert time.monotonic() - killed_at > 4, "not before the grace of 5 s is over"
            assert [one["type"] for one in _next_events(subscriber)] == ["run/leave"]
            assert _last_outputs(asked, "interrupted") == ["so far\n"], "its last words are there"
            asked.close()
        subscriber.close()
        check_verdict(server)


def _last_outputs(asked: Wire, key: str) -> list[str | None]:
    return [test.get("lastOutput") for test in asked.ask("getRunStatus", {"runId": "r"}).get(key, ())]


def _next_events(subscriber: Wire) -> list[Any]:
    while True:
        events = subscriber.receive()["payload"]["events"]
        if events:
            return list(events)


class Cable:
    """A way to a server that can be cut: nothing passes any more, and both ends' sockets stay open."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._cut = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", free_port()))
        self.address = f"ws://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._cut.set()
        for one in (self._listening, *self._sockets):
            one.close()

    def cut(self) -> None:
        self._cut.set()

    def _accept(self) -> None:
        with suppress(OSError):  # closed at the end of the test
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._to_port))
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while carried := source.recv(65536):
                if self._cut.is_set():
                    return
                sink.sendall(carried)
            if not self._cut.is_set():
                sink.shutdown(socket.SHUT_WR)


def vanish_behind_a_cable(folder: Path, times: Times) -> None:
    """Cut the cable in the middle of a test, and kill the pytest behind it; nothing of that reaches the server."""
    server = RestartableServer(folder, *times.arguments(folder))
    with (
        started(server),
        Cable(server.port) as cable,
        suite_under_way(folder, cable.address, server.database) as victim,
    ):
        cable.cut()
        cut_at = time.monotonic()
        os.kill(victim, 9)
        wait_until(lambda: interrupted(status_in(server.database)), "the test is interrupted", times.bound_seconds)
        assert time.monotonic() - cut_at > times.silence_seconds / 2, "it is silence that tells, not a closed socket"
        check_verdict(server)


@pytest.mark.usefixtures("long_faults")
def test_a_machine_that_vanishes_without_a_packet_is_interrupted_within_thirteen_seconds(tmp_path: Path):
    vanish_behind_a_cable(tmp_path, Times())


def test_a_server_that_does_not_listen_for_silence_is_caught(tmp_path: Path):
    """The harness bites: at these times an ordinary server passes, and one that waits for ever doesn't."""
    for folder in ("ordinary", "deaf"):
        (tmp_path / folder).mkdir()
    vanish_behind_a_cable(tmp_path / "ordinary", QUICK)
    deaf = Times(QUICK.heartbeat_seconds, 3600.0, QUICK.lost_grace_seconds, bound_seconds=QUICK.bound_seconds)
    with pytest.raises(AssertionError, match="the test is interrupted: not within"):
        vanish_behind_a_cable(tmp_path / "deaf", deaf)


NEAR, FAR, PORT = "10.213.7.1", "10.213.7.2", 8765

NETWORK = f"""
set -e
ip link set lo up
unshare -n sh -c 'touch {{folder}}/far; sleep 600' &
echo $! > {{folder}}/far.pid
while [ ! -e {{folder}}/far ]; do sleep 0.02; done
ip link add near type veth peer name far
ip link set far netns $(cat {{folder}}/far.pid)
ip addr add {NEAR}/24 dev near
ip link set near up
nsenter -t $(cat {{folder}}/far.pid) -n sh -c 'ip link set lo up; ip addr add {FAR}/24 dev far; ip link set far up'
touch {{folder}}/up
sleep 600
"""
"""Two machines and a cable between them: one namespace for the server, and within reach of it one for pytest."""


@dataclass(frozen=True)
class Machines:
    """The process ids that hold the two network namespaces; commands get there by a prefix."""

    near: int
    far: int

    def entering(self, pid: int) -> list[str]:
        return ["nsenter", "-t", str(pid), *(["-U", "--preserve-credentials"] if os.geteuid() else []), "-n"]

    def unplug(self) -> None:
        """From now on no packet passes, and nobody is told."""
        command = [*self.entering(self.far), "ip", "link", "set", "far", "down"]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def two_machines(folder: Path) -> Iterator[Machines]:
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    command = [
        "unshare",
        *(["-Ur"] if os.geteuid() else []),
        "-n",
        "sh",
        "-c",
        NETWORK.format(folder=shlex.quote(str(folder))),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    try:
        wait_until(lambda: (folder / "up").exists() or process.poll() is not None, "two machines are connected")
        if not (folder / "up").exists():
            assert process.stderr is not None
            pytest.skip(f"network namespaces are not permitted here: {process.stderr.read().decode()[:200]}")
        yield Machines(process.pid, int((folder / "far.pid").read_text()))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_a_machine_whose_packets_are_dropped_is_interrupted_in_time(tmp_path: Path):
    """As above with real packets lost between two network namespaces, and a server that is less patient."""
    with two_machines(tmp_path) as machines:
        server = RestartableServer(
            tmp_path, *QUICK.arguments(tmp_path), prefix=machines.entering(machines.near), host=NEAR, port=PORT
        )
        prefix = machines.entering(machines.far)
        with started(server), suite_under_way(tmp_path, server.address, server.database, prefix):
            machines.unplug()
            wait_until(lambda: interrupted(status_in(server.database)), "the test is interrupted", QUICK.bound_seconds)
        check_status(status_in(server.database))
