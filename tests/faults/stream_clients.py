"""A server that can be killed and started again at its address, and blocking clients that keep a ledger.

The clients speak the protocol over real sockets and trust nothing: what they say of the server is only what it said.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from faults import oracle
from faults.oracle import PlainLedger, StreamLedger
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect
from whole_support import PlainClient, run_testorch

Found = TypeVar("Found")

IN_FLIGHT = 64
"""Events that a client has sent and that are not acknowledged, at all times at which it waits."""

SECONDS = 30.0
"""How long anything that is waited for may take before a test gives it up."""


def wait_until(look: Callable[[], Found], what: str, seconds: float = SECONDS) -> Found:
    """Poll another process or thread until it shows something true; returns that. The one place that waits by the clock."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.01)
    return found


def free_port() -> int:
    """A port below those that the system gives to outgoing connections, so that no client takes it while nobody listens."""
    for port in random.Random().sample(range(20_000, 30_000), 100):
        with socket.socket() as trying:
            try:
                trying.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


class RestartableServer:
    """`testorch serve` on one port and one database, as often as it is started. What it logs is in `log.txt`."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        prefix: Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        self.database = folder / "testorch.db"
        self.port = port or free_port()
        self.address = f"ws://{host}:{self.port}"
        self.process: subprocess.Popen[bytes]
        self._folder = folder
        self._log = folder / "log.txt"
        self._command = [*prefix, sys.executable, "-m", "testorch_core.cli", "serve", "--db", str(self.database),
                         "--host", host, "--port", str(self.port), *arguments]  # fmt: skip
        if host != "127.0.0.1":
            self._command.append("--allow-anonymous")

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        begin = len(self.log)
        with self._log.open("ab") as log, (self._folder / "out.txt").open("ab") as output:
            self.process = subprocess.Popen(self._command, cwd=self._folder, stdout=output, stderr=log)
        wait_until(lambda: self._listens(begin), "the server listens")

    def _listens(self, begin: int) -> bool:
        said = self.log[begin:]
        assert self.process.poll() is None, f"the server ended by itself:\n{said}"
        return "listens on" in said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, *, within_seconds: float) -> float:
        """SIGTERM; the server must end by itself, with 0; returns how long it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the server has not stopped {within_seconds:g} s after SIGTERM:\n{self.log}"
            ) from None
        assert code == 0, self.log
        return time.monotonic() - began


@contextmanager
def started(server: RestartableServer) -> Iterator[RestartableServer]:
    """The server, running within the block and dead after it."""
    try:
        server.start()
        yield server
    finally:
        server.kill()


class Wire:
    """A connection over a real socket that gives every message as JSON, and remembers how it was closed."""

    def __init__(self, address: str, **more: Any) -> None:
        self._context = connect(address, compression=None, max_size=None, **more)
        self.socket: ClientConnection = self._context.__enter__()

    def send(self, kind: str, payload: Any = None, **top: Any) -> None:
        self.socket.send(json.dumps({"type": kind, "payload": payload, **top}))

    def receive(self, timeout: float | None = SECONDS) -> Any:
        return json.loads(self.socket.recv(timeout=timeout))

    def ask(self, kind: str, payload: Any = None, *, meanwhile: Callable[[Any], None] = lambda message: None) -> Any:
        """The answer's payload; messages that come before it go to `meanwhile`."""
        self.send(kind, payload, id="asked")
        while (answer := self.receive()).get("inReplyTo") != "asked":
            meanwhile(answer)
        assert answer["type"] != "error", answer
        return answer["payload"]

    def close(self) -> None:
        self._context.__exit__(None, None, None)


Ending = tuple[int | None, int]
"""How a connection ended: its close code (None for a socket that was cut), and the events then unacknowledged."""


class Worker(threading.Thread):
    """A client in a thread of its own that goes through any number of connections; `join_soundly` raises what it raised."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.address = address
        self.failure: BaseException | None = None
        self.endings: list[Ending] = []
        self.wires: list[Wire] = []
        self._finishing = threading.Event()
        self._gave_up = threading.Event()

    def finish(self) -> None:
        """Send nothing new; have what was sent acknowledged, and end."""
        self._finishing.set()

    def give_up(self) -> None:
        """End at the next loss of the connection."""
        self._gave_up.set()

    def join_soundly(self, seconds: float = SECONDS) -> None:
        self.join(seconds)
        assert not self.is_alive(), f"{self.name} has not ended within {seconds:g} s"
        self.reraise()

    def reraise(self) -> None:
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        try:
            while not self._one_connection():
                pass
        except BaseException as failure:  # whatever it is, the test's own thread raises it
            self.failure = failure

    def _one_connection(self) -> bool:
        """Connect and go on; True when there is nothing left to do."""
        wire = self._connected()
        if wire is None:
            return True
        try:
            self.converse(wire)
            return True
        except ConnectionClosed as closed:
            self.endings.append((closed.rcvd.code if closed.rcvd else None, self.unanswered))
            return False
        finally:
            wire.close()

    def _connected(self) -> Wire | None:
        def look() -> Wire | bool:
            try:
                return self._gave_up.is_set() or Wire(self.address, open_timeout=5)
            except (OSError, EOFError, WebSocketException):  # nobody listens yet, or not to the end
                return False

        found = wait_until(look, f"{self.name} finds the server again")
        return found if isinstance(found, Wire) else None

    @property
    def unanswered(self) -> int:
        raise NotImplementedError

    def converse(self, wire: Wire) -> None:
        raise NotImplementedError


class StreamWorker(Worker):
    """A stream that always has 64 events in flight, and its ledger.

    A `distrustful` one sends everything again that it wasn't itself told of as acknowledged, whatever `welcome` says.
    """

    def __init__(
        self, address: str, stream_id: str, run_id: str, *, distrustful: bool = False, bytes_each: int = 40
    ) -> None:
        super().__init__(address, stream_id)
        self.ledger = StreamLedger(stream_id, run_id)
        self.status: Any = None
        self._distrustful = distrustful
        self._padding = "x" * bytes_each
        self._greeted = False

    @property
    def unanswered(self) -> int:
        return len(self.ledger.sent) - self.ledger.acked

    def converse(self, wire: Wire) -> None:
        ledger, again = self.ledger, self._greeted
        self._greeted = True
        told = wire.ask("hello", {"streamId": ledger.stream_id, "resume": again})["ackedSeq"]
        assert told >= ledger.acked, (
            f"stream `{ledger.stream_id}`: seq {ledger.acked} was acknowledged, and the server has only {told}"
        )
        assert told <= len(ledger.sent), f"the server has seq {told}, and {len(ledger.sent)} were sent"
        if told == 0:
            wire.ask("startTestRun", {"runId": ledger.run_id}, meanwhile=self._hear)
        if not self._distrustful:
            ledger.acked = told  # `welcome` is an acknowledgement too
        self._send(wire, range(ledger.acked + 1, len(ledger.sent) + 1))
        while not self._finishing.is_set() or self.unanswered:
            if not self._finishing.is_set():
                last = len(ledger.sent)
                self._send(wire, range(last + 1, ledger.acked + IN_FLIGHT + 1))
            self._hear(wire.receive())
        self._end(wire)

    def _end(self, wire: Wire) -> None:
        ledger = self.ledger
        request = {"lastSeq": len(ledger.sent), "digest": ledger.digest}
        ledger.receipt = wire.ask("streamEnd", request, meanwhile=self._hear)
        self.status = wire.ask("endTestRun", {"runId": ledger.run_id}, meanwhile=self._hear)

    def _send(self, wire: Wire, seqs: range) -> None:
        """One event a message and eight a message in turns."""
        events = [self._event(seq) for seq in seqs]
        while events:
            count = 1 if events[0]["seq"] % 3 else 8
            now, events = events[:count], events[count:]
            # In the ledger before it is on the wire: what the server has of it can't be told from here.
            self.ledger.sent.update((one["seq"], one["id"]) for one in now)
            if count == 1:
                wire.send("event", now[0])
            else:
                wire.send("events", {"events": now})

    def _event(self, seq: int) -> dict[str, Any]:
        """Tests start, print and end; one event in forty is refused for good."""
        name = f"{self.name}-{seq}"
        kinds = ("test/start", "test/output", "test/end")
        payload = {"testId": f"{self.name}-test-{(seq + 2) // 3}", "status": "passed", "text": self._padding}
        if seq % 40 == 0:
            payload = {"testId": 7}
        return {"id": name, "type": kinds[(seq - 1) % 3], "timestamp": seq, "seq": seq, "payload": payload}

    def _hear(self, message: Mapping[str, Any]) -> None:
        payload = message["payload"]
        if message["type"] == "ack":
            assert self.ledger.acked <= payload["seq"] <= len(self.ledger.sent), "acknowledgements go forward only"
            self.ledger.acked = payload["seq"]
        else:
            assert (message["type"], payload["code"]) == ("error", "invalid_event"), message
            assert payload["seq"] % 40 == 0, message


class PlainWorker(Worker):
    """A plain client that asks after each burst, and sends everything again that it has no answer for, and a bit more."""

    def __init__(self, address: str, run_id: str) -> None:
        super().__init__(address, run_id)
        self.ledger = PlainLedger(run_id)
        self.status: Any = None

    @property
    def unanswered(self) -> int:
        return len(self.ledger.sent) - len(self.ledger.acked)

    def converse(self, wire: Wire) -> None:
        ledger = self.ledger
        wire.ask("startTestRun", {"runId": ledger.run_id})
        again = max(0, len(ledger.acked) - 10)
        while not self._finishing.is_set() or again < len(ledger.sent):
            new = [] if self._finishing.is_set() else range(len(ledger.sent), len(ledger.acked) + IN_FLIGHT)
            ledger.sent += [f"{ledger.run_id}-{number}" for number in new]
            for event_id in ledger.sent[again:]:
                wire.send("event", {"id": event_id, "type": "test/end", "timestamp": 1, "payload": {
                    "testId": event_id, "status": "passed"
                }})  # fmt: skip
            counts = wire.ask("getRunStatus", {"runId": ledger.run_id})["counts"]
            assert counts["passed"] == len(ledger.sent), "what was sent is there when a request is answered"
            ledger.acked.update(ledger.sent)
            again = len(ledger.sent)
        self.status = wire.ask("endTestRun", {"runId": ledger.run_id, "force": True})


@dataclass(slots=True)
class Crowd:
    """Four streams in three runs, two of them distrustful, and a plain client."""

    address: str
    streams: list[StreamWorker] = field(init=False)
    plain: PlainWorker = field(init=False)

    def __post_init__(self) -> None:
        runs = ("shared", "shared", "second", "third")
        self.streams = [
            StreamWorker(self.address, f"s{number}", run_id, distrustful=number % 2 == 0)
            for number, run_id in enumerate(runs)
        ]
        self.plain = PlainWorker(self.address, "plain")

    @property
    def workers(self) -> list[Worker]:
        return [*self.streams, self.plain]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within the block they work; what fails in one of them is raised here, and none outlives it."""
        for one in self.workers:
            one.start()
        try:
            yield
        finally:
            for one in self.workers:
                one.give_up()
                one.finish()

    def wait_for_load(self, *, more: int) -> None:
        """Until every stream has so many more acknowledged events, and 64 in flight at the same moment."""
        goals = [one.ledger.acked + more for one in self.streams]

        def is_reached() -> bool:
            for one in self.workers:
                one.reraise()
            return all(
                one.ledger.acked >= goal and one.unanswered >= IN_FLIGHT
                for one, goal in zip(self.streams, goals, strict=True)
            )

        wait_until(is_reached, f"every stream has {more} more acknowledged and {IN_FLIGHT} in flight")

    def finish(self) -> None:
        for one in self.workers:
            one.finish()
        for one in self.workers:
            one.join_soundly()

    def check(self, database: Path) -> None:
        """The whole oracle, on a database that nobody has open."""
        log = oracle.stored_log(database)
        violations = oracle.database_violations(database)
        for one in self.streams:
            violations += oracle.stream_violations(one.ledger, log) + oracle.receipt_violations(one.ledger, log)
        violations += oracle.plain_violations(self.plain.ledger, log)
        assert not violations, "\n".join(violations)
        verified = run_testorch("verify", "--db", str(database))
        assert verified.returncode == 0, verified.stdout + verified.stderr

    def check_statuses(self, address: str) -> None:
        """What the server itself says at the end: every run whole."""
        with PlainClient(address) as client:
            for run_id in ("shared", "second", "third"):
                status = client.ask("getRunStatus", {"runId": run_id})
                assert (status["status"] != "running", status["complete"]) == (True, True), status
