"""`testorch runs`, `show` and `export`: commands that read a store, beside a running server if there is one."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import click
import trio

from testorch_core.cli.choosing import configuration
from testorch_core.cli.rendering import run_lines, run_row_line
from testorch_core.config import Configuration, PluginTable, construct_alone
from testorch_core.errors import PluginBrokenError, UsageError
from testorch_core.interfaces.reporter import Renderer
from testorch_core.interfaces.storage import EventStore, RunFilter
from testorch_core.loading import installed_plugins, load_plugin
from testorch_core.logs import server_log
from testorch_core.results import Result
from testorch_core.runs import RunStatus
from testorch_core.server import with_store
from testorch_core.tail import StoredRun

Answer = TypeVar("Answer")
_STDOUT = 1


def runs(
    *, config: Path | None, db: str | None, as_json: bool, project: str | None, status: str | None, limit: int
) -> None:
    """Print the newest runs, a line each."""

    async def work(store: EventStore) -> list[RunStatus]:
        page = await store.runs(RunFilter(project=project, status=status), limit=limit)
        return [row.run_status() for row in page.rows]

    found = _read(configuration(config, db=db), work)
    if as_json:
        click.echo(json.dumps([one.payload() for one in found], indent=2))
        return
    if not found:
        click.echo("no runs", err=True)
    for one in found:
        click.echo(run_row_line(one))


def show(*, run: str, config: Path | None, db: str | None, as_json: bool, project: str | None, show_all: bool) -> None:
    """Print one run: its counts, and the tests that need a look, or all."""

    async def work(store: EventStore) -> tuple[RunStatus, list[Result]]:
        status = await find_run(store, run, project)
        wanted = [
            one async for one in StoredRun(store, status).results() if as_json or show_all or one.outcome != "expected"
        ]
        return status, wanted

    status, results = _read(configuration(config, db=db), work)
    if as_json:
        click.echo(json.dumps({"run": status.payload(), "results": [one.payload() for one in results]}, indent=2))
        return
    for line in run_lines(status, results):
        click.echo(line)


def export(
    *,
    run: str,
    format_name: str,
    output: Path | None,
    config: Path | None,
    db: str | None,
    as_json: bool,
    project: str | None,
) -> None:
    """Write one run as a document; a file is replaced only once the document is complete."""
    if as_json and output is None:
        raise click.UsageError("--json needs --output: the document itself goes to standard output")
    chosen = configuration(config, db=db)
    renderer = _renderer(chosen, format_name)

    async def work(store: EventStore) -> RunStatus:
        status = await find_run(store, run, project)
        await _write(renderer, StoredRun(store, status), output)
        return status

    status = _read(chosen, work)
    if as_json:
        click.echo(json.dumps({"runId": status.run_id, "format": format_name, "path": str(output)}))


async def find_run(store: EventStore, wanted: str, project: str | None) -> RunStatus:
    """The run with this id, or the only one whose id begins so, or the newest (`latest`). Raises `UsageError`."""
    where = RunFilter(project=project) if wanted == "latest" else RunFilter(project=project, prefix=wanted)
    page = await store.runs(where, limit=1 if wanted == "latest" else 1000)
    exact = [row for row in page.rows if row.run_id == wanted]
    candidates = exact or list(page.rows)
    if not candidates:
        raise UsageError(
            f"no run `{wanted}`" + (f" in project `{project}`" if project else "") + "; see `testorch runs`"
        )
    if len(candidates) > 1:
        listed = ", ".join(f"`{row.run_id}` ({row.project})" for row in candidates[:5])
        raise UsageError(f"`{wanted}` fits more than one run: {listed}; give more of the id, or `--project`")
    return candidates[0].run_status()


def _read(chosen: Configuration, work: Callable[[EventStore], Awaitable[Answer]]) -> Answer:
    async def run() -> Answer:
        return await with_store(chosen, work, log=server_log("warning"))

    return trio.run(run)


def _renderer(chosen: Configuration, format_name: str) -> Renderer:
    """The named reporter, with the options that the configuration gives an instance of it, else its defaults."""
    found = load_plugin("reporter", format_name)
    if not issubclass(found, Renderer):
        able = ", ".join(f"`{name}`" for name in _renderers()) or "none"
        raise UsageError(f"reporter `{format_name}` can't render a run as a document; installed ones that can: {able}")
    table = next((one for one in chosen.reporters if one.use == format_name), None)
    table = table or PluginTable(family="reporter", name=format_name, use=format_name, given={})
    return cast(Renderer, construct_alone(chosen, table))


def _renderers() -> list[str]:
    able = []
    for one in installed_plugins("reporter"):
        try:
            if issubclass(load_plugin("reporter", one.name), Renderer):
                able.append(one.name)
        except PluginBrokenError:
            continue  # `testorch plugins` shows what is wrong with it
    return able


async def _write(renderer: Renderer, run: StoredRun, output: Path | None) -> None:
    if output is None:
        sys.stdout.flush()
        async for piece in renderer.render(run):
            _write_all(piece)
        return
    with _replacing(output) as file:
        async for piece in renderer.render(run):
            file.write(piece)


@contextmanager
def _replacing(output: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `output` when it is complete, and is removed when it isn't going to be."""
    try:
        handle, name = tempfile.mkstemp(dir=output.absolute().parent, prefix=f".{output.name}.")
    except OSError as failure:
        raise UsageError(f"`{output}` can't be written: {failure.strerror}") from failure
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # what any other new file would get; mkstemp makes it private
        os.replace(name, output)
    except BaseException:  # whatever ended it, a half document must not stay behind
        Path(name).unlink(missing_ok=True)
        raise


def _write_all(piece: bytes) -> None:
    rest: Any = memoryview(piece)
    while rest:
        rest = rest[os.write(_STDOUT, rest) :]
