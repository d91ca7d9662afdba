"""A server as a user starts it: `testorch serve` in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect


class ServerProcess:
    """A running `testorch serve` and what it has printed."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.database = folder / "testorch.db"
        command = [sys.executable, "-m", "testorch_core.cli", "serve", "--db", str(self.database), *arguments]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=(folder / "out.txt").open("a"), stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self.first_line = self.process.stderr.readline()
        words = [word.rstrip(",") for word in self.first_line.split() if word.startswith("ws://")]
        self.address = words[0] if words else ""

    @property
    def output(self) -> str:
        return (self.folder / "out.txt").read_text()

    def stop(self) -> str:
        """SIGTERM; returns the rest of what it wrote to standard error. The exit code must be 0."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        rest = self.process.stderr.read()
        assert self.process.wait(20) == 0, rest
        return rest

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[ServerProcess]:
    server = ServerProcess(folder, *(arguments or ("--port", "0")))
    try:
        assert server.address, server.first_line
        yield server
    finally:
        server.kill()


def run_testorch(*arguments: str, cwd: Path | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    """The command line as a user calls it."""
    command = [sys.executable, "-m", "testorch_core.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False, **more)


class PlainClient:
    """The ten-line client, over a real socket."""

    def __init__(self, address: str) -> None:
        self._connecting = connect(address)

    def __enter__(self) -> Self:
        self.socket: ClientConnection = self._connecting.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connecting.__exit__(kind, failure, trace)

    def send(self, kind: str, payload: Any = None) -> None:
        self.socket.send(json.dumps({"type": kind, "payload": payload}))

    def receive(self) -> Any:
        return json.loads(self.socket.recv(timeout=20))

    def ask(self, kind: str, payload: Any = None) -> Any:
        self.send(kind, payload)
        return self.receive()["payload"]

    def event(self, event_id: str, kind: str, **payload: Any) -> None:
        self.send("event", {"id": event_id, "type": kind, "timestamp": 1, "payload": payload})
