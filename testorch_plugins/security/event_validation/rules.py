"""A team's own rules about types and fields: which types are taken, and what must be in them. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from testorch_core import events as ev
from testorch_core.errors import MAX_DETAILS, Problem
from testorch_plugins.security.event_validation.schemas import SCHEMAS

_OUR_PREFIXES: Final = ("test/", "run/", "stream/", "system/")
"""Types that begin so are testorch's own; a name that is not among them is a mistake."""

KNOWN: Final = frozenset(SCHEMAS) | ev.PRESENCE_TYPES


def is_listed(kind: str, types: Collection[str]) -> bool:
    """Whether a type is in a list of types; `mytool/*` stands for all that begin with `mytool/`."""
    return kind in types or any(one.endswith("/*") and kind.startswith(one[:-1]) for one in types)


def words_against_type(name: Any, *, with_star: bool) -> str | None:
    """What is wrong with a type in the configuration; None for a good one."""
    if not isinstance(name, str) or not name:
        return "must be an event type, such as `test/end`"
    bare = name.removesuffix("/*") if with_star else name
    if "*" in bare:
        return (
            "may have a `*` only as its last part, as in `mytool/*`" if with_star else "must be one type, without `*`"
        )
    if not name.startswith(_OUR_PREFIXES) or name in KNOWN or (with_star and any(_is_in(one, name) for one in KNOWN)):
        return None
    if name in ev.SERVER_TYPES:
        return "is written by the server alone"
    near = difflib.get_close_matches(name, sorted(SCHEMAS), n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(f'`{one}`' for one in sorted(SCHEMAS))}"
    return f"is not a type of testorch; {hint}"


def _is_in(kind: str, pattern: str) -> bool:
    return pattern.endswith("/*") and kind.startswith(pattern[:-1])


def missing_fields(payload: Mapping[str, Any], paths: Sequence[str]) -> list[Problem]:
    """Which of the dotted paths lead nowhere, or to null. In a list every item must have what the path says."""
    found: list[Problem] = []
    for path in paths:
        found += _missing(payload, path.split("."), "payload", path)
        if len(found) >= MAX_DETAILS:
            break
    return found[:MAX_DETAILS]


def _missing(value: Any, names: Sequence[str], place: str, path: str) -> list[Problem]:
    if not names:
        return []
    if type(value) is list:
        return _missing_in_list(value, names, place, path)
    where = f"{place}.{names[0]}"
    inner = value.get(names[0]) if type(value) is dict else None
    if inner is None:
        return [Problem(where, f"is required by the option `required` (`{path}`)")]
    return _missing(inner, names[1:], where, path)


def _missing_in_list(items: Sequence[Any], names: Sequence[str], place: str, path: str) -> list[Problem]:
    found: list[Problem] = []
    for index, one in enumerate(items):
        found += _missing(one, names, f"{place}.{index}", path)
        if len(found) >= MAX_DETAILS:
            break
    return found
