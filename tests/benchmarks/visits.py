"""A stream that returns: who it is, and one of its connections on a non-blocking socket, from connecting to the answers."""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from benchmarks.client import RECEIVE_BYTES
from benchmarks.failures import FailedRunError, require_equal
from benchmarks.frames import CLOSE, PING, PONG, FrameReader, client_frame
from benchmarks.scripts import START_OF_TIME_MS

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_WORDS_SHOWN = 200


class TurnedAwayError(Exception):
    """A try that came to nothing; another one may succeed."""


class Member:
    """One stream. With a run it sends one event there; each time it comes back, the server must know of that event."""

    def __init__(self, number: int, run_id: str | None) -> None:
        self.stream_id = f"herd-{number}-{secrets.token_hex(8)}"
        self.run_id = run_id
        self.tries = 0
        """Connections that were tried for the present visit."""
        self._is_known = False

    def words(self) -> list[bytes]:
        """The frames to send on a new connection, each after the answer to the one before."""
        hello: dict[str, Any] = {"streamId": self.stream_id, "client": {"name": "benchmarks", "version": "1"}}
        # A try that failed may have got as far as a welcome: only a first try can be sure that nobody knows the stream.
        if self._is_known or self.tries > 1:
            hello["resume"] = True
        said = [_frame("hello", hello, id=1)]
        if self.run_id is not None and not self._is_known:
            said.append(_frame("startTestRun", {"runId": self.run_id, "name": "herd"}, id=2))
            event = {"id": f"{self.stream_id}-1", "type": "test/start", "timestamp": START_OF_TIME_MS, "seq": 1}
            said.append(_frame("event", event | {"payload": {"testId": self.stream_id, "testName": "test_herd"}}))
        return said

    def check(self, answers: Sequence[dict[str, Any]]) -> None:
        """Raises `FailedRunError` unless the server has said what it had to."""
        welcome = answers[0]["payload"]
        require_equal("welcome.streamId", welcome.get("streamId"), self.stream_id)
        if self._is_known or self.tries == 1:
            sent = int(self._is_known and self.run_id is not None)
            expected = {"ackedSeq": sent, "runId": self.run_id if sent else None}
            found = {key: welcome.get(key) for key in expected}
            require_equal(f"welcome of {self.stream_id} at try {self.tries}", found, expected)
        if len(answers) > 1:
            require_equal(f"the acknowledgement of {self.stream_id}", answers[-1]["payload"].get("seq"), 1)
        self._is_known = True


class Visit:
    """One connection. `go_on` is called whenever its socket is ready: first to write, and from then on to read."""

    def __init__(self, address: tuple[str, int], words: Sequence[bytes]) -> None:
        self.answers: list[dict[str, Any]] = []
        self.is_connected = False
        self._to_say = deque(words)
        self._expected = len(words)
        self._head: bytes | None = b""
        self._reader = FrameReader()
        self._host = f"{address[0]}:{address[1]}"
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        outcome = self.socket.connect_ex(address)
        if outcome not in (0, errno.EINPROGRESS):
            self.socket.close()
            raise TurnedAwayError(os.strerror(outcome))

    @property
    def is_done(self) -> bool:
        """Whether everything has been said and answered."""
        return len(self.answers) == self._expected

    def go_on(self) -> None:
        """Raises `TurnedAwayError` when the connection has come to its end, `FailedRunError` for a wrong answer."""
        try:
            if not self.is_connected:
                self._upgrade()
                return
            received = self.socket.recv(RECEIVE_BYTES)
        except OSError as failure:
            raise TurnedAwayError(str(failure)) from None
        if not received:
            raise TurnedAwayError("the server closed the connection")
        if self._head is not None:
            received = self._take_head(received)
        for opcode, payload in self._reader.feed(received):
            self._take(opcode, payload)

    def shut(self) -> None:
        """Send FIN, whatever is unread."""
        with suppress(OSError):  # it has gone already
            self.socket.shutdown(socket.SHUT_RDWR)

    def _upgrade(self) -> None:
        outcome = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if outcome:
            raise TurnedAwayError(os.strerror(outcome))
        self.is_connected = True
        head = f"GET / HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.socket.send(f"{head}Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())

    def _take_head(self, received: bytes) -> bytes:
        """Returns what came after the answer to the upgrade."""
        head, end, rest = ((self._head or b"") + received).partition(b"\r\n\r\n")
        if not end:
            self._head = head
            return b""
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise TurnedAwayError(f"no upgrade: {head[:_WORDS_SHOWN]!r}")
        self._head = None
        self._say_next()
        return rest

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._send(client_frame(payload, PONG))
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big")
            raise TurnedAwayError(f"the server closed with {code}: {payload[2:]!r}")
        else:
            answer = json.loads(payload)
            if self.is_done or answer["type"] == "error":
                raise FailedRunError(f"a stream of the herd heard {payload[:_WORDS_SHOWN]!r}")
            self.answers.append(answer)
            self._say_next()

    def _say_next(self) -> None:
        if self._to_say:
            self._send(self._to_say.popleft())

    def _send(self, frame: bytes) -> None:
        try:
            self.socket.send(frame)
        except OSError as failure:
            raise TurnedAwayError(str(failure)) from None


def _frame(kind: str, payload: dict[str, Any], **top: Any) -> bytes:
    return client_frame(json.dumps({"type": kind, "payload": payload, **top}).encode())
