"""WebSocket frames, as far as the load generator needs them: text and control frames, never fragmented."""

from __future__ import annotations

import struct

TEXT = 0x1
CLOSE = 0x8
PING = 0x9
PONG = 0xA

_FINAL = 0x80
_MASKED = 0x80
KEY = b"ZZZZ"
"""A client must mask its frames. One letter four times makes it one `translate`; a key of zeros, which would leave the
payload as it is, would spare those servers the work that look for it (ws does)."""

_MASK = bytes(byte ^ KEY[0] for byte in range(256))


def masked(payload: bytes) -> bytes:
    """A payload under the key, and the other way round."""
    return payload.translate(_MASK)


def client_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A whole frame from a client, masked."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", _FINAL | opcode, _MASKED | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", _FINAL | opcode, _MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", _FINAL | opcode, _MASKED | 127, size)
    return head + KEY + masked(payload)


class FrameReader:
    """Takes whole frames out of the bytes that a server sends."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[tuple[int, bytes]]:
        """(opcode, payload) of every frame that is whole now. Raises ValueError for fragments and masked frames."""
        buffer = self._rest + received if self._rest else received
        frames: list[tuple[int, bytes]] = []
        at = 0
        while (found := _frame_at(buffer, at)) is not None:
            opcode, start, end = found
            if end > len(buffer):
                break
            at = end
            frames.append((opcode, buffer[start:end]))
        self._rest = buffer[at:]
        return frames


def _frame_at(buffer: bytes, at: int) -> tuple[int, int, int] | None:
    """(opcode, start, end) of the payload of the frame at a place; None when not even its head is whole."""
    if len(buffer) < at + 2:
        return None
    first, size = buffer[at], buffer[at + 1]
    if not first & _FINAL or first & 0x0F == 0:
        raise ValueError("the server sent a fragment")
    if size & _MASKED:
        raise ValueError("the server masked a frame")
    start = at + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        if len(buffer) < start + width:
            return None
        size = int.from_bytes(buffer[start : start + width], "big")
        start += width
    return first & 0x0F, start, start + size
