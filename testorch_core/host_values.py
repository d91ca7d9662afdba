"""What an embedding host passes in, decoded by whatever it uses: brought to what the wire decoder would have made of it."""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

import orjson

from testorch_core.decoding import MAX_DEPTH, MAX_INTEGER, decode, flaw_in, keys_in
from testorch_core.errors import Problem, refuse
from testorch_core.text import clip

_PLAIN: Final = frozenset({dict, list, tuple, str, int, float, bool, type(None)})
"""What an embedding host's value may be made of. Subclasses are left out: they may show one thing and write another."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESTIMATE: Final = 2
"""How far a quick estimate of a value's size may be over the limit before nobody tries to write it."""

_MOST_SOUGHT: Final = 100_000
"""Parts of a host's value that are looked at to say where it is wrong."""


class Admitted(NamedTuple):
    """A value as the wire would have brought it, nobody else's to change, and its size as compact JSON."""

    value: Any
    size_bytes: int


def admitted(value: Any, *, max_bytes: int) -> Admitted:
    """A host's own value, held against what the wire decoder takes: written as JSON and read by that decoder.

    Tuples become lists. Raises `RefusedError` (`too_large`, `invalid_json` with a path) for what JSON has no word for
    (any other type, keys that are no strings, NaN, cycles) and for all that `decode` and `flaw_in` find.
    """
    is_plain, size = _measured(value, max_bytes)
    if size > _ESTIMATE * max_bytes:
        raise refuse("too_large", f"more than {max_bytes} bytes as JSON; at most {max_bytes} are taken")
    try:
        raw = orjson.dumps(value) if is_plain else None
    except TypeError:  # a lone surrogate, an integer of more than 64 bits
        raw = None
    if raw is None:
        flaw = _foreign_in(value)
        raise refuse("invalid_json", str(flaw), details=(flaw,))
    found = decode(raw, max_bytes=max_bytes)
    flaw_found = flaw_in(found.value) if found.suspicious else None
    if flaw_found is not None:
        raise refuse("invalid_json", str(flaw_found), details=(flaw_found,))
    return Admitted(found.value, len(raw))


def _measured(value: Any, max_bytes: int) -> tuple[bool, int]:
    """Whether a value is made of JSON's types alone and not too deep; and about how many bytes it has, as far as seen.

    Stops at the limit: what refers to the same parts again and again can be small in memory and endless as JSON.
    """
    level, size = [value], 0
    for _ in range(MAX_DEPTH + 1):
        kinds = set(map(type, level))
        if not kinds <= _PLAIN or (float in kinds and not _all_finite(level)):
            return False, size
        size += len(level)
        if str in kinds:
            size += sum([len(one) for one in level if type(one) is str])
        if dict in kinds:
            try:
                size += sum(map(len, keys_in(level)))
            except TypeError:
                return False, size
        if size > _ESTIMATE * max_bytes:
            return True, size
        level = gc.get_referents(*level)
        if not level:
            return True, size
    return False, size


def _all_finite(level: Iterable[Any]) -> bool:
    return all(map(math.isfinite, [one for one in level if type(one) is float]))


def _foreign_in(value: Any) -> Problem:
    """The first thing in a host's value that JSON can't hold or the decoder would refuse, with its path."""
    todo: list[tuple[Any, str, int]] = [(value, "", 1)]
    for _ in range(_MOST_SOUGHT):
        if not todo:
            break
        one, path, depth = todo.pop()
        words = _words_against(one, depth)
        if words is not None:
            return Problem(path, words)
        inside = one.items() if type(one) is dict else enumerate(one) if type(one) in (list, tuple) else ()
        first = [
            (part, clip(f"{path}.{key}" if path else str(key), 80), depth + 1)
            for key, part in islice(inside, _MOST_SOUGHT)
        ]
        todo += reversed(first)
    return Problem("", "holds what can't be written as JSON")


def _words_against(one: Any, depth: int) -> str | None:
    """What speaks against one value by itself."""
    kind = type(one)
    if kind not in _PLAIN:
        return f"is of the type `{clip(kind.__name__, 50)}`, which JSON does not have"
    if kind in (dict, list, tuple) and depth > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels"
    if kind is dict:
        return _words_against_keys(one)
    if kind is str:
        return _words_against_text(one, "the text")
    if kind is float and not math.isfinite(one):
        return "the number is not finite"
    return "the number is beyond ±(2^53-1)" if kind in (int, float) and abs(one) > MAX_INTEGER else None


def _words_against_keys(one: dict[Any, Any]) -> str | None:
    strange = next((key for key in one if type(key) is not str), None)
    if strange is not None or None in one:
        return f"a key is of the type `{clip(type(strange).__name__, 50)}`; keys are strings"
    return next(filter(None, (_words_against_text(key, "a key") for key in one)), None)


def _words_against_text(text: str, what: str) -> str | None:
    if "\x00" in text:
        return f"{what} holds the character NUL"
    return f"{what} holds a lone surrogate, which is not Unicode" if _SURROGATE.search(text) else None
