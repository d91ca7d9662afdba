"""The database's files are taken away under a live server: it must not go on acknowledging into a file that nobody will find."""

import os
import shutil
import sys
import threading
from contextlib import contextmanager

import pytest
from faults import disk_support as disk
from faults.disk_server import served, served_by_a_broken_store
from faults.disk_support import Ledger, LedgerClient
from faults.hosted_store import DATABASE
from whole_support import PlainClient, serving

pytestmark = [
    pytest.mark.slow(reason="starts servers as processes of their own"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

VICTIMS = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm")


@contextmanager
def taken_away(path):
    """The file is gone from its place within the block, and back after it."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def says_that_it_is_lost(client, name):
    words = f"nothing was stored: `{name}` was removed or replaced under the running server; put it back, or restart the server"
    return {one["message"] for one in client.refusals} == {words}


def lose_and_put_back(server, client, sing, name):
    client.refusals.clear()
    ids = [f"while {name} is away {number}" for number in range(3)]
    with taken_away(server.folder / name):
        assert sorted(client.burst(*ids)) == ids, "nothing is acknowledged into a lost file"
        assert says_that_it_is_lost(client, name)
        sing()
    assert client.burst(f"{name} is back") == []
    assert client.again(ids) == []


def test_while_a_file_of_the_database_is_away_nothing_is_acknowledged_and_when_it_is_back_all_is_well(tmp_path):
    """P6: into a file that nobody will find again nothing is acknowledged."""
    with served(tmp_path) as (server, client, sing):
        for name in VICTIMS:
            lose_and_put_back(server, client, sing, name)


def test_reading_makes_no_new_database_where_the_old_one_has_gone(tmp_path):
    with served(tmp_path) as (server, client, _):
        with taken_away(server.database):
            askers = [threading.Thread(target=ask_about_an_unknown_run, args=(server.address,)) for _ in range(8)]
            for asker in askers:  # as many at once as the store has readers, so that some of them must connect
                asker.start()
            for asker in askers:
                asker.join()
            assert not server.database.exists()
        assert client.burst("after") == []


def ask_about_an_unknown_run(address):
    with PlainClient(address) as client:
        for number in range(20):
            client.send("getRunStatus", {"runId": f"unknown-{number}"})
        for _ in range(20):
            assert client.receive()["type"] == "error"


@pytest.mark.parametrize("name", VICTIMS[1:])
def test_a_restart_finds_all_that_was_acknowledged_before_a_file_beside_the_database_was_removed(tmp_path, name):
    ledger = Ledger()
    with serving(tmp_path) as server, LedgerClient(server.address, ledger) as client:
        disk.start_run(client)
        assert client.burst("before", bytes_each=100_000) == []
        (tmp_path / name).unlink()
        assert client.burst("after") == ["after"]
        disk.check_log(server.stop())
    with served(tmp_path, ledger=ledger) as (_, client, _):
        assert client.burst("restarted") == []
    assert {"before", "restarted"} <= ledger.acknowledged


def test_after_the_database_was_removed_a_restart_begins_a_new_one(tmp_path):
    with serving(tmp_path) as server, LedgerClient(server.address, Ledger()) as client:
        disk.start_run(client)
        assert client.burst("before") == []
        server.database.unlink()
        assert client.burst("after") == ["after"]
        disk.check_log(server.stop())
    with served(tmp_path) as (_, client, _):
        assert client.burst("restarted") == []


def test_a_database_that_was_put_in_the_place_of_the_open_one_is_neither_written_nor_harmed(tmp_path):
    """A backup that is restored under the running server: its own WAL included, which a closing SQLite might take for ours."""
    other = tmp_path / "other"
    other.mkdir()
    backup = Ledger()
    with serving(other) as server, LedgerClient(server.address, backup) as client:
        disk.start_run(client)
        assert client.burst("in the backup") == []
        server.kill()  # so that the backup has a WAL
    with serving(tmp_path) as server, LedgerClient(server.address, Ledger()) as client:
        disk.start_run(client)
        assert client.burst("before") == []
        for name in VICTIMS[:2]:
            shutil.copy(other / name, tmp_path / "copy")
            os.replace(tmp_path / "copy", tmp_path / name)
        assert client.burst("after") == ["after"]
        assert says_that_it_is_lost(client, DATABASE)
        disk.check_log(server.stop())
    for name in VICTIMS[:2]:
        assert (tmp_path / name).read_bytes() == (other / name).read_bytes()
    with served(tmp_path, ledger=backup) as (_, client, _):
        assert client.burst("restarted") == []


UNSEEING = '''
"""A store that never looks whether its files are still there."""
from testorch_plugins.storage.sqlite.plugin import SqliteStore

class BrokenStore(SqliteStore):
    def _require_place(self):
        pass
'''


def test_a_store_that_goes_on_in_a_lost_file_is_caught(tmp_path, monkeypatch):
    words = "nothing is acknowledged into a lost file"
    broken = served_by_a_broken_store(tmp_path, monkeypatch, UNSEEING)
    with pytest.raises(AssertionError, match=words), broken as (server, client, sing):
        lose_and_put_back(server, client, sing, DATABASE)
