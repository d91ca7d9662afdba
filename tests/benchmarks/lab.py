"""What every benchmark is given: settings, servers in fresh folders, and the report that it writes into."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Report
from benchmarks.servers import (
    USUAL,
    NodeEachServer,
    NodeGroupServer,
    Server,
    Setup,
    TestorchServer,
    started,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line chose."""

    quick: bool = False
    repetitions: int = 3
    seconds: float = 3.0
    """How long one repetition of a load lasts."""
    window: int = 1_000
    """Events that one connection has in flight at most."""
    window_of_all: int = 4_000
    """The same of all connections together."""
    generators: int = 1
    """Processes of the load generator."""
    store_events: int = 10_000_000
    clients: int = 5_000
    """Clients of a storm, and of those that vanish."""
    transport: str = "websocket"
    node: bool = True
    loads: tuple[str, ...] = ()
    """Only ingest cases whose name holds one of these; all when empty."""


@dataclass
class Lab:
    """The place where benchmarks happen."""

    settings: Settings
    folder: Path
    report: Report

    @contextmanager
    def ours(self, setup: Setup = USUAL) -> Iterator[TestorchServer]:
        """Our server, running, on a new database that is removed after the block."""
        with self._folder("testorch") as folder:
            server = TestorchServer(folder, transport=self.settings.transport, setup=setup)
            with started([server]):
                yield server

    @contextmanager
    def all_servers(self) -> Iterator[list[Server]]:
        """Every server, running, each on a new database."""
        kinds: list[Callable[[Path], Server]] = [lambda path: TestorchServer(path, transport=self.settings.transport)]
        if self.settings.node:
            kinds += [NodeGroupServer, NodeEachServer]
        with self._folder("all") as folder:
            servers = []
            for number, kind in enumerate(kinds):
                (folder / str(number)).mkdir()
                servers.append(kind(folder / str(number)))
            with started(servers):
                yield servers

    @contextmanager
    def _folder(self, name: str) -> Iterator[Path]:
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        yield path
        shutil.rmtree(path)

    def say(self, words: str) -> None:
        """Tell whoever waits how far it has come."""
        print(words, file=sys.stderr, flush=True)
