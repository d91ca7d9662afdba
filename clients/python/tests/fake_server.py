"""The server's side of streams on a real socket."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable

from fake_streams import Message, StreamServer
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve


class SocketWire:
    """The server's end; what is sent to a client that has gone is lost, as it is everywhere."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    def send(self, message: Message) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            self._connection.send(json.dumps(message))

    def close(self, code: int) -> None:
        self._connection.close(code)

    def drop(self) -> None:
        self._connection.close_socket()


class FakeServer(StreamServer):
    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str]] = []
        self._changed = threading.Condition(threading.RLock())
        self._server: Server | None = None

    def __enter__(self) -> FakeServer:
        self._server = serve(self._serve_one, "127.0.0.1", 0, compression=None, close_timeout=0.2, max_size=2**24)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server is not None
        for peer in self.peers:
            peer.drop()
        self._server.shutdown()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"

    def wait_until(self, condition: Callable[[], object], timeout_seconds: float = 5.0) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout_seconds), "the server waited in vain"

    def _serve_one(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        with self._changed:
            peer = self.connect(SocketWire(connection))
            self.headers.append(dict(connection.request.headers.raw_items()))
            self._changed.notify_all()
        try:
            for text in connection:
                with self._changed:
                    self.receive(peer, json.loads(text))
                    self._changed.notify_all()
        except (ConnectionClosed, OSError):
            pass
        finally:
            with self._changed:
                self.disconnected(peer)
