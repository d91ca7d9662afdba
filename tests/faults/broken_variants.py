"""What is broken on purpose in a server's process: sources of a plugin `BrokenStore`, some of which mend the core for the worse."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

LATE = '''
"""A store that says "committed" when it has only taken a note: it writes what it has once there are eight commits."""
from testorch_plugins.storage.sqlite.plugin import SqliteStore

class BrokenStore(SqliteStore):
    def __init__(self, name, options):
        super().__init__(name, options)
        self.waiting = []

    async def append(self, commit):
        self.waiting.append(commit)
        if len(self.waiting) >= 8:
            while self.waiting:
                await super().append(self.waiting.pop(0))
'''

FORGETFUL = '''
"""The SQLite store, in a server that takes whatever a stream sends, again and again: its dedupe is off.

Its acknowledgements are late, which is no fault, so that a kill finds events whose commit nobody has heard of.
"""
import trio
from testorch_core.intake import Sorted, StreamIntake
from testorch_core.items import StreamSubmission
from testorch_core.session import Session
from testorch_plugins.storage.sqlite.plugin import SqliteStore as BrokenStore

def sort(self, events):
    self.expected = max(self.expected, events[-1]["seq"] + 1)
    return Sorted(events[0]["seq"], events)

def apply(self, transaction):
    real(self, transaction)
    if self.skipped:
        self._take(transaction, transaction.draft(self.project, self.run_id), self.entries[: self.skipped])

async def acknowledge(self, seq):
    await trio.sleep(0.05)
    await punctual(self, seq)

punctual = Session._acknowledge
Session._acknowledge = acknowledge
real = StreamSubmission.apply
StreamSubmission.apply = apply
StreamIntake.sort = sort
'''


def install_plugins(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, entry_points: Mapping[str, Mapping[str, str]]
) -> None:
    """Install a module as a distribution of its own: group -> plugin's name -> class in the module."""
    site = folder / "site"
    information = site / "faulty-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "faulty.py").write_text(source)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("".join(
        f"[testorch.{group}]\n" + "".join(f"{name} = faulty:{kind}\n" for name, kind in plugins.items())
        for group, plugins in entry_points.items()
    ))  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))


def configured(folder: Path, tables: str = "", *, storage: str = "sqlite", transport: str = "") -> list[str]:
    """The arguments of `testorch serve` for SQLite, or a store of another name, a socket with these options, and tables."""
    path = folder / "testorch.toml"
    path.write_text(f'{tables}\n[storage]\nuse = "{storage}"\n[transports.w]\nuse = "websocket"\n{transport}\n')
    return ["--config", str(path)]


def with_broken_store(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, tables: str = "") -> list[str]:
    """The arguments of `testorch serve` for a server whose store is this source's `BrokenStore`."""
    install_plugins(folder, monkeypatch, source, {"storage": {"broken": "BrokenStore"}})
    return configured(folder, tables, storage="broken")
