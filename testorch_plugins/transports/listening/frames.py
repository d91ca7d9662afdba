"""WebSocket frames seen from outside a library: where they begin, whether they may pass, and what the messages weigh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

PROTOCOL_ERROR: Final = 1002
NOT_TEXT: Final = 1003
NOT_UTF8: Final = 1007
TOO_BIG: Final = 1009
OVERLOADED: Final = 1013
TOO_SLOW_TO_READ: Final = 4008
TOO_SLOW: Final = 4408
TOO_MANY: Final = 4429

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_KNOWN: Final = frozenset({_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG})
_MAX_CONTROL_BYTES: Final = 125
_MASK_BYTES: Final = 4

_WHOLE_TEXT: Final = _FIN | _TEXT
_LEAST_HEADER: Final = 2 + _MASK_BYTES

CLOSE_FRAME: Final = _FIN | _CLOSE
"""The first byte of a Close frame."""


class Violation(NamedTuple):
    """Why a connection is closed: a WebSocket close code, and words of at most 123 bytes."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What one connection may send: bytes and frames of one message, and control frames in one second."""

    message_bytes: int
    fragments: int
    control_frames: int


class FrameMeter:
    """Follows the frames in a client's bytes (RFC 6455, section 5.2) without looking into them.

    What a library would have to buffer before it notices is refused by its header alone.
    """

    __slots__ = (
        "_control_frames", "_fragments", "_head", "_in_message", "_left", "_limits", "_message_bytes", "_second",
        "_started", "begun", "close_seen", "violation",
    )  # fmt: skip

    def __init__(self, limits: FrameLimits) -> None:
        self.violation: Violation | None = None
        self.close_seen = False
        """Whether the client has begun a Close frame."""
        self.begun = 0
        """How many messages have begun."""
        self._limits = limits
        self._head = b""
        self._left = 0
        self._started = False
        self._in_message = False
        self._message_bytes = 0
        self._fragments = 0
        self._control_frames = 0
        self._second = 0.0

    @property
    def partial_bytes(self) -> int:
        """Bytes of a message that has begun and not ended, at least 1; 0 between messages."""
        if self._started or self._in_message or self._head:
            return max(1, self._message_bytes - self._left)
        return 0

    def feed(self, data: bytes | bytearray, now: float) -> int:
        """Follow some bytes; returns how many of them may be passed on. Fewer than all means that `violation` is set.

        `now` is a monotonic time in seconds.
        """
        held = len(self._head)
        if held:
            data, self._head = self._head + data, b""
        position, end = 0, len(data)
        while position < end or (self._started and not self._left):
            if self._started:
                taken = min(self._left, end - position)
                self._left -= taken
                position += taken
                if self._left:
                    break
                self._end()
                continue
            if not self._in_message:
                whole = _end_of_whole_message(data, position, end, self._limits.message_bytes)
                if whole:
                    self.begun += 1
                    position = whole
                    continue
            size, length = _header(data, position, end)
            if end - position >= 2:
                self.violation = self._objection(data[position], data[position + 1], length, now)
                if self.violation is not None:
                    return max(0, position - held)
            if length is None:
                self._head = bytes(data[position:])
                break
            self._begin(data[position], length)
            position += size
        return end - held

    def _objection(self, first: int, second: int, length: int | None, now: float) -> Violation | None:
        """What speaks against a frame, as far as its header is known."""
        opcode = first & 0x0F
        if first & _RESERVED:
            return Violation(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode not in _KNOWN:
            return Violation(PROTOCOL_ERROR, f"the opcode {opcode} is reserved")
        if not second & _MASKED:
            return Violation(PROTOCOL_ERROR, "a frame of a client must be masked")
        if opcode >= _CLOSE:
            return self._objection_to_control(first, second, length, now)
        if (opcode == _CONTINUATION) is not self._in_message:
            return Violation(PROTOCOL_ERROR, "the fragments of a message are out of order")
        if length is None:
            return None
        if self._message_bytes + length > self._limits.message_bytes:
            return Violation(TOO_BIG, f"a message may have {self._limits.message_bytes} bytes")
        if self._fragments >= self._limits.fragments:
            return Violation(TOO_BIG, f"a message may have {self._limits.fragments} fragments")
        return None

    def _objection_to_control(self, first: int, second: int, length: int | None, now: float) -> Violation | None:
        if not first & _FIN or second & 0x7F > _MAX_CONTROL_BYTES:
            return Violation(PROTOCOL_ERROR, "a control frame is fragmented or longer than 125 bytes")
        if length is None:
            return None
        if now - self._second >= 1:
            self._second, self._control_frames = now, 0
        if self._control_frames >= self._limits.control_frames:
            return Violation(TOO_MANY, f"more than {self._limits.control_frames} control frames in a second")
        return None

    def _begin(self, first: int, length: int) -> None:
        self._started, self._left = True, length
        opcode = first & 0x0F
        if opcode >= _CLOSE:
            self._control_frames += 1
            self.close_seen = self.close_seen or opcode == _CLOSE
            return
        self._message_bytes += length
        self._fragments += 1
        self.begun += opcode != _CONTINUATION
        self._in_message = not first & _FIN

    def _end(self) -> None:
        self._started = False
        if not self._in_message:
            self._message_bytes = self._fragments = 0


def _end_of_whole_message(data: bytes | bytearray, position: int, end: int, most: int) -> int:
    """Where a text message ends that is one frame, masked, and there as a whole, as nearly all are; else 0."""
    if end - position < _LEAST_HEADER or data[position] != _WHOLE_TEXT:
        return 0
    short = data[position + 1] - _MASKED
    if 0 <= short < 126:
        after = position + 6 + short
    elif short == 126 and end - position >= 8:
        short = data[position + 2] << 8 | data[position + 3]
        after = position + 8 + short
    else:
        return 0
    return after if after <= end and short <= most else 0


def _header(data: bytes | bytearray, position: int, end: int) -> tuple[int, int | None]:
    """(bytes of a frame's header, bytes of its payload); None while the header is not there as a whole."""
    if end - position < 2:
        return 2, None
    short = data[position + 1] & 0x7F
    extended = {126: 2, 127: 8}.get(short, 0)
    size = 2 + extended + _MASK_BYTES
    if end - position < size:
        return size, None
    if not extended:
        return size, short
    return size, int.from_bytes(data[position + 2 : position + 2 + extended], "big")


def close_frame(verdict: Violation) -> bytes:
    """A server's Close frame; a reason that is too long is cut."""
    words = verdict.reason.encode()[: _MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return bytes((CLOSE_FRAME, 2 + len(words))) + verdict.code.to_bytes(2, "big") + words
