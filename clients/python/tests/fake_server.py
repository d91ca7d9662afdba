"""A server that speaks the plain conversation, keeps what it was told, and misbehaves on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

Message = dict[str, Any]
# Called with every message before the server acts on it; True if it was dealt with.
Misbehaviour = Callable[["Peer", Message], bool]


class Peer:
    """One connection. `number` counts from 1 over the server's life."""

    def __init__(self, server: FakeServer, connection: ServerConnection, number: int) -> None:
        self.server = server
        self.connection = connection
        self.number = number
        self.run_id: str | None = None

    def answer(self, kind: str, payload: Message, message: Message) -> None:
        self.send({"type": kind, "payload": payload, "inReplyTo": message.get("id")})

    def refuse(self, code: str, **details: Any) -> None:
        self.send({"type": "error", "payload": {"code": code, "message": f"refused: {code}", **details}})

    def send(self, message: Message) -> None:
        self.connection.send(json.dumps(message))

    def close(self, code: int) -> None:
        self.connection.close(code)

    def drop(self) -> None:
        """End the connection without a word, as a killed server does."""
        self.connection.close_socket()


class FakeServer:
    def __init__(self) -> None:
        self.misbehave: Misbehaviour = lambda peer, message: False
        self.messages: list[Message] = []
        self.events: dict[str, Message] = {}
        self.ended: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.peers: list[Peer] = []
        self._changed = threading.Condition()
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

    def kinds(self) -> list[str]:
        return [message["type"] for message in self.messages]

    def of_type(self, kind: str) -> list[Message]:
        """The payloads of the stored events of a type, in the order in which they arrived."""
        return [event["payload"] for event in self.events.values() if event["type"] == kind]

    def ends(self) -> dict[str, Message]:
        """The last `test/end` of every test."""
        return {payload["testId"]: payload for payload in self.of_type("test/end")}

    def _serve_one(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        peer = Peer(self, connection, len(self.peers) + 1)
        with self._changed:
            self.peers.append(peer)
            self.headers.append(dict(connection.request.headers.raw_items()))
            self._changed.notify_all()
        try:
            for text in connection:
                message = json.loads(text)
                with self._changed:
                    self.messages.append(message)
                    if not self.misbehave(peer, message):
                        self._act(peer, message)
                    self._changed.notify_all()
        except (ConnectionClosed, OSError):
            pass

    def _act(self, peer: Peer, message: Message) -> None:
        kind, payload = message["type"], message["payload"]
        if kind == "events":
            self.keep(payload["events"])
        elif kind == "startTestRun":
            peer.run_id = payload.get("runId") or f"run-of-{payload['key']}"
            peer.answer("testRunStarted", self.status(peer.run_id), message)
        elif kind == "getRunStatus":
            peer.answer("runStatus", self.status(payload["runId"]), message)
        elif kind == "endTestRun":
            self.ended.append(payload["runId"])
            peer.answer("testRunEnded", self.status(payload["runId"]), message)

    def keep(self, events: list[Message]) -> None:
        for event in events:
            self.events.setdefault(event["id"], event)

    def status(self, run_id: str) -> Message:
        return {"runId": run_id, "status": "passed" if run_id in self.ended else "running", "events": len(self.events)}
