"""Fifty subscribers while much is stored: some read at once, some lag, some never read. None of them costs the others more
than a bounded delay, nor the server more than a bounded amount of memory, and who reads at all sees everything."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.broken_variants import configured, with_broken_store
from faults.oracle import hole_violations
from faults.stream_clients import RestartableServer, Wire, started, wait_until

pytestmark = pytest.mark.slow(reason="fills sockets until nothing more fits in")

PROMPT, LAGGING, STOPPED, FILTERED = 3, 3, 20, 24
"""How many subscribers read at once, read only when all is over, never read, and want only what never comes."""

MESSAGES, EVENTS_A_MESSAGE, BYTES_AN_EVENT = 45, 100, 4_000
"""18 MB in all: twice what the server keeps in memory for readers that keep up, and more than sockets hold."""

GROWTH_BYTES = 220_000_000
"""What the server may take while it serves them: the newest 8 MB of the log, as stored and as shown; and for each of those
that don't read a page of 1,000 events, 4 MB here, and at most three copies of the message of 1 MB that is on its way.
All that is published to them would be 400 MB, and more as it is queued."""

CANARY_SECONDS = 1.0


class Canary(threading.Thread):
    """A stream that sends an event and waits for its acknowledgement, over and over; knows the longest that it waited."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.longest_seconds = 0.0
        self.sung = 0
        self._wire = Wire(address)
        self._silenced = threading.Event()

    def run(self) -> None:
        self._wire.ask("hello", {"streamId": "canary", "runId": "canary"})
        while not self._silenced.is_set():
            began = time.monotonic()
            self.sung += 1
            self._wire.send("event", {"id": f"c{self.sung}", "type": "test/output", "timestamp": 1, "seq": self.sung,
                                      "payload": {"testId": "t", "text": "tweet"}})  # fmt: skip
            while self._wire.receive()["type"] != "ack":
                pass
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)

    def check(self) -> None:
        self._silenced.set()
        self.join(10)
        self._wire.close()
        assert self.sung > 10, "it sang throughout"
        assert self.longest_seconds < CANARY_SECONDS, f"the canary waited {self.longest_seconds:.2f} s"


class Subscriber:
    """A subscriber of the whole project, and the offsets that it has seen."""

    def __init__(self, address: str, name: str, types: list[str] | None = None, *, reads_ahead: int = 1) -> None:
        self.name = name
        self.seen: list[int] = []
        self._wire = Wire(address, max_queue=reads_ahead)
        self.first = 1 + self._wire.ask("subscribe", {"types": types} if types else {})["offset"]

    def read_to(self, offset: int) -> None:
        at = self.first - 1
        while at < offset:
            payload = self._wire.receive()["payload"]
            self.seen += [event["offset"] for event in payload["events"]]
            at = payload["offset"]

    def violations(self, offset: int) -> list[str]:
        seen = [one for one in self.seen if one <= offset]
        return hole_violations(self.name, seen, first=self.first, last=offset)

    def hang_up(self) -> None:
        self._wire.socket.socket.close()


class Reader(threading.Thread):
    """Reads for a subscriber from the beginning on."""

    def __init__(self, subscriber: Subscriber, offset: int) -> None:
        super().__init__(daemon=True)
        self._subscriber = subscriber
        self._offset = offset

    def run(self) -> None:
        self._subscriber.read_to(self._offset)


def resident_bytes(server: RestartableServer, what: str = "VmRSS") -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(rf"{what}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


def publish_much(address: str, messages: int = MESSAGES) -> int:
    """Store it all, as fast as it is acknowledged; returns an offset that is certainly after the last of it."""
    wire, text = Wire(address), "x" * BYTES_AN_EVENT
    wire.ask("hello", {"streamId": "load", "runId": "load"})
    for message in range(messages):
        first = message * EVENTS_A_MESSAGE + 1
        wire.send("events", {"events": [
            {"id": f"e{seq}", "type": "test/output", "timestamp": 1, "seq": seq, "payload": {"testId": "t", "text": text}}
            for seq in range(first, first + EVENTS_A_MESSAGE)
        ]})  # fmt: skip
        while wire.receive()["type"] != "ack":
            pass
    offset = int(wire.ask("getRunStatus", {"runId": "load"})["offset"])
    wire.close()
    return offset


@contextmanager
def everybody_subscribed(address: str) -> Iterator[tuple[list[Subscriber], list[Subscriber]]]:
    """All of them; yields those who read at once and those who read late."""
    prompt = [Subscriber(address, f"prompt {number}", reads_ahead=16) for number in range(PROMPT)]
    lagging = [Subscriber(address, f"lagging {number}") for number in range(LAGGING)]
    others = [Subscriber(address, f"stopped {number}") for number in range(STOPPED)]
    others += [Subscriber(address, f"filtered {number}", ["run/plan"]) for number in range(FILTERED)]
    try:
        yield prompt, lagging
    finally:
        for one in [*prompt, *lagging, *others]:
            one.hang_up()


def serve_everybody(folder: Path, *arguments: str) -> None:
    """What is promised to all of them, while much is stored."""
    server = RestartableServer(folder, *(arguments or configured(folder)))
    with started(server), everybody_subscribed(server.address) as (prompt, lagging):
        before = resident_bytes(server)
        canary = Canary(server.address)
        canary.start()
        readers = [Reader(one, MESSAGES * EVENTS_A_MESSAGE) for one in prompt]
        for reader in readers:
            reader.start()
        offset = publish_much(server.address)
        for reader in readers:
            reader.join(30)
        canary.check()
        for one in (*prompt, *lagging):
            one.read_to(MESSAGES * EVENTS_A_MESSAGE)
        growth = resident_bytes(server, "VmHWM") - before
    assert offset > MESSAGES * EVENTS_A_MESSAGE
    assert growth < GROWTH_BYTES, f"the server has grown by {growth / 1e6:.0f} MB"
    violations = [words for one in (*prompt, *lagging) for words in one.violations(MESSAGES * EVENTS_A_MESSAGE)]
    assert not violations, violations


def test_slow_and_stopped_subscribers_cost_nobody_an_event_and_the_server_little_memory(tmp_path: Path):
    """P4: who lags sees every event in order. P5: nobody else waits. P7: memory is bounded, whoever doesn't read."""
    serve_everybody(tmp_path)


def test_a_subscriber_that_never_reads_is_closed_in_the_end(tmp_path: Path):
    """P7: what is on its way to it is kept for `send_seconds` and no longer."""
    server = RestartableServer(tmp_path, *configured(tmp_path, transport="send_seconds = 1.0"))
    with started(server):
        stopped, asking = Subscriber(server.address, "stopped"), Wire(server.address)
        publish_much(server.address, messages=20)
        wait_until(lambda: asking.ask("getStatistics")["connectedClients"] == 1, "only the asking one is left", 10)
        stopped.hang_up()
        asking.close()


PATIENT_QUEUE = '''
"""The SQLite store, in a server that queues whatever a connection is to be sent, however much that is."""
from collections import deque
import trio
from testorch_plugins.storage.sqlite.plugin import SqliteStore as BrokenStore
from testorch_plugins.transports.websocket.plugin import TrioWebSocketPeer

async def send(self, message):
    if not hasattr(self, "queue"):
        self.queue, self.grown = deque(), trio.Event()
        trio.lowlevel.spawn_system_task(pump, self)
    self.queue.append(message)
    self.grown.set()
    await trio.lowlevel.checkpoint()

async def pump(self):
    while True:
        while self.queue:
            try:
                await real(self, self.queue.popleft())
            except Exception:
                return
        self.grown = trio.Event()
        await self.grown.wait()

real = TrioWebSocketPeer.send
TrioWebSocketPeer.send = send
'''

ONLY_THE_NEWEST = '''
"""The SQLite store, in a server whose subscribers see only what is still in memory when they come to it."""
from testorch_core.tail import LogPage, LogTail
from testorch_plugins.storage.sqlite.plugin import SqliteStore as BrokenStore

async def page(self, project, *, after, run_id=None):
    window = self._windows.get(project)
    if window is not None and window.batches[0].first_offset > after + 1:
        return LogPage((), window.batches[0].first_offset - 1)
    return await real(self, project, after=after, run_id=run_id)

real = LogTail.page
LogTail.page = page
'''


@pytest.mark.parametrize(
    ("broken", "words"),
    [(PATIENT_QUEUE, "the server has grown by"), (ONLY_THE_NEWEST, "lagging 0 missed")],
    ids=["unbounded queue", "skips when it lags"],
)
def test_a_server_that_queues_without_bound_or_skips_is_caught(
    broken: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The harness bites."""
    with pytest.raises(AssertionError, match=words):
        serve_everybody(tmp_path, *with_broken_store(tmp_path, monkeypatch, broken))
