"""A live server under the oracle of the disk harnesses, and one whose store is broken on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import disk_support as disk
from faults.broken_store import install_broken_store
from faults.disk_support import Ledger, LedgerClient
from whole_support import ServerProcess, serving

Parts = tuple[ServerProcess, LedgerClient, disk.Canary]


@contextmanager
def served(folder: Path, *arguments: str, ledger: Ledger | None = None) -> Iterator[Parts]:
    """A server with a run, a client that keeps a ledger, and a canary; at the end the oracle: the same process, the same
    files open, a quiet log, and a ledger that agrees with the database."""
    ledger = ledger or Ledger()
    with serving(folder, *(arguments or ("--port", "0", "--log-level", "debug"))) as server:
        overheard = disk.Overheard(server)
        with disk.canary(server) as sing, LedgerClient(server.address, ledger) as client:
            disk.start_run(client)
            assert client.burst() == []
            before = disk.open_files(server)
            yield server, client, sing
            sing()
            assert server.process.poll() is None, "the same process goes on"
            disk.wait_until(lambda: disk.open_files(server) == before, "file descriptors are back")
        disk.check_log(overheard.stop())
    ledger.check(server.database)


@contextmanager
def served_by_a_broken_store(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> Iterator[Parts]:
    """The same with the class `BrokenStore` of this source."""
    with served(folder, *install_broken_store(folder, monkeypatch, source)) as parts:
        yield parts
