"""Reporters that raise, hang, block, flood and exit, beside one that does its work: acknowledgements and it go on.

What is promised: whatever a reporter raises, awaits or does in threads (`context.in_thread`) is its own trouble. What can't be:
a reporter that blocks the event loop itself (`time.sleep` in async code) stops the process for as long as it does so,
since all of it is one thread; that is a defect of the reporter, which no isolation within a process could mend.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.broken_variants import configured, install_plugins
from faults.stream_clients import RestartableServer, Wire, started, wait_until

pytestmark = pytest.mark.slow(reason="starts servers whose reporters are at fault")

ACK_SECONDS = 1.0
TOLD_SECONDS = 4.0
STOPPED_SECONDS = 4.0
"""After SIGTERM, with a drain of 1 s and 1 s for each plugin to close."""

REPORTERS = '''
import time
import trio
from testorch_core.interfaces.reporter import Reporter


class Faulty(Reporter):
    async def start(self, context):
        self.context = context

    async def aclose(self):
        pass

    async def test_finished(self, run, result):
        await self.fail()


class Witness(Faulty):
    """Writes down what it is told, in a thread, as a reporter does that writes files."""

    async def test_finished(self, run, result):
        def write():
            with (self.context.folder / "witness.txt").open("a") as file:
                file.write(result.test_id + "\\n")
        await self.context.in_thread(write)


class Raises(Faulty):
    async def fail(self):
        raise ValueError("a defect of the reporter")


class RaisesInTheBackground(Faulty):
    async def start(self, context):
        context.spawn(self.fail, name="background")

    async def fail(self):
        await trio.sleep(0.5)
        raise ValueError("a defect of the reporter's task")


class Hangs(Faulty):
    async def fail(self):
        await trio.sleep_forever()


class Blocks(Faulty):
    async def fail(self):
        await self.context.in_thread(lambda: time.sleep(600))


class BlocksAllThreads(Faulty):
    """Blocks a thread for every call, and waits for none of them."""

    async def start(self, context):
        for number in range(40):
            context.spawn(lambda: context.in_thread(lambda: time.sleep(600)), name=f"blocking {number}")


class Floods(Faulty):
    """Logs as much as it can, and starts tasks that never end, for each call."""

    async def fail(self):
        for number in range(200):
            self.context.log.info("noise", text="x" * 1000)
            self.context.spawn(trio.sleep_forever, name="flood")


class Exits(Faulty):
    async def fail(self):
        raise SystemExit(3)


class ExitsInTheBackground(Faulty):
    async def start(self, context):
        context.spawn(self.fail, name="background")

    async def fail(self):
        await trio.sleep(0.5)
        raise SystemExit(3)


class BlocksTheLoop(Faulty):
    has_blocked = False

    async def fail(self):
        if not self.has_blocked:
            self.has_blocked = True
            time.sleep(2.5)
'''

CLASSES = ("Witness", "Raises", "RaisesInTheBackground", "Hangs", "Blocks", "BlocksAllThreads", "Floods", "Exits",
           "ExitsInTheBackground", "BlocksTheLoop")  # fmt: skip


@contextmanager
def reported_by(folder: Path, monkeypatch: pytest.MonkeyPatch, *reporters: str) -> Iterator[RestartableServer]:
    """A server with these reporters and the witness."""
    install_plugins(folder, monkeypatch, REPORTERS, {"reporter": {name.lower(): name for name in CLASSES}})
    tables = "[server]\ndrain_seconds = 1.0\nclose_seconds = 1.0\n"
    tables += "".join(f"[reporters.{name.lower()}]\n" for name in (*reporters, "witness"))
    with started(RestartableServer(folder, *configured(folder, tables))) as server:
        yield server


def check_the_rest_goes_on(server: RestartableServer, folder: Path, *, events: int = 30) -> None:
    """Every event is acknowledged in time, and the witness is told of all of them."""
    wire = Wire(server.address)
    wire.ask("hello", {"streamId": "s", "runId": "r"})
    for seq in range(1, events + 1):
        began = time.monotonic()
        wire.send("event", {"id": f"e{seq}", "type": "test/end", "timestamp": 1, "seq": seq,
                            "payload": {"testId": f"t{seq}", "status": "passed"}})  # fmt: skip
        assert wire.receive() == {"type": "ack", "payload": {"streamId": "s", "seq": seq}}
        took = time.monotonic() - began
        assert took < ACK_SECONDS, f"the acknowledgement took {took:.2f} s"
    witness, expected = folder / "witness.txt", [f"t{seq}" for seq in range(1, events + 1)]
    wait_until(
        lambda: witness.exists() and len(witness.read_text().split()) >= events,
        "the witness is told of all",
        TOLD_SECONDS,
    )
    assert witness.read_text().split() == expected
    wire.close()
    assert server.process.poll() is None, server.log


def test_reporters_that_raise_hang_block_or_flood_delay_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """P5: one bad reporter changes nothing for another. All of them at once."""
    faulty = ("Raises", "RaisesInTheBackground", "Hangs", "Blocks", "Floods")
    with reported_by(tmp_path, monkeypatch, *faulty) as server:
        check_the_rest_goes_on(server, tmp_path)
        wait_until(lambda: "a defect of the reporter's task" in server.log, "the log names what failed")


def test_a_reporter_that_hangs_does_not_keep_the_server_from_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """P8: it stops within its bound, and tells the reporter again after the next start."""
    with reported_by(tmp_path, monkeypatch, "Raises", "Hangs", "Floods") as server:
        check_the_rest_goes_on(server, tmp_path)
        server.terminate(within_seconds=STOPPED_SECONDS)


def test_a_reporter_whose_thread_blocks_does_not_keep_the_server_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """P8: nor does one whose thread never comes back."""
    with reported_by(tmp_path, monkeypatch, "Blocks") as server:
        check_the_rest_goes_on(server, tmp_path)
        server.terminate(within_seconds=STOPPED_SECONDS)


def test_a_reporter_that_blocks_all_its_threads_delays_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """P5: nor one that takes all the threads that it can get."""
    with reported_by(tmp_path, monkeypatch, "BlocksAllThreads") as server:
        check_the_rest_goes_on(server, tmp_path)


def test_reporters_that_exit_end_only_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """P5: `SystemExit` is a reporter's trouble too, as from a library that thinks that it is a command.

    `KeyboardInterrupt` is not: trio may deliver a user's own Ctrl-C into whatever runs just then, a reporter included.
    """
    faulty = ("Exits", "ExitsInTheBackground")
    with reported_by(tmp_path, monkeypatch, *faulty) as server:
        check_the_rest_goes_on(server, tmp_path)
        for name in faulty:
            wait_until(lambda: f"plugin={name.lower()} " in server.log, "the log names what failed")  # noqa: B023 - at once
        server.terminate(within_seconds=STOPPED_SECONDS)


def test_a_reporter_that_blocks_the_event_loop_is_what_the_harness_would_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The harness bites: this is what a server without any isolation would be like, and nothing is promised for it."""
    with (
        pytest.raises(AssertionError, match="the acknowledgement took"),
        reported_by(tmp_path, monkeypatch, "BlocksTheLoop") as server,
    ):
        check_the_rest_goes_on(server, tmp_path, events=2_000)  # until it has been told, whenever that is
