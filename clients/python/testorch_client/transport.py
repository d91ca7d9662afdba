"""A `Link` over `websockets`: the only module that knows that library, and its exceptions."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from testorch_client.errors import Closed, Rejected, Unreachable
from testorch_client.link import Connect, Link
from testorch_client.rules import is_retried_status

# A server that doesn't read for so long is given up; it may hold us back (TCP back-pressure) for less.
SEND_TIMEOUT_SECONDS = 30.0
# How long to wait for the other side's Close frame; the work is done by then.
CLOSE_TIMEOUT_SECONDS = 0.5
MAX_MESSAGE_BYTES = 16 * 2**20


class WebSocketLink:
    """A `Link` over an open `websockets` connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def send(self, text: str) -> None:
        try:
            self._connection.send(text)
        except ConnectionClosed as error:
            raise _closed(error) from error

    def receive(self, timeout_seconds: float) -> str | None:
        try:
            message = self._connection.recv(timeout=timeout_seconds)
        except TimeoutError:
            return None
        except ConnectionClosed as error:
            raise _closed(error) from error
        return message if isinstance(message, str) else ""

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)


def connector(url: str, token: str | None) -> Connect:
    """How to reach `url`. Compression is off: it costs the suite's processor more than a local network gains."""
    headers = {"Authorization": f"Bearer {token}"} if token else None
    proxy: Literal[True] | None = None if _is_loopback(url) else True
    logger = _silent_logger()

    @contextmanager
    def open_link(open_timeout_seconds: float) -> Iterator[Link]:
        with contextlib.ExitStack() as stack:
            try:
                # `ping_interval`: the server pings. A thread of ours for it would also draw from the global `random`,
                # which suites seed.
                opening = connect(
                    url,
                    additional_headers=headers,
                    compression=None,
                    logger=logger,
                    max_size=MAX_MESSAGE_BYTES,
                    open_timeout=open_timeout_seconds,
                    ping_interval=None,
                    close_timeout=CLOSE_TIMEOUT_SECONDS,
                    proxy=proxy,
                )
                connection = stack.enter_context(opening)
            except Exception as error:  # A boundary: whatever opening raises is translated.
                raise _unopened(error) from error
            connection.socket.settimeout(SEND_TIMEOUT_SECONDS)
            yield WebSocketLink(connection)

    return open_link


def _unopened(error: Exception) -> Unreachable | Rejected:
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        sentence = f"the server answered with HTTP status {status}"
        return Unreachable(sentence) if is_retried_status(status) else Rejected(sentence)
    if isinstance(error, InvalidURI):
        return Rejected("this is not a WebSocket address; expected `ws://host:port/…` or `wss://…`")
    if isinstance(error, TimeoutError):
        return Unreachable("no answer in time")
    if isinstance(error, InvalidHandshake):
        return Unreachable("what answered there is not a WebSocket server")
    if isinstance(error, OSError):
        return Unreachable(error.strerror or type(error).__name__)
    return Rejected(f"the connection could not be opened: `{type(error).__name__}`")


def _closed(error: ConnectionClosed) -> Closed:
    if error.rcvd is None:
        return Closed(1006)
    return Closed(error.rcvd.code, error.rcvd.reason[:200])


def _is_loopback(url: str) -> bool:
    # A proxy for everything (`HTTP_PROXY`) is common where tests run, and never meant for this machine.
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return host in ("localhost", "::1") or host.startswith("127.")


def _silent_logger() -> logging.Logger:
    # Not one of `logging.getLogger`: it has no parent, so that the suite's captured logs never hold our own.
    logger = logging.Logger("testorch_client.websockets", level=logging.CRITICAL + 1)
    logger.addHandler(logging.NullHandler())
    return logger
