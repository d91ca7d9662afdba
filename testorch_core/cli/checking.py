"""`testorch check` and `testorch plugins`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from testorch_core.cli.choosing import configuration
from testorch_core.config import construct
from testorch_core.errors import PluginBrokenError
from testorch_core.loading import Installed, installed_plugins, load_plugin


def check(config: Path | None, *, db: str | None) -> None:
    """Import the configured plugins and check their options; print what would run."""
    chosen = configuration(config, db=db)
    construct(chosen)
    click.echo(f"{chosen.source}: sound")
    for table in chosen.tables():
        click.echo(f"  {table.family:<10} {table.name:<16} {table.use}")


def plugins(*, as_json: bool) -> None:
    """Print every installed plugin; imports them all, and shows those that are broken. Exits with 1 if any is."""
    rows = [_described(one) for one in installed_plugins()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        widths = [max((len(str(row[key])) for row in rows), default=0) for key in ("family", "name", "distribution")]
        for row in rows:
            words = row["summary"] if row["error"] is None else f"BROKEN: {row['error']}"
            place = f"{row['distribution']:<{widths[2]}} {row['version']:<8}"
            click.echo(f"{row['family']:<{widths[0]}}  {row['name']:<{widths[1]}}  {place} {words}")
    if any(row["error"] is not None for row in rows):
        raise click.exceptions.Exit(1)


def _described(one: Installed) -> dict[str, str | None]:
    row: dict[str, str | None] = {
        "family": one.family,
        "name": one.name,
        "distribution": one.distribution,
        "version": one.version,
        "summary": None,
        "error": None,
    }
    try:
        row["summary"] = load_plugin(one.family, one.name).summary
    except PluginBrokenError as failure:
        row["error"] = str(failure)
    return row
