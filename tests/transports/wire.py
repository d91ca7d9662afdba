"""RFC 6455 by hand: what a client may write, and much that it may not."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import trio

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def upgrade(path: str = "/", **headers: str | None) -> bytes:
    """A sound request, with headers replaced, added or (None) taken out; `_` in a name stands for `-`."""
    wanted: dict[str, str | None] = {
        "Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }  # fmt: skip
    for name, value in headers.items():
        wanted[name.replace("_", "-")] = value
    lines = "".join(f"{name}: {value}\r\n" for name, value in wanted.items() if value is not None)
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def frame(payload: bytes, opcode: int = TEXT, *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    flag = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((first, flag | size))
    elif size < 1 << 16:
        head = bytes((first, flag | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, flag | 127)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


def message(kind: str, payload: Any = None) -> bytes:
    return frame(json.dumps({"type": kind, "payload": payload}).encode())


class Frame(NamedTuple):
    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        return int.from_bytes(self.payload[:2], "big")


class Wire:
    """The client's end of a stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def head(self) -> tuple[int, str]:
        """(status, head) of the server's HTTP response."""
        while b"\r\n\r\n" not in self._received:
            data = await self.stream.receive_some()
            assert data, f"the server ended the connection after {self._received!r}"
            self._received += data
        head, self._received = self._received.split(b"\r\n\r\n", 1)
        return int(head.split()[1]), head.decode()

    async def upgraded(self, **headers: str | None) -> Wire:
        await self.send(upgrade(**headers))
        status, head = await self.head()
        assert status == 101, head
        return self

    async def frame(self) -> Frame | None:
        """The server's next frame, or None when it has ended the connection."""
        while True:
            found = _parsed(self._received)
            if found is not None:
                self._received = self._received[found[1] :]
                return found[0]
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._received += data

    async def answer(self) -> Any:
        """The next message of the server, decoded; other frames are passed over."""
        while True:
            found = await self.frame()
            assert found is not None, "the server ended the connection"
            assert found.opcode != CLOSE, f"closed with {found.code}: {found.payload[2:]!r}"
            if found.opcode == TEXT:
                return json.loads(found.payload)

    async def close_code(self) -> int | None:
        """The code of the server's Close, whatever else it sends before; None when it ends without."""
        while (found := await self.frame()) is not None:
            if found.opcode == CLOSE:
                return found.code
        return None

    async def ended(self) -> bool:
        """Wait until the server ends the connection."""
        while await self.frame() is not None:
            pass
        return True


def _parsed(data: bytes) -> tuple[Frame, int] | None:
    if len(data) < 2:
        return None
    size, start = data[1] & 0x7F, 2
    if size >= 126:
        start = 4 if size == 126 else 10
        if len(data) < start:
            return None
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start + size:
        return None
    return Frame(data[0] & 0x0F, data[start : start + size]), start + size
