"""Finding and importing plugins: the only module that knows stevedore. It fails loudly.

Facts about stevedore 5.10 that shape it: names that are missing or fail to import are only logged; duplicates that are
not neighbours go unnoticed; entry points from its cache have lost their distribution, and the cache misses what was
installed within about a minute. So one `DriverManager` for each configured name, over entry points read afresh, with
errors of our own. Listing imports nothing; a plugin that is installed but not configured is never imported.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from stevedore import DriverManager

from testorch_core.errors import ConfigurationError, PluginBrokenError, PluginNotFoundError, Problem
from testorch_core.interfaces.plugin import Plugin
from testorch_core.interfaces.reporter import Reporter
from testorch_core.interfaces.security import SecurityPolicy
from testorch_core.interfaces.storage import EventStore
from testorch_core.interfaces.transport import Transport

# mypy wants concrete classes wherever it sees `type[…]`; here it is the interfaces that are wanted.
FAMILIES: Final[Mapping[str, type[Plugin]]] = {
    "storage": EventStore,  # type: ignore[type-abstract]
    "transport": Transport,  # type: ignore[type-abstract]
    "security": SecurityPolicy,  # type: ignore[type-abstract]
    "reporter": Reporter,  # type: ignore[type-abstract]
}
DEFAULTS_GROUP: Final = "testorch.defaults"


@dataclass(frozen=True, slots=True, order=True)
class Installed:
    """A plugin that is installed, known without importing it."""

    family: str
    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"`{self.name}` ({self.distribution} {self.version})"


class _FreshDriver(DriverManager[Any]):
    """A driver manager that reads the entry points now, with their distributions, past stevedore's cache."""

    def list_entry_points(self) -> list[EntryPoint]:
        return list(entry_points(group=self.namespace))


def installed_plugins(family: str | None = None) -> list[Installed]:
    """What is installed, sorted; imports none of it."""
    families = FAMILIES if family is None else (family,)
    return sorted(
        Installed(one, found.name, found.dist.name if found.dist else "?", found.dist.version if found.dist else "?")
        for one in families
        for found in entry_points(group=f"testorch.{one}")
    )


def load_plugin(family: str, name: str) -> type[Plugin]:
    """The class of a plugin.

    Raises `PluginNotFoundError` listing what is installed, `PluginBrokenError` when the import fails, when two
    distributions offer the name, or when what was found is not a plugin of the family.
    """
    wanted = _only(family, name)
    return _of_family(family, wanted, _import(family, wanted))


def load_extra(group: str, name: str) -> Any:
    """What a distribution offers to a plugin under an entry point group of its own, `testorch.GROUP`: any object at all.

    Raises `PluginNotFoundError` and `PluginBrokenError` as `load_plugin` does; what was found is for the caller to check.
    """
    return _import(group, _only(group, name))


def _only(family: str, name: str) -> Installed:
    known = installed_plugins(family)
    candidates = [one for one in known if one.name == name]
    if not candidates:
        raise PluginNotFoundError(_not_found(family, name, known))
    if len(candidates) > 1:
        offered = " and ".join(sorted(f"{one.distribution} {one.version}" for one in candidates))
        raise PluginBrokenError(f"{family} plugin `{name}` is offered twice, by {offered}; uninstall one of them")
    return candidates[0]


def _import(family: str, wanted: Installed) -> Any:
    failures: list[BaseException] = []
    try:
        return _FreshDriver(
            f"testorch.{family}",
            wanted.name,
            invoke_on_load=False,
            on_load_failure_callback=lambda manager, entry_point, failure: failures.append(failure),
            on_missing_entrypoints_callback=None,
        ).driver
    # Importing runs the plugin's own code, which may raise anything at all; stevedore lets AssertionError through and
    # reports the rest by NoMatches. KeyboardInterrupt and SystemExit of a plugin's import are not ours to hide.
    except Exception as failure:
        cause = failures[0] if failures else failure
        reason = f"{type(cause).__name__}: {cause}"
        raise PluginBrokenError(f"{family} plugin {wanted} can't be imported: {reason}") from cause


def _of_family(family: str, wanted: Installed, found: Any) -> type[Plugin]:
    interface = FAMILIES[family]
    if not (isinstance(found, type) and issubclass(found, interface)):
        raise PluginBrokenError(f"{family} plugin {wanted} is not a {interface.__name__}, but {found!r}")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        names = ", ".join(f"`{one}`" for one in missing)
        raise PluginBrokenError(f"{family} plugin {wanted} does not implement {names} of {interface.__name__}")
    return found


def _not_found(family: str, name: str, known: Iterable[Installed]) -> str:
    listed = list(known)
    near = difflib.get_close_matches(name, [one.name for one in listed], n=1)
    by_distribution: dict[str, list[str]] = {}
    for one in listed:
        by_distribution.setdefault(f"{one.distribution} {one.version}", []).append(f"`{one.name}`")
    shown = "; ".join(f"{', '.join(names)} ({where})" for where, names in sorted(by_distribution.items())) or "none"
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return f"no {family} plugin is named `{name}`{hint}; installed: {shown}"


def default_configuration(name: str) -> str:
    """The text of a TOML file that an installed distribution offers as `testorch.defaults`.

    Raises `ConfigurationError` when none is installed or two distributions offer the same name.
    """
    found = entry_points(group=DEFAULTS_GROUP)
    counted = Counter(one.name for one in found)
    if counted[name] != 1:
        listed = ", ".join(f"`{one}`" for one in sorted(counted)) or "none"
        wrong = "no installed distribution offers" if not counted[name] else "more than one distribution offers"
        problem = Problem(
            "", f"{wrong} the default configuration `{name}` (entry point `{DEFAULTS_GROUP}`); found: {listed}"
        )
        raise ConfigurationError("defaults", [problem])
    (chosen,) = found.select(name=name)
    return (resources.files(chosen.module) / f"{chosen.attr}.toml").read_text("utf-8")
