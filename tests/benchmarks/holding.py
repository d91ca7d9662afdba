"""Connections that do nothing but stay open."""

from __future__ import annotations

import selectors
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.client import RECEIVE_BYTES, Client
from benchmarks.crew import Work
from benchmarks.failures import FailedRunError
from benchmarks.frames import PING, PONG, client_frame

LOOK_SECONDS = 0.2


def idle_connections(address: tuple[str, int], count: int) -> Work:
    """Opens plain connections, and then holds them, answering pings, until it is told to go on."""
    return partial(_hold, address, count)


def _hold(address: tuple[str, int], count: int, pipe: Connection) -> Iterator[Any]:
    clients: list[Client] = []
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            clients.append(Client(address))
            clients[-1].socket.setblocking(False)
            selector.register(clients[-1].socket, selectors.EVENT_READ, clients[-1])
            if len(clients) % 100 == 0:
                _answer_pings(selector, 0)
        yield count
        while not pipe.poll():
            _answer_pings(selector, LOOK_SECONDS)
        yield None
        for client in clients:
            client.close()


def _answer_pings(selector: selectors.BaseSelector, seconds: float) -> None:
    for key, _ in selector.select(seconds):
        received = key.data.socket.recv(RECEIVE_BYTES)
        if not received:
            raise FailedRunError("the server closed an idle connection")
        for opcode, payload in key.data.reader.feed(received):
            if opcode != PING:
                raise FailedRunError(f"an idle connection heard {payload[:200]!r}")
            key.data.socket.send(client_frame(payload, PONG))
