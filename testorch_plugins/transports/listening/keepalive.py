"""One task that looks after the silent: who has said nothing for a while is pinged, who doesn't answer is cut."""

from __future__ import annotations

import weakref
from collections import deque

import trio

from testorch_plugins.transports.listening.peer import Peer


class _Watch:
    """One connection in the keeper's queue. It must not keep an ended one alive until its turn."""

    __slots__ = ("heard_at", "missed", "peer")

    def __init__(self, peer: Peer) -> None:
        self.peer = weakref.ref(peer)
        self.heard_at = peer.heard_at
        self.missed = 0


class Keeper:
    """Watches over the connections of one transport. All wait equally long, so its queue is in the order of time.

    It pings by itself, past the library and without a task for each: of ten thousand silent clients 500 are due in a
    second. A pong, or anything else that is heard, is noted by the connection's stream.
    """

    def __init__(self, ping_seconds: float, missed_pings: int) -> None:
        self._ping_seconds = ping_seconds
        self._missed_pings = missed_pings
        self._queue: deque[tuple[float, _Watch]] = deque()
        self._filled = trio.Event()

    def watch(self, peer: Peer) -> None:
        """Look after a connection until it is closed."""
        self._enqueue(_Watch(peer))

    async def run(self) -> None:
        while True:
            if not self._queue:
                self._filled = trio.Event()
                await self._filled.wait()
            due, watch = self._queue.popleft()
            if watch.peer() is None:
                continue
            await trio.sleep_until(due)
            await self._look_after(watch)

    def _enqueue(self, watch: _Watch) -> None:
        self._queue.append((trio.current_time() + self._ping_seconds, watch))
        self._filled.set()

    async def _look_after(self, watch: _Watch) -> None:
        peer = watch.peer()
        if peer is None or peer.is_closed:
            return
        if peer.heard_at != watch.heard_at:
            watch.heard_at, watch.missed = peer.heard_at, 0
        elif watch.missed >= self._missed_pings:
            await peer.stream.cut()
            return
        else:
            watch.missed += 1
            await peer.stream.ping()
        self._enqueue(watch)
