"""The command line. Each command imports what it needs when it runs, so that `testorch --help` answers at once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

CONFIG = click.option(
    "--config", "config", type=click.Path(path_type=Path), metavar="FILE", help="Configuration file (TOML)."
)
DATABASE = click.option("--db", "db", metavar="PATH", help="Database path: overrides `storage.path`.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"testorch {version('testorch')}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    """A test orchestration server: live state of every run, every event stored, nothing lost."""


@cli.command()
@CONFIG
@DATABASE
@click.option("--host", metavar="ADDRESS", help="Address to listen on: overrides the first transport's.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on: overrides the first transport's.")
@click.option(
    "--allow-anonymous", is_flag=True, help="Listen beyond this machine although no policy says who may come."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="What is written to standard error.",
)
def serve(**options: Any) -> None:
    """Run the server until Ctrl-C or SIGTERM."""
    gc.disable()  # nothing that an import makes is garbage; `serve` turns it on again once it listens
    from testorch_core.cli.serving import serve as run

    run(**options)


@cli.command()
@CONFIG
@DATABASE
def check(config: Path | None, db: str | None) -> None:
    """Check a configuration; opens nothing."""
    from testorch_core.cli.checking import check as run

    run(config, db=db)


@cli.command()
@JSON
def plugins(as_json: bool) -> None:
    """List the installed plugins, broken ones too."""
    from testorch_core.cli.checking import plugins as run

    run(as_json=as_json)


@cli.command()
@click.option("--keep/--no-keep", default=True, show_default=True, help="Keep the temporary folder.")
def demo(keep: bool) -> None:
    """Run a small pytest suite against a server."""
    from testorch_core.cli.demonstrating import demo as run

    run(keep=keep)


@cli.command()
@CONFIG
@DATABASE
@JSON
@click.option("--project", metavar="NAME", help="Only runs of this project.")
@click.option("--status", metavar="STATUS", help="Only runs with this status.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
def runs(**options: Any) -> None:
    """List runs, the newest first."""
    from testorch_core.cli.reading import runs as run

    run(**options)


@cli.command()
@click.argument("run")
@CONFIG
@DATABASE
@JSON
@click.option("--project", metavar="NAME", help="The run's project, where the id alone is not enough.")
@click.option("--all", "show_all", is_flag=True, help="List every test, not only those that need a look.")
def show(**options: Any) -> None:
    """Show one run. RUN is its id, the beginning of it, or `latest`."""
    from testorch_core.cli.reading import show as run

    run(**options)


@cli.command()
@click.argument("run")
@click.option(
    "--format", "format_name", required=True, metavar="NAME", help="A reporter that can render, such as junit."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write here, not to standard output."
)
@CONFIG
@DATABASE
@JSON
@click.option("--project", metavar="NAME", help="The run's project, where the id alone is not enough.")
def export(**options: Any) -> None:
    """Write one run as a document. With --json, say on standard output what was written."""
    from testorch_core.cli.reading import export as run

    run(**options)


@cli.command()
@click.argument("run", required=False)
@CONFIG
@DATABASE
@JSON
@click.option("--project", metavar="NAME", help="Only this project; or the run's, where the id alone is not enough.")
def verify(**options: Any) -> None:
    """Fold the log again and compare it with what is stored. RUN is as for `show`; without it, everything.

    Exits with 1 if anything differs. It changes nothing, and may run beside a server.
    """
    from testorch_core.cli.verifying import verify as run

    run(**options)


@cli.group()
def acl() -> None:
    """Ask what the access rules say."""


@acl.command()
@CONFIG
@JSON
@click.option("--as", "principal", required=True, metavar="NAME", help="Who asks; `anonymous` where nobody is known.")
@click.option(
    "--role", "roles", multiple=True, metavar="ROLE", help="A role of the asker's; may be given more than once."
)
@click.option("--do", "action", required=True, metavar="ACTION", help="The type of the message, such as startTestRun.")
@click.option("--project", required=True, metavar="NAME", help="The project that the message is about.")
@click.option("--run", metavar="ID", help="The run that the message names; without it, a message that names none.")
@click.option("--instance", metavar="NAME", help="Ask only this instance of the `[security]` tables.")
def explain(config: Path | None, **options: Any) -> None:
    """Say which rule decides about a message. Opens nothing, and needs no server.

    Exits with 0 if the message may pass, with 1 if it is refused, and with 2 if the configuration is wrong.
    What a token is bound to (scopes, projects, its expiry) comes on top, and is not asked about here.
    """
    from testorch_core.cli.explaining import explain as run

    run(config, **options)


INSTANCE = click.option("--instance", metavar="NAME", help="The policy's name, where several could do it.")


@cli.group()
def token() -> None:
    """Make, list and revoke tokens; beside a running server, too."""


@token.command("create")
@click.argument("name")
@CONFIG
@DATABASE
@JSON
@INSTANCE
@click.option(
    "--scope", "scopes", multiple=True, metavar="SCOPE", help="ingest, observe or admin; without it ingest and observe."
)
@click.option(
    "--project", "projects", multiple=True, metavar="NAME", help="A project that it is good for; all without it."
)
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role, for policies that decide by roles.")
@click.option("--expires", metavar="TIME", help="How long it is good, such as 90d or 12h; for good without it.")
def token_create(config: Path | None, **options: Any) -> None:
    """Make a token for NAME, and print it: it is shown only now."""
    from testorch_core.cli.administering import create_token as run

    run(config, **options)


@token.command("list")
@CONFIG
@DATABASE
@JSON
@INSTANCE
def token_list(config: Path | None, **options: Any) -> None:
    """List the tokens, without what is secret."""
    from testorch_core.cli.administering import list_tokens as run

    run(config, **options)


@token.command("revoke")
@click.argument("token", metavar="TOKEN")
@CONFIG
@DATABASE
@INSTANCE
def token_revoke(config: Path | None, **options: Any) -> None:
    """Revoke a token, named by its id or its name. Who came in with it is out within seconds."""
    from testorch_core.cli.administering import revoke_token as run

    run(config, **options)


@cli.command()
@CONFIG
@DATABASE
@JSON
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The last so many events."
)
def audit(config: Path | None, **options: Any) -> None:
    """Show who came in, who was turned away, and what administrators did."""
    from testorch_core.cli.administering import audit as run

    run(config, **options)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point. Errors of ours become a message on standard error and their exit code, never a traceback."""
    sys.exit(_guarded(lambda: cli.main(args=arguments, standalone_mode=False)))


def _guarded(command: Callable[[], Any]) -> int:
    from testorch_core.errors import TestorchError

    try:
        code = command()  # click hands the code of an `Exit` back as the value
    except click.ClickException as failure:
        failure.show()
        return failure.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return 141  # the reader of a pipe has gone: what `head` does to everybody
    except TestorchError as failure:
        return _told(failure)
    except BaseExceptionGroup as group:
        ours, others = group.split(TestorchError)
        if ours is None or others is not None:
            raise
        return max(_told(failure) for failure in _flat(ours))
    return code if isinstance(code, int) else 0


def _told(failure: Any) -> int:
    click.echo("\n".join(f"testorch: {line}" for line in str(failure).splitlines()), err=True)
    return int(failure.exit_code)


def _flat(group: BaseExceptionGroup[Any]) -> list[Any]:
    return [
        one
        for inner in group.exceptions
        for one in (_flat(inner) if isinstance(inner, BaseExceptionGroup) else [inner])
    ]
