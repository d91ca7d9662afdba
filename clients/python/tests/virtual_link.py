"""Conversations without sockets and threads: a link into a `StreamServer`, and a time that passes by waiting."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fake_streams import Message, Peer, StreamServer

from testorch_client.delivery import Delivery
from testorch_client.errors import Closed
from testorch_client.ledger import Ledger, RunRequest
from testorch_client.link import Link
from testorch_client.outbox import Emitted, Outbox, characters_in
from testorch_client.receipt import Receipt
from testorch_client.sender import Sender
from testorch_client.stream import Stream

BEGINNING = 1000.0
# A client that goes on for longer than that, or says more, does so for ever.
END_OF_TIME = BEGINNING + 3600.0
MAX_MESSAGES = 20_000


class Time:
    """Seconds that pass when somebody waits. `at` has something happen at a time, in the order of the times."""

    def __init__(self) -> None:
        self.now = BEGINNING
        self._plans: list[tuple[float, Callable[[], None]]] = []

    def __call__(self) -> float:
        return self.now

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something so many seconds from now."""
        self._plans.append((self.now + seconds, action))

    def wait(self, seconds: float, *, until: Callable[[], object] = lambda: False) -> None:
        """Let time pass, at most so much, and no more once `until` says so."""
        end = self.now + seconds
        assert end < END_OF_TIME, "nothing ends this"
        while not until():
            due = min((plan for plan in self._plans if plan[0] <= end), key=lambda plan: plan[0], default=None)
            if due is None:
                self.now = end
                return
            self._plans.remove(due)
            self.now = max(self.now, due[0])
            due[1]()


class Flag:
    """Stands for a `threading.Event`, so that waiting for it passes virtual time."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float) -> bool:
        self._time.wait(timeout, until=self.is_set)
        return self._is_set


class VirtualLink:
    """Both ends of a connection: a `Link` to the client, a `Wire` to the server."""

    def __init__(self, server: StreamServer, time: Time) -> None:
        self._time = time
        self._inbox: deque[str] = deque()
        self._code: int | None = None
        self._server = server
        self._peer: Peer = server.connect(_End(self))

    def send(self, text: str) -> None:
        if self._code is not None:
            raise Closed(self._code)
        assert len(self._server.messages) < MAX_MESSAGES, "nothing ends this"
        self._server.receive(self._peer, json.loads(text))

    def receive(self, timeout_seconds: float) -> str | None:
        self._time.wait(timeout_seconds, until=lambda: self._inbox or self._code is not None)
        if self._inbox:
            return self._inbox.popleft()
        if self._code is not None:
            raise Closed(self._code)
        return None

    def abort(self) -> None:
        self.end(1006)

    def deliver(self, message: Message) -> None:
        if self._code is None:
            self._inbox.append(json.dumps(message))

    def end(self, code: int) -> None:
        """What was sent before can still be read, unless the connection is dropped."""
        if self._code is None:
            self._code = code
            if code == 1006:
                self._inbox.clear()
            self._server.disconnected(self._peer)


class _End:
    def __init__(self, link: VirtualLink) -> None:
        self.send = link.deliver
        self.close = link.end

    def drop(self) -> None:
        self.close(1006)


class Delivering:
    """A client's sender, its ledger and its outbox, run in the test's own thread against a `StreamServer`."""

    def __init__(self, server: StreamServer, *, max_events: int = 100_000, max_characters: int = 2**26) -> None:
        self.server = server
        self.time = Time()
        self.outbox = Outbox(max_events=max_events, max_characters=max_characters)
        self.stream = Stream("me")
        self.ledger = Ledger(RunRequest(run_id="run-1"), self.outbox, self.stream)
        self._emitted = 0
        self._sender = Sender(self.ledger, self._connect, monotonic=self.time, random=lambda: 1.0)
        self._sender._idle = Flag(self.time)  # type: ignore[assignment]
        self._sender._abandoned = Flag(self.time)  # type: ignore[assignment]

    def emit(self, count: int = 1, kind: str = "test/start", **payload: Any) -> None:
        for _ in range(count):
            self._emitted += 1
            payload = {"testId": f"t{self._emitted}", **payload}
            self.outbox.put(Emitted(kind, payload, 1_766_000_000_000, characters_in(payload)))

    def finish(self, *, ending: bool = True) -> None:
        """What `Client.end_run` and `Client.close` do."""
        self.outbox.close()
        self.ledger.is_ending = ending
        self.ledger.is_closing = True
        self._sender.hurry()

    def abandon(self) -> None:
        self._sender.abandon()

    def run(self) -> Delivery:
        """Deliver until the sender is done, however long that takes in virtual time."""
        self._sender._run()
        return self.ledger.delivery(self.ledger.error or self.stream.contradiction)

    def deliver(self, count: int) -> Delivery:
        """Emit, finish and run."""
        self.emit(count)
        self.finish()
        return self.run()

    @contextmanager
    def _connect(self, open_timeout_seconds: float) -> Iterator[Link]:
        link = VirtualLink(self.server, self.time)
        try:
            yield link
        finally:
            link.end(1000)


def digest_of(count: int) -> str:
    """The digest of a stream of `Delivering`."""
    return hashlib.sha256("".join(f"{seq}:me-{seq}\n" for seq in range(1, count + 1)).encode()).hexdigest()


def receipt_of(count: int, *, refused: int = 0, duplicates: int = 0) -> Receipt:
    return Receipt(
        last_seq=count,
        accepted=count - refused,
        refused=refused,
        duplicates=duplicates,
        digest=digest_of(count),
        is_complete=True,
    )
