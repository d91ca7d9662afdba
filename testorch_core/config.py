"""testorch.toml -> `Configuration`: which plugins run, with which options. Every problem comes in one message."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from marshmallow import fields, validate

from testorch_core.acceptor import Real
from testorch_core.errors import ConfigurationError, PluginBrokenError, PluginNotFoundError, Problem
from testorch_core.interfaces.plugin import Plugin
from testorch_core.loading import default_configuration, load_plugin
from testorch_core.options import Options, OptionsError, option

TABLES: Final[Mapping[str, str]] = {"transports": "transport", "security": "security", "reporters": "reporter"}
"""The tables that hold named instances, and the family of each."""


def _seconds(least: float = 0.0) -> Real:
    return Real(validate=validate.Range(min=least))


def _count() -> fields.Integer:
    return fields.Integer(strict=True, validate=validate.Range(min=1))


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Options):
    """The `[server]` table: limits and times of the core itself."""

    drain_seconds: float = option(_seconds(), default=10.0, help="how long a stopping server serves what has arrived")
    close_seconds: float = option(_seconds(), default=5.0, help="how long a plugin may take to close")
    lost_grace_seconds: float = option(
        _seconds(), default=5.0, help="how long a participant whose connection has gone may take to come back"
    )
    heartbeat_seconds: float = option(
        _seconds(0.1), default=2.0, help="how often the client of a stream is asked to say something"
    )
    silence_seconds: float = option(
        _seconds(0.1), default=5.0, help="how long the client of a stream may say nothing before its connection is lost"
    )
    resume_seconds: float = option(
        _seconds(), default=60.0, help="how long after a restart the runs that were open wait for their participants"
    )
    join_timeout_seconds: float = option(
        _seconds(), default=300.0, help="how long a run whose participants have all ended waits for those it expects"
    )
    authentication_seconds: float = option(
        _seconds(), default=10.0, help="how long a client may take to show who it is; then it is closed with 4408"
    )
    recheck_seconds: float = option(
        _seconds(0.1), default=2.0, help="how often the credentials of connected clients are looked at again"
    )
    max_connections_per_principal: int = option(
        _count(), default=2_000, help="connections that one principal may have open; more are closed with 4429"
    )
    max_message_bytes: int = option(_count(), default=4 * 1024 * 1024, help="the largest message, in bytes")
    max_queued_events: int = option(_count(), default=20_000, help="events that wait for a commit before reading stops")
    max_queued_bytes: int = option(
        _count(), default=64 * 1024 * 1024, help="bytes of messages that wait for a commit before reading stops"
    )
    max_commit_events: int = option(_count(), default=2_000, help="events in one commit, at the most")
    max_in_flight: int = option(
        _count(),
        default=10_000,
        help="events of one connection that may wait for their commit before it is read no further",
    )
    max_projects: int = option(_count(), default=1_000, help="projects; the first event of one more is `overloaded`")
    max_participants: int = option(_count(), default=10_000, help="participants of one run; more are `too_large`")
    max_open_runs: int = option(_count(), default=2_000, help="runs that may be open at once; more are `overloaded`")
    max_run_tests: int = option(_count(), default=1_000_000, help="tests of one run; more are refused as `too_large`")
    max_subscriptions: int = option(_count(), default=100, help="subscriptions of one connection")
    finished_runs_kept: int = option(_count(), default=100, help="finished runs whose status is answered from memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginTable:
    """One configured instance: its family, its name, the plugin it uses, and its options as given."""

    family: str
    name: str
    use: str
    given: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Where it stands in the file, with the plugin it uses where the name doesn't tell."""
        table = next((table for table, family in TABLES.items() if family == self.family), None)
        if table is None:
            return f"{self.family} ({self.use})"
        where = f"{table}.{self.name}"
        return where if self.use == self.name else f"{where} ({self.use})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a file says. `source` is what messages call it; relative paths are relative to `folder`.

    `problems` are those found in its shape; `construct` reports them together with those of the plugins' options.
    """

    source: str
    folder: Path
    server: ServerOptions
    storage: PluginTable | None
    transports: tuple[PluginTable, ...] = ()
    security: tuple[PluginTable, ...] = ()
    reporters: tuple[PluginTable, ...] = ()
    problems: tuple[Problem, ...] = ()

    def tables(self) -> Iterator[PluginTable]:
        """Every instance, in the order in which they are started."""
        if self.storage is not None:
            yield self.storage
        yield from self.security
        yield from self.reporters
        yield from self.transports

    def with_storage(self, **given: Any) -> Configuration:
        """The same with some options of the storage replaced (`--db`)."""
        if self.storage is None:
            return self
        return replace(self, storage=replace(self.storage, given={**self.storage.given, **given}))

    def with_first_transport(self, **given: Any) -> Configuration:
        """The same with some options of the first transport replaced (`--host`, `--port`); without one, unchanged."""
        if not self.transports:
            return self
        first = replace(self.transports[0], given={**self.transports[0].given, **given})
        return replace(self, transports=(first, *self.transports[1:]))

    def with_security(self, given: Mapping[str, Any]) -> Configuration:
        """The same with other `[security]` tables."""
        problems: list[Problem] = []
        security = tuple(_instances("security", "security", given, problems))
        return replace(self, security=security, problems=(*self.problems, *problems))

    def without_transports(self) -> Configuration:
        """The same, reached only by who embeds it."""
        return replace(self, transports=())

    def for_administration(self) -> Configuration:
        """The same with the store and the policies alone: for commands that change what these keep."""
        return replace(self, transports=(), reporters=())

    def only_storage(self) -> Configuration:
        """The same without everything that listens, checks or tells: for commands that read."""
        return replace(self, transports=(), security=(), reporters=())


def read_configuration(path: Path) -> Configuration:
    """The configuration in a file. Raises `ConfigurationError`."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "it is not UTF-8"
        raise ConfigurationError(str(path), [Problem("", f"can't be read: {reason}")]) from failure
    return parse_configuration(text, source=str(path), folder=path.resolve().parent)


def defaults(name: str, *, folder: Path) -> Configuration:
    """A configuration that an installed distribution offers, for use without a file."""
    return parse_configuration(default_configuration(name), source=f"defaults `{name}`", folder=folder)


def parse_configuration(text: str, *, source: str, folder: Path) -> Configuration:
    """The configuration in a TOML text. Raises `ConfigurationError`."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as failure:
        raise ConfigurationError(source, [Problem("", f"is not TOML: {failure}")]) from failure
    return configuration_of(tables, source=source, folder=folder)


def configuration_of(tables: Mapping[str, Any], *, source: str, folder: Path) -> Configuration:
    """The configuration in tables that have been read already, with what is wrong in its shape."""
    problems = [_unknown_table(key) for key in tables if key not in ("server", "storage", *TABLES)]
    server = ServerOptions()
    try:
        server = ServerOptions.load(_table(tables.get("server", {})), folder=folder)
    except (OptionsError, TypeError) as failure:
        listed = failure.problems if isinstance(failure, OptionsError) else [Problem("", str(failure))]
        problems += [Problem("server", one.problem.replace("of this plugin", "of the server")) for one in listed]
    storage = _instance("storage", "storage", None, tables.get("storage"), problems)
    families = {
        table: tuple(_instances(table, family, tables.get(table, {}), problems)) for table, family in TABLES.items()
    }
    return Configuration(
        source=source, folder=folder, server=server, storage=storage, problems=tuple(problems), **families
    )


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("must be a table")
    return value


def _unknown_table(key: str) -> Problem:
    known = ["server", "storage", *TABLES]
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `[{near[0]}]`?" if near else "tables: " + ", ".join(f"`[{name}]`" for name in known)
    return Problem(key, f"`{key}` is not a table of the configuration; {hint}")


def _instances(table: str, family: str, given: Any, problems: list[Problem]) -> Iterator[PluginTable]:
    if not isinstance(given, Mapping):
        problems.append(Problem(table, f"must be tables such as `[{table}.main]`"))
        return
    for name, options in given.items():
        found = _instance(family, f"{table}.{name}", name, options, problems)
        if found is not None:
            yield found


def _instance(family: str, place: str, name: str | None, given: Any, problems: list[Problem]) -> PluginTable | None:
    if given is None:
        problems.append(Problem(place, 'is missing; a server needs one, such as `[storage]` with `use = "memory"`'))
        return None
    if not isinstance(given, Mapping):
        problems.append(Problem(place, f"must be a table such as `[{place}]`"))
        return None
    use = given.get("use", name)
    if not isinstance(use, str):
        wrong = "`use` is required: the name of a plugin" if use is None else "`use` must be a string"
        problems.append(Problem(place, wrong))
        return None
    options = {key: value for key, value in given.items() if key != "use"}
    return PluginTable(family=family, name=name or use, use=use, given=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """The instances of a configuration, constructed and not yet started."""

    storage: Plugin
    security: tuple[Plugin, ...] = ()
    reporters: tuple[Plugin, ...] = ()
    transports: tuple[Plugin, ...] = ()


def construct(configuration: Configuration) -> Plugins:
    """Import the configured plugins, check their options, construct them. Opens nothing.

    Raises `ConfigurationError` with everything that is wrong in any of them.
    """
    problems = list(configuration.problems)
    by_family: dict[str, list[Plugin]] = {}
    for table in configuration.tables():
        plugin = _construct_one(table, configuration.folder, problems)
        if plugin is not None:
            by_family.setdefault(table.family, []).append(plugin)
    if problems:
        raise ConfigurationError(configuration.source, problems)
    return Plugins(
        storage=by_family["storage"][0],
        security=tuple(by_family.get("security", ())),
        reporters=tuple(by_family.get("reporter", ())),
        transports=tuple(by_family.get("transport", ())),
    )


def construct_alone(configuration: Configuration, table: PluginTable) -> Plugin:
    """One instance of a configuration, whatever is wrong with the others. Raises `ConfigurationError`."""
    problems: list[Problem] = []
    plugin = _construct_one(table, configuration.folder, problems)
    if plugin is None:
        raise ConfigurationError(configuration.source, problems)
    return plugin


def _construct_one(table: PluginTable, folder: Path, problems: list[Problem]) -> Plugin | None:
    try:
        found = load_plugin(table.family, table.use)
        options = found.options_type.load(table.given, folder=folder)
    except OptionsError as failure:
        problems += [Problem(table.place, one.problem) for one in failure.problems]
        return None
    except (PluginNotFoundError, PluginBrokenError) as failure:
        problems.append(Problem(table.place, str(failure)))
        return None
    try:
        return found(table.name, options)
    except Exception as failure:  # a third party's constructor may raise anything; here it is one more problem
        problems.append(Problem(table.place, f"the plugin can't be constructed: {type(failure).__name__}: {failure}"))
        return None
