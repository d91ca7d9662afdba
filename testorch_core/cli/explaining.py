"""`testorch acl explain`: what the configured policies would say of a message, and why. Starts none of them."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click

from testorch_core.cli.choosing import configuration
from testorch_core.config import Configuration, PluginTable, construct_alone
from testorch_core.errors import ConfigurationError, PolicyFailedError, Problem
from testorch_core.interfaces.security import (
    AccessRequest,
    Admission,
    Allow,
    Close,
    Delay,
    Explanation,
    Principal,
    Refuse,
    SecurityPolicy,
)  # fmt: skip
from testorch_core.interfaces.transport import Handshake
from testorch_core.loading import load_plugin
from testorch_core.router import HEARTBEAT, KNOWN_TYPES
from testorch_core.text import visible


@dataclass(frozen=True, slots=True)
class Answer:
    """What one policy says; no explanation where it can't tell. `line` is that of the deciding part, where it is known."""

    table: PluginTable
    explanation: Explanation | None
    line: int | None = None

    @property
    def verdict(self) -> str:
        """`allow` or `deny`; `unknown` from a policy that can't tell."""
        if self.explanation is None:
            return "unknown"
        return "allow" if isinstance(self.explanation.decision, Allow | Delay) else "deny"


def explain(
    config: Path | None,
    *,
    principal: str,
    roles: Sequence[str],
    action: str,
    project: str,
    run: str | None,
    instance: str | None,
    as_json: bool,
) -> None:
    """Ask every configured policy that can explain, and print the answers. Exits with 1 where one of them refuses."""
    _require_known(action)
    chosen = configuration(config, db=None)
    request = AccessRequest(
        principal=Principal(name=principal, roles=frozenset(roles)),
        handshake=Handshake(address="127.0.0.1", transport="explain"),
        action=action,
        project=project,
        run_id=run,
    )
    answers = [_answer(chosen, table, request, config) for table in _asked(chosen, instance)]
    if all(answer.explanation is None for answer in answers):
        words = "no configured policy can explain what it decides; is there one that decides by rules?"
        raise ConfigurationError(chosen.source, [*chosen.problems, Problem("security", words)])
    refusing = next((answer for answer in answers if answer.verdict == "deny"), None)
    if as_json:
        click.echo(json.dumps(_document(request, answers, refusing), indent=2))
    else:
        _print(chosen.source, answers, refusing)
    if refusing is not None:
        raise click.exceptions.Exit(1)


def _require_known(action: str) -> None:
    """Raises `click.BadParameter` for what is not asked about in a message."""
    known = sorted(KNOWN_TYPES - {HEARTBEAT})
    if action not in known:
        near = difflib.get_close_matches(action, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "one of " + ", ".join(f"`{one}`" for one in known)
        raise click.BadParameter(f"`{visible(action)}` is not an action; {hint}", param_hint="'--do'")


def _asked(chosen: Configuration, instance: str | None) -> list[PluginTable]:
    """The security instances that decide about messages, in the order of the file: all, or the named one.

    Raises `ConfigurationError` for what is wrong in the shape of the file, and for a name that isn't there.
    """
    names = [table.name for table in chosen.security]
    problems = list(chosen.problems)
    if instance is not None and instance not in names:
        listed = ", ".join(f"`{name}`" for name in names) or "none"
        problems.append(Problem("security", f"no instance is named `{visible(instance)}`; there are: {listed}"))
    if problems:
        raise ConfigurationError(chosen.source, problems)
    return [table for table in chosen.security if instance in (None, table.name) and _decides(table)]


def _decides(table: PluginTable) -> bool:
    found = cast("type[SecurityPolicy]", load_plugin(table.family, table.use))
    return found.admit is not SecurityPolicy.admit or found.explain is not SecurityPolicy.explain


def _answer(chosen: Configuration, table: PluginTable, request: AccessRequest, config: Path | None) -> Answer:
    """A policy's answer. One that can't explain is not constructed: its secrets may be on another machine."""
    if cast("type[SecurityPolicy]", load_plugin(table.family, table.use)).explain is SecurityPolicy.explain:
        return Answer(table, None)
    policy = cast(SecurityPolicy, construct_alone(chosen, table))
    try:
        explanation = policy.explain(request)
    except Exception as failure:  # whatever a policy raises, it has not allowed anything; its words may hold anything
        raise PolicyFailedError(table.name, "explain") from failure
    if explanation is None or explanation.place is None or config is None:
        return Answer(table, explanation)
    return Answer(table, explanation, line_of(config.read_text("utf-8"), table, explanation.place))


def line_of(text: str, table: PluginTable, place: str) -> int | None:
    """The line, from 1, where a part of an instance's table begins: `rules.2` at the second `[[security.NAME.rules]]`.

    None for another kind of place, and where the file writes the array in another way.
    """
    key, _, number = place.partition(".")
    array = table.given.get(key)
    if not isinstance(array, list) or not number.isdecimal():
        return None
    found = [at for at, line in enumerate(text.split("\n"), 1) if _header(line) == ["security", table.name, key]]
    if len(found) != len(array) or not 0 < int(number) <= len(found):
        return None
    return found[int(number) - 1]


def _header(line: str) -> list[str]:
    """The path in a line such as `[[security.acl.rules]]`; empty for any other line."""
    line = line.strip()
    if not line.startswith("[["):
        return []
    path: list[str] = []
    try:
        found: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return []
    while isinstance(found, dict) and len(found) == 1:
        ((key, found),) = found.items()
        path.append(key)
    return path


def _print(source: str, answers: Sequence[Answer], refusing: Answer | None) -> None:
    for answer in answers:
        words = "decides about messages, too, and can't explain it"
        if answer.explanation is not None:
            at = "" if answer.line is None else f" ({visible(source)}:{answer.line})"
            words = f"{visible(answer.explanation.words)}{at}"
        click.echo(f"{visible(answer.table.place)}: {words}")
    if refusing is None or refusing.explanation is None:
        click.echo("allow")
    else:
        click.echo(f"deny: {visible(_said(refusing.explanation.decision))}")


def _said(decision: Admission) -> str:
    """What the client is told."""
    if isinstance(decision, Refuse):
        return f"{decision.code}: {decision.reason}"
    return f"closed with {decision.code}: {decision.reason}" if isinstance(decision, Close) else ""


def _document(request: AccessRequest, answers: Sequence[Answer], refusing: Answer | None) -> dict[str, Any]:
    return {
        "principal": request.principal.name,
        "roles": sorted(request.principal.roles),
        "action": request.action,
        "project": request.project,
        "runId": request.run_id,
        "outcome": "allow" if refusing is None else "deny",
        "policy": None if refusing is None else refusing.table.name,
        "answers": [_row(answer) for answer in answers],
    }


def _row(answer: Answer) -> dict[str, Any]:
    told = answer.explanation
    return {
        "policy": answer.table.name,
        "plugin": answer.table.use,
        "verdict": answer.verdict,
        "words": None if told is None else told.words,
        "place": None if told is None else told.place,
        "line": answer.line,
        "told": None if told is None else _said(told.decision) or None,
    }
