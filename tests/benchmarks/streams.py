"""One stream of a load: sends its script as fast as its window lets it, and hears acknowledgements."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.client import RECEIVE_BYTES, Client
from benchmarks.failures import FailedRunError, require_equal
from benchmarks.frames import PING, PONG, TEXT, client_frame
from benchmarks.scripts import Script

SEND_BYTES = 512 * 1024
BEAT_SECONDS = 1.0
"""After that much silence a stream shows that it lives; servers give up one that is silent for a few seconds."""

_HEARTBEAT = client_frame(b'{"type":"heartbeat","payload":{}}')
_ACKED = re.compile(rb'"seq": ?(\d+)')


class Stream:
    """A connection that has said hello and started its run."""

    def __init__(self, address: tuple[str, int], script: Script, *, window: int, run_id: str | None = None) -> None:
        self.script = script
        self.client = Client(address)
        self.socket = self.client.socket
        self.id = f"stream-{secrets.token_hex(8)}"
        welcome = self.client.ask("hello", {"streamId": self.id, "client": {"name": "benchmarks", "version": "1"}})
        require_equal("welcome.streamId", welcome["streamId"], self.id)
        require_equal("welcome.ackedSeq of a new stream", welcome["ackedSeq"], 0)
        require_equal("welcome.durability", welcome["durability"], "power")
        self.window = min(window, welcome["maxInFlight"])
        run = {"name": "benchmark"} | ({"runId": run_id} if run_id else {})
        self.run_id = self.client.ask("startTestRun", run)["runId"]
        self.acked = 0
        self.position = 0
        self._view = memoryview(script.frames)
        self._last = len(script.ends)
        self._allowed = 0
        self._spoke = now()
        self.socket.setblocking(False)

    @property
    def sent(self) -> int:
        """Events that have been sent, those of a message that is under way included."""
        return self.script.events_in(self.script.messages_within(self.position))

    @property
    def is_done(self) -> bool:
        """Whether all that was to be sent is sent and acknowledged."""
        return self.acked >= self.script.events_in(self._last)

    def stop(self) -> None:
        """Send no further message than the one that is under way."""
        self._last = self.script.messages_within(self.position)
        self._allowed = self.script.ends[self._last - 1] if self._last else 0

    def send(self) -> bool:
        """Send what the window allows; False when the socket takes no more."""
        try:
            while self.position < self._allowed:
                end = min(self._allowed, self.position + SEND_BYTES)
                self.position += self.socket.send(self._view[self.position : end])
                self._spoke = now()
        except BlockingIOError:
            return False
        return True

    def beat(self) -> None:
        """Say something if nothing has been said for a while, and no message is half sent."""
        if self.position == self._allowed and now() > self._spoke + BEAT_SECONDS:
            self.socket.sendall(_HEARTBEAT)
            self._spoke = now()

    def hear(self) -> None:
        """Take in what has arrived. Raises `FailedRunError` for anything but acknowledgements."""
        received = self.socket.recv(RECEIVE_BYTES)
        if not received:
            raise FailedRunError(f"the server closed the connection of {self.id} after seq {self.acked}")
        for opcode, payload in self.client.reader.feed(received):
            if opcode == TEXT and b'"ack"' in payload:
                self._take_ack(payload)
            elif opcode == PING:
                self.socket.send(client_frame(payload, PONG))
            else:
                raise FailedRunError(f"{self.id} heard {payload[:500]!r}")

    def _take_ack(self, payload: bytes) -> None:
        found = _ACKED.search(payload)
        if found is None:
            raise FailedRunError(f"an acknowledgement without `seq`: {payload!r}")
        self.acked = int(found[1])

    def fill_window(self) -> None:
        """Allow as many messages as the window has room for."""
        self.allow(min((self.acked + self.window) // self.script.batch, self._last))

    def allow(self, messages: int) -> None:
        """Allow messages to be sent, counted from the script's first."""
        self._allowed = max(self._allowed, self.script.ends[messages - 1])

    def finish(self) -> dict[str, Any]:
        """End the stream, compare the receipt and the run's counts with what was sent; returns the run's status."""
        self.socket.setblocking(True)
        require_equal(f"acknowledged of {self.id}", self.acked, self.sent)
        digest = self.script.digest(self.sent)
        found = self.client.ask("streamEnd", {"lastSeq": self.sent, "digest": digest})
        receipt = {"streamId": self.id, "lastSeq": self.sent, "accepted": self.sent, "refused": 0, "duplicates": 0}
        receipt |= {"digest": digest, "complete": True}
        require_equal("the receipt", {key: found.get(key) for key in receipt}, receipt)
        status: dict[str, Any] = self.client.ask("getRunStatus", {"runId": self.run_id})
        return status

    def check_counts(self, status: dict[str, Any]) -> None:
        """Raises `FailedRunError` unless the run, which has ended and was this stream's alone, has what was sent."""
        counts = {bucket: count for bucket, count in status["counts"].items() if count}
        require_equal(f"the counts of run {self.run_id}", counts, self.script.counts(self.sent))
        require_equal(f"`complete` of run {self.run_id}", status["complete"], True)
        require_equal(f"whether run {self.run_id} has ended", status["status"] in ("passed", "failed"), True)

    def close(self) -> None:
        self.client.close()


def close_all(streams: Sequence[Stream]) -> None:
    for stream in streams:
        stream.close()


def now() -> float:
    """Seconds of the clock that all processes of the machine share."""
    return time.monotonic()
