"""What an attacker has: raw sockets, frames made by hand, and one loop that drives hundreds of them at once.

Nothing here knows WebSocket's rules well enough to keep them: whatever is asked for is sent. Linux only.
"""

from __future__ import annotations

import itertools
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0
RECEIVE_BYTES: Final = 1 << 16
TICK_SECONDS: Final = 0.05
"""How exactly a dribbled byte is timed."""

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

Headers = Sequence[tuple[bytes, bytes]]
UPGRADE: Final[Headers] = (
    (b"Host", b"127.0.0.1"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", b"MDEyMzQ1Njc4OWFiY2RlZg=="),
    (b"Sec-WebSocket-Version", b"13"),
)


def request(path: bytes = b"/", *, more: Headers = (), without: Sequence[bytes] = ()) -> bytes:
    """An upgrade request; a header of `more` takes the place of the one with its name."""
    left_out = {name.lower() for name, _ in more} | {name.lower() for name in without}
    kept = [(name, value) for name, value in UPGRADE if name.lower() not in left_out]
    lines = [name + b": " + value for name, value in (*kept, *more)]
    return b"GET " + path + b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    last: bool = True,
    masked: bool = True,
    reserved: int = 0,
    claimed: int | None = None,
) -> bytes:
    """One frame, masked with a key of zeros; `claimed` is a length other than the payload's own."""
    size = len(payload) if claimed is None else claimed
    first = (last << 7) | (reserved << 4) | opcode
    bit = masked << 7
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + (b"\0\0\0\0" if masked else b"") + payload


class Peer:
    """One connection of an attacker: what it sends, how it ends, and what came back.

    `chunks` may be endless; one is taken at a time, every `every_seconds`. After the last of them comes the `ending`: a
    FIN, a RST, or nothing. Set `reads` to False to leave everything in the system's buffers. Who `stays` takes no FIN of
    the other side for an end: it goes on sending until it is told that nobody is there any more.
    """

    def __init__(
        self,
        port: int,
        chunks: Iterable[bytes] = (),
        *,
        label: str = "",
        every_seconds: float = 0.0,
        ending: str = "",
        source: str = "127.0.0.1",
        buffer_bytes: int | None = None,
        stays: bool = False,
    ) -> None:
        self.label = label
        self.received = bytearray()
        self.reads = True
        self._stays = stays
        self._has_heard_all = False
        self.is_cut = False
        self.is_content = False
        self._every = every_seconds
        self._ending = ending
        self._due = 0.0
        self._pending = memoryview(b"")
        self._chunks: Iterator[bytes] | None = iter(chunks)
        self.socket = _connected(port, source, buffer_bytes)

    def send(self, chunks: Iterable[bytes]) -> None:
        """What to send next, when it has sent the rest."""
        self._chunks = itertools.chain(self._chunks or (), chunks)
        self.is_content = False

    @property
    def is_timed(self) -> bool:
        return self._every > 0 and self._chunks is not None

    @property
    def wants(self) -> int:
        """The events to wait for; that it was cut is told without asking."""
        reading = select.EPOLLIN if self.reads else 0 if self._has_heard_all else select.EPOLLRDHUP
        is_due = self._chunks is not None and time.monotonic() >= self._due
        return reading | (select.EPOLLOUT if is_due else 0)

    def step(self, events: int) -> None:
        """Do what is possible now."""
        if self.reads and events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read()
        elif events & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
            self._end()
        if events & select.EPOLLOUT and not self.is_cut:
            self._write()

    def close(self, *, reset: bool = False) -> None:
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.socket.close()

    def _read(self) -> None:
        try:
            part = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._end()
            return
        self.received += part
        if not part and self._stays:
            self.reads, self._has_heard_all = False, True
        elif not part:
            self._end()

    def _write(self) -> None:
        if self._chunks is None:
            return
        if not self._pending:
            following = next(self._chunks, None)
            if following is None:
                self._finish()
                return
            self._pending = memoryview(following)
        try:
            self._pending = self._pending[self.socket.send(self._pending) :]
        except BlockingIOError:
            return
        except OSError:  # the other side takes no more; what it has said can still be read
            self._chunks, self._pending = None, memoryview(b"")
            if not self.reads:
                self._end()
        self._due = time.monotonic() + self._every

    def _finish(self) -> None:
        self._chunks = None
        if self._ending == "fin":
            self.socket.shutdown(socket.SHUT_WR)
        elif self._ending == "rst":
            self._end()
            self.close(reset=True)

    def _end(self) -> None:
        self.is_cut = True
        self._chunks = None


def _connected(port: int, source: str, buffer_bytes: int | None) -> socket.socket:
    made = socket.socket()
    if buffer_bytes is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    made.bind((source, 0))
    made.settimeout(20)
    made.connect(("127.0.0.1", port))
    made.setblocking(False)
    return made


def drive(peers: Iterable[Peer], seconds: float, until: Callable[[Peer], bool] = lambda peer: False) -> None:
    """Have them all send and read, each until it is cut or `until` is true of it, for so many seconds at the most."""
    deadline = time.monotonic() + seconds
    active = {peer.socket.fileno(): peer for peer in peers if not peer.is_cut}
    with select.epoll() as selector:
        for number, peer in active.items():
            selector.register(number, peer.wants)
        while active and time.monotonic() < deadline:
            for number, events in selector.poll(TICK_SECONDS):
                _step(selector, active, number, events, until)
            for number, peer in active.items():
                if peer.is_timed:
                    selector.modify(number, peer.wants)


def _step(
    selector: select.epoll, active: dict[int, Peer], number: int, events: int, until: Callable[[Peer], bool]
) -> None:
    peer = active[number]
    peer.step(events)
    peer.is_content = not peer.is_cut and until(peer)
    if not (peer.is_cut or peer.is_content):
        selector.modify(number, peer.wants)
        return
    del active[number]
    if peer.socket.fileno() >= 0:
        selector.unregister(number)
