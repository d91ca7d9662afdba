"""`testorch serve`."""

from __future__ import annotations

import gc
import signal
import sys
from importlib.metadata import version
from pathlib import Path

import click
import trio

from testorch_core.cli.choosing import configuration
from testorch_core.logs import server_log
from testorch_core.server import Server


def serve(config: Path | None, *, db: str | None, host: str | None, port: int | None, log_level: str) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain. A second signal stops at once."""
    chosen = configuration(config, db=db)
    overrides = {"host": host, "port": port}
    chosen = chosen.with_first_transport(**{key: value for key, value in overrides.items() if value is not None})
    server = Server(chosen, log=server_log(log_level))
    trio.run(_serve, server, chosen.source)


async def _serve(server: Server, source: str) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, server, signals, nursery.cancel_scope)
            async with trio.open_nursery() as serving:
                await serving.start(server.run)
                _settle_interpreter()
                where = ", ".join(server.addresses) or "nowhere (no transport is configured)"
                click.echo(f"testorch {version('testorch')} listens on {where} ({source}); Ctrl-C stops it", err=True)
            nursery.cancel_scope.cancel()


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


async def _stop_on_signal(server: Server, signals: object, scope: trio.CancelScope) -> None:
    stopping = False
    async for _ in signals:  # type: ignore[attr-defined]  # trio's signal receiver has no public type
        if stopping:
            scope.cancel()
            return
        stopping = True
        click.echo("stopping: committing and answering what has arrived", err=True)
        server.stop()
