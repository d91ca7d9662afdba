"""The servers that are measured, each a process of its own with a database file of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.failures import FailedRunError
from benchmarks.processes import cpu_seconds, rss_bytes, sockets
from benchmarks.report import OURS

START_SECONDS = 60.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.001
LOOK_SECONDS = 0.05
WORDS_SHOWN = 4000

HERE = Path(__file__).parent
Value = str | int | float | bool
CONFIGURATION = """\
[server]
{server}

[storage]
use = "sqlite"
path = "testorch.db"

[transports.main]
use = "{use}"
{transport}

[security.events]
use = "event_validation"
"""
TRANSPORT: Mapping[str, Value] = {"port": 0, "max_connections": 20_000, "max_connections_per_address": 20_000}
"""All clients of a load are on one address, so that its limit must not be what is measured."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a load changes in our server's configuration, and where it has the server run."""

    server: Mapping[str, Value] = field(default_factory=dict)
    transport: Mapping[str, Value] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    """A command that becomes the one after it, such as `nsenter`."""

    def configuration(self, transport: str) -> str:
        """The configuration file, for a transport plugin."""
        options = {**TRANSPORT, **self.transport}
        return CONFIGURATION.format(use=transport, server=_lines(self.server), transport=_lines(options))


USUAL = Setup()


def _lines(options: Mapping[str, Value]) -> str:
    """TOML: of these values it is what JSON has."""
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())


class Server(ABC):
    """A server that can be started, killed and started again on the same database, in a folder of its own."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ("", 0)
        self._process: subprocess.Popen[bytes] | None = None
        self._words = folder / "stderr.txt"
        self.started_seconds = 0.0
        """How long the last start took, from the command to listening."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What starts the server in `folder`. It prints its address to standard error once it listens."""

    @property
    def pid(self) -> int:
        assert self._process is not None, "it has been started"
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    @property
    def rss_bytes(self) -> int:
        return rss_bytes(self.pid)

    @property
    def sockets(self) -> int:
        return sockets(self.pid)

    def await_sockets(self, most: int, seconds: float) -> None:
        """Wait until it has let go of all but so many sockets. Raises `FailedRunError` when that takes too long."""
        deadline = time.monotonic() + seconds
        while (found := self.sockets) > most:
            if time.monotonic() > deadline:
                raise FailedRunError(f"{self.name} has {found} sockets open; it should have {most} by now")
            time.sleep(LOOK_SECONDS)

    @property
    def words(self) -> str:
        """The last of what it wrote to standard error after its first line."""
        lines = self._words.read_text().splitlines() if self._words.exists() else []
        return "\n".join(lines[1:])[-WORDS_SHOWN:]

    def start(self) -> float:
        """Start it, and wait until it listens; returns how many seconds that took."""
        before = time.perf_counter()
        with self._words.open("wb") as words:
            self._process = subprocess.Popen(
                list(self.command()), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=words
            )
        while time.perf_counter() < before + START_SECONDS:
            found = re.search(r"ws://([0-9.]+):(\d+)", self._words.read_text())
            if found:
                self.address = (found[1], int(found[2]))
                self.started_seconds = time.perf_counter() - before
                return self.started_seconds
            if self._process.poll() is not None:
                break
            time.sleep(POLL_SECONDS)
        raise FailedRunError(f"{self.name} did not start: {self._words.read_text()[-2000:]}")

    def stop(self) -> None:
        """SIGTERM. Raises `FailedRunError` when it doesn't end well, or has written a traceback."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise FailedRunError(f"{self.name} did not stop within {STOP_SECONDS:.0f} s") from None
        self._process = None
        words = self._words.read_text()
        if code != 0 or "Traceback" in words:
            raise FailedRunError(f"{self.name} ended with {code}: {words[-2000:]}")

    def kill(self) -> None:
        """kill -9. Works twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class TestorchServer(Server):
    """`testorch serve`, as a user starts it."""

    __test__ = False
    name = OURS

    def __init__(self, folder: Path, *, transport: str = "websocket", setup: Setup = USUAL) -> None:
        super().__init__(folder)
        self._prefix = setup.prefix
        (folder / "testorch.toml").write_text(setup.configuration(transport))

    def command(self) -> Sequence[str]:
        return [*self._prefix, sys.executable, "-m", "testorch_core.cli", "serve", "--config", "testorch.toml"]


class NodeServer(Server):
    """The hand-written server, in one of its two modes."""

    mode: str

    def command(self) -> Sequence[str]:
        return ["node", str(installed_node_server() / "server.mjs"), "node.db", "0", self.mode]


class NodeGroupServer(NodeServer):
    name = "Node, group commit"
    mode = "group"


class NodeEachServer(NodeServer):
    name = "Node, commit an event"
    mode = "each"


def installed_node_server() -> Path:
    """A folder with the Node server and its packages, outside the repository; installed at first use.

    better-sqlite3 may be compiled then, which takes minutes.
    """
    source = HERE / "node_server"
    wanted = hashlib.sha256((source / "package.json").read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "testorch-benchmarks" / f"node-server-{wanted}"
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    if not (folder / "installed").exists():
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefer-offline"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise FailedRunError(f"npm install failed in {folder}: {ended.stderr[-2000:]}")
        (folder / "installed").touch()
    return folder


@contextmanager
def started(servers: Sequence[Server]) -> Iterator[None]:
    """All of them run within the block, and are stopped after it."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
            server.start()
        try:
            yield
        except FailedRunError as failure:
            said = "".join(f"\n{server.name} said: {server.words}" for server in servers if server.words)
            raise FailedRunError(f"{failure}{said}") from failure
        for server in servers:
            server.stop()
