"""A disk that fails under a live server: it refuses what it can't keep, and goes on by itself once the disk is well (P6)."""

import os
import random
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import pytest
from faults import disk_support as disk
from faults.disk_server import served, served_by_a_broken_store
from faults.disk_support import Ledger, LedgerClient, injected, largest_file
from faults.hosted_store import DATABASE
from whole_support import PlainClient, run_testorch, serving

pytestmark = [
    pytest.mark.slow(reason="starts servers as processes of their own, and breaks their disks"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

WAL = f"{DATABASE}-wal"


LITTLE_BYTES = 40_000
"""Less than a burst that is to feel a fault, so that it isn't enough even where the WAL has just begun anew."""

FAULTS = {
    "the disk is full": lambda server: injected(server, WAL, "pwrite64", "error=ENOSPC"),
    "the file may not grow": lambda server: largest_file(server, LITTLE_BYTES),
    "the file system has become read-only": lambda server: injected(server, WAL, "pwrite64", "error=EROFS"),
    "writing fails": lambda server: injected(server, WAL, "pwrite64", "error=EIO"),
    "syncing fails": lambda server: injected(server, WAL, "fdatasync,fsync", "error=EIO"),
    "syncing fails once": lambda server: injected(server, WAL, "fdatasync,fsync", "error=EIO:when=1"),
    "every other sync fails": lambda server: injected(server, WAL, "fdatasync,fsync", "error=EIO:when=1+2"),
    "every third write fails": lambda server: injected(server, WAL, "pwrite64", "error=EIO:when=2+3"),
}


def feel(fault, server, client, sing, *, name):
    """Bring the fault about, and take it away again: what could not be kept was refused, and is taken when it is sent again."""
    ids = [f"{name}-{number}" for number in range(6)]
    with FAULTS[fault](server):
        refused = client.burst(*ids, bytes_each=20_000)
        assert refused, f"{fault}: it was felt"
        sing()
    assert client.burst(f"{name}-after") == [], f"{fault}: it has passed"
    assert client.again(refused) == [], f"{fault}: it has passed"
    assert client.ledger.acknowledged.issuperset(ids)


def test_what_a_failing_disk_can_not_keep_is_refused_and_taken_again_when_it_is_well(tmp_path):
    with served(tmp_path) as (server, client, sing):
        for number, fault in enumerate(FAULTS):
            feel(fault, server, client, sing, name=f"fault-{number}")


@pytest.mark.usefixtures("long_faults")
def test_a_disk_may_fail_again_and_again(tmp_path):
    seed = random.SystemRandom().randrange(10**9)
    chance = random.Random(seed)
    with served(tmp_path) as (server, client, sing):
        for number in range(100):
            feel(chance.choice(list(FAULTS)), server, client, sing, name=f"seed-{seed}-fault-{number}")


@pytest.mark.parametrize("fault", ["error=EIO", "error=ENOSPC"])
def test_a_checkpoint_that_fails_costs_nobody_an_event(tmp_path, fault):
    """Only the database file is sick; the log goes on growing in the WAL, and is folded in when the disk is well."""
    with served(tmp_path) as (server, client, _):
        with injected(server, DATABASE, "pwrite64,fdatasync", fault) as record:
            for number in range(12):
                assert client.burst(f"during-{number}", bytes_each=1_000_000) == []
            disk.wait_until(lambda: "INJECTED" in record.read_text(), "a checkpoint was tried")
        size = os.path.getsize(server.database)
        assert client.burst("after", bytes_each=1_000_000) == []
        disk.wait_until(lambda: os.path.getsize(server.database) > size, "the checkpoint was made good")


def wait_for_a_slow_disk(parts):
    slow = "delay_enter=300000"  # microseconds
    with parts as (server, client, sing), injected(server, WAL, "fdatasync", slow) as record:
        for number in range(3):
            assert client.burst(f"during-{number}-a", f"during-{number}-b") == []
            sing()
        client.send("event", {"id": "under way", "type": "test/output", "timestamp": 1, "payload": {}})
        sing()
        assert record.read_text().count("DELAYED") >= 3


def test_a_slow_disk_makes_acknowledgements_late_but_right_and_delays_nobody_who_needs_no_commit(tmp_path):
    wait_for_a_slow_disk(served(tmp_path))


def flood(folder, *arguments):
    """Every sync takes seconds, and a client sends as fast as it can: it is held back before the server has grown much."""
    with served(folder, *arguments) as (server, client, sing), PlainClient(server.address) as flooder:
        before = disk.resident_bytes(server.process.pid)
        with injected(server, WAL, "fdatasync", "delay_enter=1500000"):
            sent = client.ledger.sent["flood"] = disk.send_until_held_back(flooder, bytes_each=50_000, at_most=2_000)
            grown = disk.resident_bytes(server.process.pid) - before
            sing()
        assert len(sent) < 220, "the client was held back"
        assert grown < 30_000_000, "the server has not grown much"
        assert client.burst("after") == []


def bounded_by(folder, events):
    path = folder / "bounded.toml"
    path.write_text(BOUNDED.format(events=events))
    return "--config", str(path)


BOUNDED = """
[server]
max_queued_events = {events}
max_queued_bytes = 1_000_000_000
max_in_flight = 1_000_000
max_commit_events = 25
[storage]
use = "sqlite"
[transports.w]
use = "websocket"
port = 0
"""


def test_a_server_whose_disk_hangs_stops_reading_rather_than_buffer_without_bound(tmp_path):
    flood(tmp_path, *bounded_by(tmp_path, 50))


def test_a_server_that_buffers_without_bound_is_caught(tmp_path):
    with pytest.raises(AssertionError, match="the client was held back"):
        flood(tmp_path, *bounded_by(tmp_path, 1_000_000))


def test_a_second_server_on_the_same_file_is_refused_and_told_which_process_is_the_first(tmp_path):
    with served(tmp_path) as (server, client, _):
        second = run_testorch("serve", "--db", str(server.database), "--port", "0")
        assert second.returncode == 1
        words = f"testorch: `{server.database}` is in use by another testorch server (process {server.process.pid})\n"
        assert second.stderr == words
        assert client.burst("after") == []


# A disk of its own.


@contextmanager
def small_disk(folder, *, megabytes):
    """A server whose folder is a small file system of its own; yields it, its address and the folder as it sees it."""
    prefix = disk.small_disk_prefix()
    if prefix is None:
        pytest.skip("file systems may not be mounted here, not even in a namespace")
    inside = folder / "disk"
    inside.mkdir()
    script = f'mount -t tmpfs -o size={megabytes}m none "$0" && cd "$0" && exec "$@"'
    command = [
        *prefix,
        "sh",
        "-c",
        script,
        str(inside),
        sys.executable,
        "-m",
        "testorch_core.cli",
        "serve",
        "--port",
        "0",
    ]
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(process.kill)
        address = re.search(r"ws://[^\s,]+", process.stderr.readline())[0]
        yield process, address, inside


def test_a_disk_that_fills_up_is_said_and_passes_when_there_is_room_again(tmp_path):
    ledger = Ledger()
    with small_disk(tmp_path, megabytes=8) as (process, address, folder), LedgerClient(address, ledger) as client:
        disk.start_run(client)
        ballast = disk.seen_from_outside(process.pid, folder) / "ballast"
        with ballast.open("wb") as file:
            disk.fill(file)
        refused = client.burst(*(f"during-{number}" for number in range(5)), bytes_each=100_000)
        assert refused
        assert all("full" in one["message"] for one in client.refusals)
        ballast.unlink()
        assert client.again(refused) == []
        assert client.burst("after", bytes_each=100_000) == []
        ledger.check(disk.copied_out(process.pid, folder, tmp_path))
        process.send_signal(signal.SIGTERM)
        disk.check_log(process.stderr.read())
        assert process.wait(disk.SECONDS) == 0


@pytest.mark.parametrize("existing", [False, True], ids=["an empty one", "one with a database"])
def test_a_server_on_a_read_only_file_system_refuses_with_one_line(tmp_path, existing):
    prefix = disk.small_disk_prefix()
    if prefix is None:
        pytest.skip("file systems may not be mounted here, not even in a namespace")
    folder = tmp_path / "disk"
    folder.mkdir()
    if existing:
        with serving(folder) as server:
            server.stop()
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0" && exec "$@"'
    command = [
        *prefix,
        "sh",
        "-c",
        script,
        str(folder),
        sys.executable,
        "-m",
        "testorch_core.cli",
        "serve",
        "--port",
        "0",
    ]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert re.fullmatch(r"testorch: .*(Read-only|readonly|read-only).*\n", ended.stderr), ended.stderr


# The harness bites.


SWALLOWING = '''
"""A store that takes an I/O error for success."""
from testorch_core.errors import BehindError, StorageFailedError
from testorch_plugins.storage.sqlite.plugin import SqliteStore

class BrokenStore(SqliteStore):
    async def append(self, commit):
        try:
            await super().append(commit)
        except (StorageFailedError, BehindError):
            pass
'''

STICKING = '''
"""A store that never gets over an error."""
from testorch_core.errors import StorageFailedError
from testorch_plugins.storage.sqlite.plugin import SqliteStore

class BrokenStore(SqliteStore):
    failure = None

    async def append(self, commit):
        if self.failure is not None:
            raise self.failure
        try:
            await super().append(commit)
        except StorageFailedError as failure:
            self.failure = failure
            raise
'''


@pytest.mark.parametrize("source", [SWALLOWING, STICKING], ids=["swallowing", "sticking"])
def test_a_store_that_acknowledges_what_failed_or_never_recovers_is_caught(tmp_path, monkeypatch, source):
    broken = served_by_a_broken_store(tmp_path, monkeypatch, source)
    with pytest.raises(AssertionError, match=r"it was felt|it has passed"), broken as (server, client, sing):
        feel("the file may not grow", server, client, sing, name="fault")


BLOCKING = '''
"""A store that waits for its disk with the whole server waiting along."""
import time
from testorch_plugins.storage.sqlite.plugin import SqliteStore

class BrokenStore(SqliteStore):
    async def append(self, commit):
        if any(b"under way" in batch.body for part in commit.slices for batch in part.batches):
            time.sleep(1.5)
        await super().append(commit)
'''


def test_a_server_that_waits_as_a_whole_for_its_disk_is_caught(tmp_path, monkeypatch):
    with pytest.raises(AssertionError, match="the canary waited"):
        wait_for_a_slow_disk(served_by_a_broken_store(tmp_path, monkeypatch, BLOCKING))
