"""`testorch verify`: proves that what is stored is the fold of the log."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import click
import trio

from testorch_core.cli.choosing import configuration
from testorch_core.cli.reading import find_run
from testorch_core.interfaces.storage import EventStore
from testorch_core.logs import server_log
from testorch_core.server import with_store
from testorch_core.text import visible
from testorch_core.verifying import Verdict, run_ids, verify_project, verify_run


def verify(*, run: str | None, config: Path | None, db: str | None, as_json: bool, project: str | None) -> None:
    """Verify one run, or all; exits with 1 if anything differs."""
    verdicts: list[Verdict] = []

    async def work(store: EventStore) -> None:
        async for verdict in _verdicts(store, run, project):
            verdicts.append(verdict)
            if not as_json:
                _print(verdict)

    async def main() -> None:
        await with_store(configuration(config, db=db), work, log=server_log("warning"))

    trio.run(main)
    if as_json:
        click.echo(json.dumps([one.payload() for one in verdicts], indent=2))
    if not all(one.is_clean for one in verdicts):
        raise click.exceptions.Exit(1)


async def _verdicts(store: EventStore, run: str | None, project: str | None) -> AsyncIterator[Verdict]:
    if run is not None:
        found = await find_run(store, run, project)
        yield await verify_run(store, found.project, found.run_id)
        return
    for name in [project] if project is not None else sorted(await store.heads()):
        yield await verify_project(store, name)
    for address in await run_ids(store, project):
        yield await verify_run(store, *address)


def _print(verdict: Verdict) -> None:
    place = f"project {visible(verdict.project)}" if verdict.run_id is None else f"run {visible(verdict.run_id)}"
    facts = ", ".join(_counted(verdict))
    words = "clean" if verdict.is_clean else _many(len(verdict.differences), "difference")
    click.echo(f"{place}: {facts}: {words}")
    for one in verdict.differences:
        click.echo(f"  {visible(one)}")


def _counted(verdict: Verdict) -> list[str]:
    words = [_many(verdict.events, "event")]
    if verdict.run_id is not None:
        counts = ((verdict.tests, "test"), (verdict.streams, "stream"), (verdict.receipts, "receipt"))
        words += [_many(count, word) for count, word in counts]
    return words


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")
