"""How much work a regular expression may make at one place of a text, worked out before it is ever used. Pure.

Python's `re` has no time limit, and `(a+)+$` takes 2^n steps. Here every repetition has an upper bound, and what each choice
can multiply is multiplied: the result bounds the steps at one place, so the time for a text grows with its length alone.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

MAX_STEPS: Final = 2_000
"""The most steps at one place of a text; measured with as many at every place, a million characters take 2.5 s."""

MIN_WORD_CHARACTERS: Final = 3

_ENDLESS: Final = 10**9
# `sre_parse` was its public name; since Python 3.11 that is deprecated, and there is no other parser of its grammar.
_parser: Any = importlib.import_module("re._parser")


class UnboundedError(ValueError):
    """An expression that could take too long; the message is a sentence about it."""


def steps_of(expression: str) -> int:
    """The most steps at one place of a text. Raises `UnboundedError`, and `re.error` for what is no expression."""
    return min(_sequence(_parser.parse(expression))[0], _ENDLESS)


def shortest_match(expression: str) -> int:
    """The characters of the shortest possible match."""
    return int(_parser.parse(expression).getwidth()[0])


def word_of(expression: str) -> str | None:
    """The longest run of plain characters that every match holds, or None where it is too short to look for."""
    parsed = _parser.parse(expression)
    if parsed.state.flags & re.IGNORECASE:
        return None
    run, runs = "", [""]
    for one in _flat(parsed):
        run = f"{run}{one}" if one else ""
        runs.append(run)
    longest = max(runs, key=len)
    return longest if len(longest) >= MIN_WORD_CHARACTERS else None


def _flat(items: Any) -> list[str]:
    """The plain characters of a sequence in their order; an empty string for anything else."""
    found = []
    for kind, value in items:
        if str(kind) == "LITERAL":
            found.append(chr(value))
        elif str(kind) == "SUBPATTERN" and not value[1] and not value[2]:
            found += _flat(value[3])
        elif str(kind) not in ("AT", "ASSERT", "ASSERT_NOT"):
            found.append("")
    return found


def _sequence(items: Any) -> tuple[int, int]:
    """(steps, ways) of a sequence: in how many ways it can match, each of which what follows may have to try."""
    steps, ways = 0, 1
    for kind, value in items:
        more, choices = _item(str(kind), value)
        steps, ways = min(steps + ways * more, _ENDLESS), min(ways * choices, _ENDLESS)
    return steps, ways


def _item(kind: str, value: Any) -> tuple[int, int]:
    if kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN", "AT", "FAILURE"):
        return 1, 1
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        return _repeat(*value)
    if kind == "POSSESSIVE_REPEAT":
        return _repeat(*value)[0], 1
    if kind == "ATOMIC_GROUP":
        return _sequence(value)[0], 1
    if kind in ("ASSERT", "ASSERT_NOT"):
        return _sequence(value[1])[0], 1
    if kind == "SUBPATTERN":
        return _sequence(value[3])
    if kind == "BRANCH":
        return _branch(value[1])
    raise UnboundedError("refers back to a group, which has no bound on its time; write it without")


def _repeat(least: Any, most: Any, items: Any) -> tuple[int, int]:
    if most == _parser.MAXREPEAT:
        raise UnboundedError("repeats without an upper bound (`*`, `+`, `{n,}`); write one, such as `{1,200}`")
    steps, ways = _sequence(items)
    if ways == 1:
        return int(most) * steps, int(most) - int(least) + 1
    tried, found, total = 1, 0, 0
    for count in range(int(most) + 1):
        found += tried if count >= int(least) else 0
        total += tried * steps if count < int(most) else 0
        tried *= ways
        if total > _ENDLESS or found > _ENDLESS:
            return _ENDLESS, _ENDLESS
    return total, found


def _branch(branches: Any) -> tuple[int, int]:
    counted = [_sequence(one) for one in branches]
    firsts = [one[0][1] if len(one) and str(one[0][0]) == "LITERAL" else None for one in branches]
    is_decided = None not in firsts and len(set(firsts)) == len(firsts)
    ways = [one for _, one in counted]
    return sum(steps for steps, _ in counted), max(ways) if is_decided else sum(ways)
