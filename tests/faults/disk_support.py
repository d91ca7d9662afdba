"""What the disk harnesses share: faults that come and go under a live server, and clients that keep a ledger."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

import orjson
import pytest
import zstandard
from faults.hosted_store import DATABASE
from whole_support import PlainClient, ServerProcess

from testorch_plugins.storage.sql.store import READERS

RUN = "r"
CANARY_SECONDS = 1.0
SECONDS = 20.0
"""How long anything that is waited for may take before a test gives it up."""


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Poll another process: the one place here that waits for anything but an answer."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {SECONDS} s"
        time.sleep(0.02)


# Faults.


@cache
def why_no_attaching() -> str | None:
    """Why strace can't be attached to a process here, or None if it can."""
    if shutil.which("strace") is None:
        return "needs strace"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as bystander:
        command = ["strace", "-p", str(bystander.pid), "-e", "trace=none"]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        first = tracer.stderr.readline()
        tracer.send_signal(signal.SIGINT)
        tracer.communicate()
        bystander.communicate()
    return None if "attached" in first else f"strace can't be attached to a process here: {first.strip()[:200]}"


@contextmanager
def injected(server: ServerProcess, name: str, call: str, fault: str) -> Iterator[Path]:
    """Within the block, each `call` of the server on this file of its folder meets the fault, in strace's words.

    Yields the file in which the calls are written down.
    """
    reason = why_no_attaching()
    if reason is not None:
        pytest.skip(reason)
    record = server.folder / "injected.txt"
    command = ["strace", "-f", "-p", str(server.process.pid), "-P", str(server.folder / name), "-o", str(record),
               "-e", f"trace={call}", "-e", f"inject={call}:{fault}"]  # fmt: skip
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        assert "attached" in tracer.stderr.readline()
        yield record
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=SECONDS)


@contextmanager
def largest_file(server: ServerProcess, size: int) -> Iterator[None]:
    """Within the block, none of the server's files may grow beyond so many bytes: a full disk without a disk of its own."""
    endless = resource.RLIM_INFINITY
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, endless))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (endless, endless))


@cache
def small_disk_prefix() -> tuple[str, ...] | None:
    """The words before a command that give it a mount namespace, in which it may mount; None where it isn't allowed."""
    if shutil.which("unshare") is None:
        return None
    for words in (("unshare", "-m"), ("unshare", "-Urm")):
        mounting = [*words, "mount", "-t", "tmpfs", "none", "/tmp"]
        if subprocess.run(mounting, capture_output=True, check=False).returncode == 0:
            return words
    return None


def copied_out(pid: int, folder: Path, to: Path) -> Path:
    """A copy of the database of a process that is idle, out of its mount namespace; returns the copy's path."""
    for name in (DATABASE, f"{DATABASE}-wal"):
        shutil.copy(seen_from_outside(pid, folder) / name, to / name)
    return to / DATABASE


def seen_from_outside(pid: int, folder: Path) -> Path:
    """A folder in another mount namespace, through the process that lives there."""
    return Path(f"/proc/{pid}/root{folder}")


def fill(file: IO[bytes]) -> None:
    """Write until the disk is full."""
    try:
        while True:
            file.write(bytes(64 * 1024))
            file.flush()
    except OSError as failure:
        assert failure.errno == errno.ENOSPC  # noqa: PT017 - only how `fill` ends


def resident_bytes(pid: int) -> int:
    """What the process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def send_until_held_back(client: PlainClient, *, bytes_each: int, at_most: int) -> list[str]:
    """Send events until the server's end of the connection has taken nothing for a second; returns their ids."""
    sent: list[str] = []
    handle = client.socket.socket
    _, writable, _ = select.select([], [handle], [], 1.0)
    while writable and len(sent) < at_most:
        sent.append(f"flood-{len(sent)}")
        client.event(sent[-1], "test/end", testId=sent[-1], status="passed", output="x" * bytes_each, runId=RUN)
        _, writable, _ = select.select([], [handle], [], 1.0)
    return sent


# The oracle.


def open_files(server: ServerProcess) -> list[str]:
    """What the server's file descriptors are, without numbers that change.

    The database's are left out, because readers connect when they are first needed; of them there may only be so many.
    """
    found = []
    for handle in Path(f"/proc/{server.process.pid}/fd").iterdir():
        try:
            found.append(os.readlink(handle).split(":[")[0])
        except FileNotFoundError:  # closed while we looked
            continue
    of_the_database = [one for one in found if one.startswith(str(server.database)) and not one.endswith(".lock")]
    assert len(of_the_database) <= 3 * (READERS + 1), of_the_database
    return sorted(one for one in found if one not in of_the_database)


@dataclass(slots=True)
class Ledger:
    """The ids of what each client sent, in order, again where it was sent again, and of what was acknowledged."""

    sent: dict[str, list[str]] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)

    def check(self, database: Path) -> None:
        """The stored log, read without the server: acknowledged ⊆ stored ⊆ sent, once each, in order, dense, sound."""
        stored = stored_ids(database)
        every = {one for sent in self.sent.values() for one in sent}
        assert self.acknowledged <= set(stored), "what was acknowledged is stored"
        assert set(stored) <= every, "what is stored was sent"
        assert len(stored) == len(set(stored)), "nothing is stored twice"
        for sent in self.sent.values():
            once = {one for one, times in Counter(sent).items() if times == 1}
            kept = [one for one in stored if one in once]
            found = set(kept)
            assert kept == [one for one in sent if one in found], "what was sent once is stored in that order"


def stored_ids(database: Path) -> list[str]:
    """The ids of the events of clients, in the order of the log; asserts that the database is whole."""
    with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute(
            "SELECT first_offset, last_offset, encoding, body FROM batches ORDER BY last_offset"
        ).fetchall()
    connection.close()
    found, at = [], 0
    for first, last, encoding, body in rows:
        text = zstandard.ZstdDecompressor().decompress(body, max_output_size=1 << 28) if encoding else body
        events = orjson.loads(text)
        assert (first, last) == (at + 1, at + len(events)), "offsets are dense"
        at = last
        found += [one["id"] for one in events if one["type"] == "test/end"]
    return found


class LedgerClient(PlainClient):
    """A plain client that knows what has been acknowledged to it, and sends again what was refused for now."""

    def __init__(self, address: str, ledger: Ledger, name: str = "client") -> None:
        super().__init__(address)
        self.ledger = ledger
        self._sent = ledger.sent.setdefault(name, [])
        self.refusals: list[dict[str, Any]] = []
        self._waiting: dict[str, str] = {}
        self._asked = 0

    def burst(self, *ids: str, bytes_each: int = 10) -> list[str]:
        """Send events, ask for the status, and take all answers up to its; returns the ids that were refused for now."""
        for one in ids:
            self._send(one, os.urandom(bytes_each // 2).hex())
        return self._settle(list(ids))

    def again(self, refused: list[str]) -> list[str]:
        """Send what was refused once more, as it was."""
        for one in refused:
            self._send(one, self._waiting[one])
        return self._settle(refused)

    def _send(self, event_id: str, output: str) -> None:
        self._waiting[event_id] = output
        self._sent.append(event_id)
        self.event(event_id, "test/end", testId=event_id, status="passed", output=output)

    def _settle(self, ids: list[str]) -> list[str]:
        self._asked += 1
        question = f"question-{self._asked}"
        self.socket.send(json.dumps({"type": "getRunStatus", "payload": {"runId": RUN}, "id": question}))
        refused: list[str] = []
        while True:
            answer = self.receive()
            if answer.get("inReplyTo") == question:
                break
            assert answer["type"] == "error", answer
            self.refusals.append(answer["payload"])
            assert answer["payload"]["code"] == "storage_failed", answer
            assert answer["payload"]["temporary"] is True
            assert answer["payload"]["retryAfterMs"] > 0
            refused.append(answer["payload"]["eventId"])
        self.ledger.acknowledged |= set(ids) - set(refused)
        return refused


def start_run(client: PlainClient) -> None:
    client.ask("startTestRun", {"runId": RUN})


class Overheard:
    """What a server writes to standard error, taken as it comes: one whose log nobody takes stands still in the end."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._lines: list[str] = []
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        assert self._server.process.stderr is not None
        self._lines.extend(self._server.process.stderr)

    def stop(self) -> str:
        """SIGTERM; returns all that was written. The exit code must be 0."""
        self._server.process.send_signal(signal.SIGTERM)
        self._listening.join(SECONDS)
        assert self._server.process.wait(SECONDS) == 0, self._lines
        return "".join(self._lines)


Canary = Callable[[], None]


@contextmanager
def canary(server: ServerProcess) -> Iterator[Canary]:
    """A client of its own that needs no commit; yields what asks it, and asserts that it is answered within a second."""
    with PlainClient(server.address) as client:
        client.ask("getActiveRuns", {})

        def sing() -> None:
            began = time.monotonic()
            client.ask("getActiveRuns", {})
            took = time.monotonic() - began
            assert took < CANARY_SECONDS, f"the canary waited {took:.2f} s"

        yield sing


def check_log(errors: str) -> None:
    """No traceback, and nothing of what the clients sent."""
    assert "Traceback" not in errors, errors
    assert "test/end" not in errors, errors
