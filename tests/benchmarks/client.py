"""A blocking client for everything that isn't measured, and for single requests that are."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from benchmarks.failures import FailedRunError, NotSupportedError
from benchmarks.frames import CLOSE, PING, PONG, TEXT, FrameReader, client_frame

RECEIVE_BYTES = 256 * 1024
PATIENCE_SECONDS = 60.0


class Client:
    """One WebSocket connection. `socket` and `reader` are public: load generators take over after the greetings."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = FrameReader()
        self._heard: deque[bytes] = deque()
        self._requests = 0
        self._upgrade(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def _upgrade(self, address: tuple[str, int]) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET / HTTP/1.1",
            f"Host: {address[0]}:{address[1]}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            received = self.socket.recv(RECEIVE_BYTES)
            if not received:
                raise FailedRunError("the server closed the connection during the upgrade")
            answer += received
        head, _, rest = answer.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise FailedRunError(f"no upgrade: {head[:200]!r}")
        self._take(rest)

    def send(self, kind: str, payload: Any = None, **top: Any) -> None:
        """Send a message for which no answer is awaited."""
        self.socket.sendall(client_frame(json.dumps({"type": kind, "payload": payload, **top}).encode()))

    def ask(self, kind: str, payload: Any = None) -> Any:
        """The payload of a request's answer; what comes in between is passed over.

        Raises `NotSupportedError` where the server doesn't know the message, `FailedRunError` for any other error.
        """
        self._requests += 1
        self.send(kind, payload, id=self._requests)
        while True:
            message = json.loads(self.receive())
            if message.get("inReplyTo") == self._requests:
                break
            if message["type"] == "error":
                raise FailedRunError(f"after `{kind}`: {message['payload']}")
        if message["type"] != "error":
            return message["payload"]
        if message["payload"]["code"] == "unknown_type":
            raise NotSupportedError(f"the server doesn't know `{kind}` yet")
        raise FailedRunError(f"`{kind}` was refused: {message['payload']}")

    def receive(self) -> bytes:
        """The next text message."""
        while not self._heard:
            received = self.socket.recv(RECEIVE_BYTES)
            if not received:
                raise FailedRunError("the server closed the connection")
            self._take(received)
        return self._heard.popleft()

    def _take(self, received: bytes) -> None:
        for opcode, payload in self.reader.feed(received):
            if opcode == TEXT:
                self._heard.append(payload)
            elif opcode == PING:
                self.socket.sendall(client_frame(payload, PONG))
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
                raise FailedRunError(f"the server closed the connection with {code}: {payload[2:]!r}")

    def close(self) -> None:
        """Say goodbye and hang up, without waiting for the answer."""
        with suppress(OSError):  # it may have gone already
            self.socket.sendall(client_frame((1000).to_bytes(2, "big"), CLOSE))
        self.socket.close()
