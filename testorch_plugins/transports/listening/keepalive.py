"""One task that looks after the silent: who has said nothing for a while is pinged, who doesn't answer is cut."""

from __future__ import annotations

import weakref
from collections import deque
from functools import partial

import trio

from testorch_core.interfaces.plugin import Spawner
from testorch_plugins.transports.listening.peer import Peer


class Keeper:
    """Watches over the connections of one transport. All wait equally long, so its queue is in the order of time."""

    def __init__(self, ping_seconds: float, spawn: Spawner) -> None:
        self._ping_seconds = ping_seconds
        self._spawn = spawn
        self._peers: set[Peer] = set()
        self._queue: deque[tuple[float, weakref.ref[Peer], float]] = (
            deque()
        )  # an ended one must not be kept for its turn
        self._filled = trio.Event()

    def watch(self, peer: Peer) -> None:
        """Look after a connection until `forget`."""
        self._peers.add(peer)
        self._enqueue(peer)

    def forget(self, peer: Peer) -> None:
        self._peers.discard(peer)

    async def run(self) -> None:
        while True:
            if not self._queue:
                self._filled = trio.Event()
                await self._filled.wait()
            due, watched, heard_at = self._queue.popleft()
            if watched() is None:
                continue
            await trio.sleep_until(due)
            self._look_after(watched(), heard_at)

    def _look_after(self, peer: Peer | None, heard_at: float) -> None:
        if peer is None or peer not in self._peers:
            return
        if peer.heard_at == heard_at:
            self._spawn(partial(self._prove_alive, peer, heard_at), name="ping")
        else:
            self._enqueue(peer)

    def _enqueue(self, peer: Peer) -> None:
        if peer in self._peers:
            self._queue.append((trio.current_time() + self._ping_seconds, weakref.ref(peer), peer.heard_at))
            self._filled.set()

    async def _prove_alive(self, peer: Peer, heard_at: float) -> None:
        await peer.prove_alive(heard_at)
        self._enqueue(peer)
