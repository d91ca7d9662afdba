"""`testorch serve`."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import click
import trio

from testorch_core.cli.choosing import configuration
from testorch_core.cli.tidying import tidy
from testorch_core.logs import server_log
from testorch_core.server import Server


def serve(
    config: Path | None, *, db: str | None, host: str | None, port: int | None, allow_anonymous: bool, log_level: str
) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain. A second signal stops at once; SIGHUP has certificates read again."""
    chosen = configuration(config, db=db)
    overrides = {"host": host, "port": port, "allow_anonymous": True if allow_anonymous else None}
    chosen = chosen.with_first_transport(**{key: value for key, value in overrides.items() if value is not None})
    _raise_file_limit()
    server = Server(chosen, log=server_log(log_level))
    trio.run(_serve, server, chosen.source)


async def _serve(server: Server, source: str) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, server, signals, nursery.cancel_scope)
            async with trio.open_nursery() as serving:
                await serving.start(server.run)
                _settle_interpreter()
                nursery.start_soon(tidy, lambda: server.sessions_ended)
                where = ", ".join(server.addresses) or "nowhere (no transport is configured)"
                click.echo(f"testorch {version('testorch')} listens on {where} ({source}); Ctrl-C stops it", err=True)
            nursery.cancel_scope.cancel()


def _raise_file_limit() -> None:
    """Take as many descriptors as the system allows: each connection is one, and the usual 1,024 are soon gone."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems give a limit that may not be set; then the old one stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


SWITCH_SECONDS = 0.0002
"""How long a thread that wants the interpreter's lock waits before the holder is asked for it. The store's thread wants it
back after each statement; at Python's own 5 ms a commit under load spends most of its time waiting for it (measured: 19,000
events a second instead of 12,600, with the same CPU)."""


def _settle_interpreter() -> None:
    """Settings of a process whose only business is to serve.

    Take what the start has made out of the collector's sight, and let it look at the growing heap less often.

    The state of open runs is hundreds of thousands of long-lived objects without cycles; scanning them at Python's own
    thresholds (700, 10, 10) took a quarter to two fifths of the CPU in a prototype of the whole path.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


async def _obey(server: Server, signals: object, scope: trio.CancelScope) -> None:
    stopping, has_terminal = False, os.isatty(sys.stderr.fileno())
    async for received in signals:  # type: ignore[attr-defined]  # trio's signal receiver has no public type
        if received == signal.SIGHUP and os.isatty(sys.stderr.fileno()) is has_terminal:
            await server.reload()  # it wasn't the terminal that hung up
            continue
        if stopping:
            scope.cancel()
            return
        stopping = True
        click.echo("stopping: committing and answering what has arrived", err=True)
        server.stop()
