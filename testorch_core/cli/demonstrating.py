"""`testorch demo`: a server on a free port, a real pytest run against it through the real socket, and what arrived."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import click
import trio

from testorch_core.cli.reading import find_run
from testorch_core.cli.rendering import run_lines
from testorch_core.config import Configuration, defaults
from testorch_core.errors import UsageError
from testorch_core.interfaces.storage import EventStore
from testorch_core.logs import server_log
from testorch_core.results import Result
from testorch_core.runs import RunStatus
from testorch_core.server import Server, with_store
from testorch_core.tail import StoredRun

SUITE_SECONDS = 120.0
TESTS_FAILED = 1
"""pytest's exit code when tests failed, as some of the suite's do on purpose."""


def demo(*, keep: bool) -> None:
    """Run the demonstration; exits with 1 when the suite could not be run or didn't arrive."""
    _require_pytest()
    folder = Path(tempfile.mkdtemp(prefix="testorch-demo-"))
    try:
        trio.run(partial(_demo, folder, keep=keep))
    finally:
        if not keep:
            shutil.rmtree(folder)


def _require_pytest() -> None:
    missing = [name for name in ("pytest", "testorch_client") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the demo runs a pytest suite, and {' and '.join(missing)} is not installed; "
            "install them: pip install 'testorch[demo]'"
        )


def _suite() -> Path:
    """The suite beside this module in a wheel, else the one among the examples of a checkout."""
    here = Path(__file__).resolve().parent
    for place in (here / "demo_suite", here.parents[1] / "examples" / "demo_suite"):
        if place.is_dir():
            return place
    raise UsageError("the demo's suite is missing from this installation; install testorch anew")


async def _demo(folder: Path, *, keep: bool) -> None:
    chosen = defaults("demo", folder=folder)
    server = Server(chosen, log=server_log("warning"))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        click.echo(f"a server listens on {server.addresses[0]}; its database is {folder / 'demo.db'}", err=True)
        process = await _run_suite(server.addresses[0], folder)
        server.stop()
    if process.returncode not in (0, TESTS_FAILED):
        click.echo(process.stdout.decode(errors="replace"), err=True)
        raise UsageError(f"pytest ended with exit code {process.returncode}; its output stands above")
    await _tell(chosen, folder, keep=keep)


async def _run_suite(address: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    suite = _suite()
    # No cache and no compiled files: the suite may lie in an installation that is not ours to write to.
    arguments = [sys.executable, "-B", "-m", "pytest", str(suite), "--rootdir", str(suite), "-p", "no:cacheprovider"]
    arguments += ["--testorch", address, "--testorch-name", "demo"]
    with trio.fail_after(SUITE_SECONDS):
        return await trio.run_process(arguments, capture_stdout=True, stderr=subprocess.STDOUT, check=False, cwd=folder)


async def _tell(chosen: Configuration, folder: Path, *, keep: bool) -> None:
    async def work(store: EventStore) -> tuple[RunStatus, list[Result]]:
        status = await find_run(store, "latest", None)
        return status, [one async for one in StoredRun(store, status).results() if one.outcome != "expected"]

    status, results = await with_store(chosen, work, log=server_log("warning"))
    click.echo()
    for line in run_lines(status, results):
        click.echo(line)
    if not keep:
        return
    click.echo()
    for report in sorted((folder / "reports").glob("*")):
        click.echo(f"report    {report}")
    click.echo(f"look      testorch show latest --db {folder / 'demo.db'}")
