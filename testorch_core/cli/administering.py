"""`testorch token` and `testorch audit`: what an administrator does, beside a running server or without one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import trio

from testorch_core.cli.choosing import configuration
from testorch_core.config import Configuration
from testorch_core.door import ask, word_in
from testorch_core.errors import InUseError, UsageError
from testorch_core.events import AUDIT_PROJECT
from testorch_core.hosting import single_failure
from testorch_core.interfaces.storage import EventStore
from testorch_core.logs import server_log
from testorch_core.server import Server, with_store

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
PAGE_EVENTS: Final = 1_000


def administer(config: Path | None, db: str | None, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Have a configured plugin do something: in the server that holds the store, or here if none does."""
    chosen = configuration(config, db=db).for_administration()
    try:
        return trio.run(_here, chosen, operation, arguments)
    except InUseError as in_use:
        word = word_in(in_use.word or "")
        if word is None:
            raise
        return trio.run(ask, word, operation, arguments)


async def _here(chosen: Configuration, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    server = Server(chosen, log=server_log("warning"))
    with single_failure():
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            try:
                return await server.administer(operation, arguments, instance=arguments.get("instance"))
            finally:
                server.stop()


def create_token(
    config: Path | None,
    *,
    db: str | None,
    name: str,
    scopes: Sequence[str],
    projects: Sequence[str],
    roles: Sequence[str],
    expires: str | None,
    instance: str | None,
    as_json: bool,
) -> None:
    """Make a token and print it, once."""
    arguments = {
        "name": name, "scopes": list(scopes), "projects": list(projects), "roles": list(roles),
        "expiresInSeconds": None if expires is None else seconds_of(expires), "instance": instance,
    }  # fmt: skip
    made = administer(config, db, "token create", arguments)
    if as_json:
        click.echo(json.dumps(made, indent=2))
        return
    click.echo(made["token"])
    good = "for good" if made["expiresAt"] is None else f"until {_moment(made['expiresAt'])}"
    scope = ", ".join(made["scopes"])
    where = "all projects" if made["projects"] is None else ", ".join(made["projects"])
    click.echo(f"`{made['name']}` ({made['id']}): {scope}; {where}; {good}. It is shown only now.", err=True)


def list_tokens(config: Path | None, *, db: str | None, instance: str | None, as_json: bool) -> None:
    """Print what is known of every token; never the tokens."""
    found = administer(config, db, "token list", {"instance": instance})["tokens"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for one in found:
        where = "all projects" if one["projects"] is None else ", ".join(one["projects"])
        until = "" if one["expiresAt"] is None else f"until {_moment(one['expiresAt'])}"
        click.echo(
            f"{one['id']:<12} {one['state']:<8} {one['name']:<24} {', '.join(one['scopes'])}; {where} {until}".rstrip()
        )


def revoke_token(config: Path | None, *, db: str | None, token: str, instance: str | None) -> None:
    """Revoke a token by its id or name; connections that came in with it are closed within seconds."""
    gone = administer(config, db, "token revoke", {"token": token, "instance": instance})
    click.echo(f"`{gone['name']}` ({gone['id']}) is revoked")


def audit(config: Path | None, *, db: str | None, limit: int, as_json: bool) -> None:
    """Print the end of the audit trail, the oldest first."""
    log = server_log("warning")
    events = trio.run(lambda: with_store(configuration(config, db=db), lambda store: _last(store, limit), log=log))
    for event in events:
        if as_json:
            click.echo(json.dumps(event))
            continue
        facts = " ".join(f"{key}={value}" for key, value in event["payload"].items() if key != "times" or value != 1)
        click.echo(f"{_moment(event['timestamp'] / 1000)}  {event['type'].removeprefix('system/audit/'):<15} {facts}")


async def _last(store: EventStore, limit: int) -> list[Mapping[str, Any]]:
    head = (await store.heads()).get(AUDIT_PROJECT, 0)
    after = max(0, head - limit)
    found: list[Mapping[str, Any]] = []
    while after < head:
        batches = await store.read(AUDIT_PROJECT, after=after, limit=PAGE_EVENTS)
        if not batches:
            break
        found += [wire for batch in batches for wire in batch.wires()]
        after = batches[-1].last_offset
    return [{"type": one["type"], "timestamp": one["timestamp"], "payload": one["payload"]} for one in found[-limit:]]


def seconds_of(text: str) -> int:
    """A time such as `90d` or `12h` in seconds. Raises `UsageError`."""
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if found is None or int(found[1]) == 0:
        raise UsageError(f"`{text}` is not a time; write a number and a unit, such as 90d, 12h or 30m")
    return int(found[1]) * _UNITS[found[2]]


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
