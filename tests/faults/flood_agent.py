"""A client that sends as much as it can, in a process of its own: `python -m faults.flood_agent ORDER`, the order as JSON.

It has some connections of one principal, each with a stream. It answers each line of standard input with one line of
standard output: what its connections have come to. A line that is `stop` is the last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from faults.stream_clients import Wire
from websockets.exceptions import ConnectionClosed

NICE: Final = 10
ANSWER_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 0.02
"""How long one waits for an answer that may not send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to do: how many connections, how large their messages are, and how much may be on its way at once."""

    address: str
    principal: str
    connections: int
    events_each: int
    window_events: int = 10_000
    heeds: bool = True
    """Whether it waits as long as it is told when it is refused."""


@dataclass(slots=True)
class Count:
    """What came of one connection. `sent` is the last seq that went out."""

    name: str
    sent: int = 0
    acked: int = 0
    refusals: int = 0
    closed: int | None = None


def event_id(name: str, seq: int) -> str:
    return f"{name}-{seq}"


class Flood(threading.Thread):
    """One connection of the agent."""

    def __init__(self, order: Order, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.count = Count(name)
        self.stopped = False
        self._order = order
        self._next = 1
        self._hold_until = 0.0
        headers = {"Authorization": f"Bearer {order.principal}"}
        self._wire = Wire(order.address, additional_headers=headers)
        self._wire.ask("hello", {"streamId": name, "runId": name})

    def run(self) -> None:
        try:
            while not self.stopped:
                may_send = self._next - self.count.acked <= self._order.window_events
                if may_send and time.monotonic() >= self._hold_until:
                    self._send()
                    self._hear(0.0)
                else:
                    self._hear(IDLE_SECONDS)
        except ConnectionClosed as closed:
            self.count.closed = closed.rcvd.code if closed.rcvd else 1006

    def _send(self) -> None:
        first, name = self._next, self.name
        self._next = first + self._order.events_each
        self.count.sent = max(self.count.sent, self._next - 1)
        events = ",".join(
            f'{{"id":"{event_id(name, seq)}","type":"test/output","timestamp":1,"seq":{seq},'
            f'"payload":{{"testId":"t","text":"a line of output, as tests print them"}}}}'
            for seq in range(first, self._next)
        )
        self._wire.socket.send(f'{{"type":"events","payload":{{"events":[{events}]}}}}')

    def _hear(self, timeout: float) -> None:
        """Take in what has come. Waits for the first message only."""
        while True:
            try:
                message = self._wire.receive(timeout)
            except TimeoutError:
                return
            timeout = 0.0
            payload = message["payload"]
            if message["type"] == "ack":
                self.count.acked = payload["seq"]
            elif payload.get("retryAfterMs") is not None:
                self.count.refusals += payload["code"] == "rate_limited"
                self._next = payload["seq"]
                if self._order.heeds:
                    self._hold_until = time.monotonic() + payload["retryAfterMs"] / 1000
            elif payload["code"] == "gap":
                self._next = self.count.acked + 1
            else:
                raise AssertionError(message)


class Agent:
    """The process, as a test has it."""

    def __init__(self, order: Order) -> None:
        command = [sys.executable, "-m", "faults.flood_agent", json.dumps(asdict(order))]
        folder = Path(__file__).parent.parent
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, words: str = "count") -> list[Count]:
        """What its connections have come to by now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{words}\n")
        line = self._process.stdout.readline()
        assert line, "the flood has ended by itself"
        return [Count(**one) for one in json.loads(line)]


def main(given: Mapping[str, Any]) -> None:
    os.nice(NICE)
    order = Order(**given)
    floods = [Flood(order, f"flood-{number}") for number in range(order.connections)]
    for one in floods:
        one.start()
    for line in sys.stdin:
        if line.strip() == "stop":
            for one in floods:
                one.stopped = True
            for one in floods:
                one.join(ANSWER_SECONDS)
        print(json.dumps([asdict(one.count) for one in floods]), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
