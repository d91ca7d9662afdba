"""The one strict decoder for everything that comes from outside, and the one encoder for what goes out.

What it refuses, no store ever sees: text over the limit, not UTF-8, not JSON, NaN and Infinity, lone surrogates (orjson
refuses these), and, found in a second look that cheap filters call for: nesting over 64, numbers beyond
±(2^53-1), NUL in any string, keys included. Of duplicate keys the last wins. What an embedding host has decoded itself
goes the same way (`host_values.admitted`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from itertools import chain, count
from typing import Any, Final, NamedTuple

import orjson

from testorch_core.errors import Problem, refuse
from testorch_core.text import clip, visible

MAX_DEPTH: Final = 64
MAX_INTEGER: Final = 2**53 - 1
"""The largest integer that JavaScript, and so a browser, holds exactly."""

# A message's outline: every digit, and the `+` of an exponent, is `0`; every opening bracket `[`; whatever else a number can
# follow `:`; what plays no part `_`. Looking for fixed words in it costs a twentieth of what a regular expression over the
# message itself does, and having few characters lets `find` skip more of it.
_KEPT: Final = {"0": b"0123456789+", "[": b"[{", ":": b":, \t\r\n", "e": b"eE", "-": b"-", ".": b"."}
_PLACES: Final = {byte: ord(sign) for sign, group in _KEPT.items() for byte in group}
_OUTLINE: Final = bytes(_PLACES.get(byte, ord("_")) for byte in range(256))
_SIXTEEN_DIGITS: Final = b"0" * 16
_EXPONENT: Final = b"0e0"
_NUMBER_STARTS: Final = (b":", b":-", b"[", b"[-")
_BACKSLASH: Final = ord("\\")
_COUNTED_BYTES: Final = 4096
"""In longer messages brackets are not counted first: there are nearly always more of them than levels."""

_CONTAINERS: Final = frozenset({dict, list})
_NUMBERS: Final = frozenset({int, float})


class Decoded(NamedTuple):
    """A JSON value, and whether it needs the second look (`flaw_in`) before it may be stored."""

    value: Any
    suspicious: bool


def decode(raw: bytes | str, *, max_bytes: int) -> Decoded:
    """Read one message. Raises `RefusedError` (`too_large`, `invalid_json`)."""
    if isinstance(raw, str):
        try:
            raw = raw.encode()
        except UnicodeEncodeError:
            raise refuse("invalid_json", "the text holds a lone surrogate, which is not Unicode") from None
    if len(raw) > max_bytes:
        raise refuse("too_large", f"the message has {len(raw)} bytes; at most {max_bytes} are taken")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as failure:
        raise refuse("invalid_json", f"not JSON: {clip(str(failure), 200)}") from None
    outline = raw.translate(_OUTLINE)
    return Decoded(value, _has_nul(raw) or _may_be_great(outline) or _may_be_deep(value, outline))


# The filters use `find` where `in` would read better: bytes take what stands before `in` for a number first, and the
# exception that they drop then costs 0.25 µs.


def _has_nul(raw: bytes) -> bool:
    """Whether a string could hold NUL, which JSON can only spell as an escape."""
    return _BACKSLASH in raw and raw.find(b"\\u0000") >= 0


def _may_be_great(outline: bytes) -> bool:
    """Whether a number could exceed the limit: one of sixteen digits before the point, or with a positive exponent.

    What looks like that inside a string may only make it answer True too often.
    """
    if outline.find(_SIXTEEN_DIGITS) >= 0 and _has_long_number(b":" + outline):
        return True
    return outline.find(_EXPONENT) >= 0 and _has_exponent(b":" + outline)


def _has_long_number(outline: bytes) -> bool:
    """Whether sixteen digits stand where a number can begin, and not after a point or inside a word."""
    return any(outline.find(start + _SIXTEEN_DIGITS) >= 0 for start in _NUMBER_STARTS)


def _has_exponent(outline: bytes) -> bool:
    """Whether what stands before an exponent reaches back to where a number can begin, as it doesn't in `3f2e10-17`."""
    before = outline.split(_EXPONENT)[:-1]
    return any(piece.rstrip(b"0.").endswith(_NUMBER_STARTS) for piece in before)


def _may_be_deep(value: Any, outline: bytes) -> bool:
    """Whether a value could be nested deeper than the limit.

    With no more opening brackets than levels it can't be, wherever they stand. Else the value itself is asked, level by
    level: in the text, closing brackets inside strings could hide any depth. The collector's view of lists and dicts is
    what they hold; it takes 0.2 µs an event where a loop of our own takes 1.
    """
    if len(outline) <= _COUNTED_BYTES and outline.count(b"[") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        level = gc.get_referents(*level)
        if not level:
            return False
    return True


def flaw_in(value: Any) -> Problem | None:
    """The first thing in a decoded value that must not be stored, with its path; None for a sound one."""
    if not _is_flawed([value], 1):
        return None
    path = ""
    for depth in count(1):
        words = _flaw_on([value], depth)
        if words is not None:
            return Problem(path, words)
        key, value = _guilty(value, depth + 1)
        path = clip(f"{path}.{key}" if path else str(key), 80)
    raise AssertionError("a flaw has a place")


def _guilty(container: dict[str, Any] | list[Any], depth: int) -> tuple[Any, Any]:
    """The first (key or index, value) of a container with a flaw in or below the value, found by halving."""
    pairs = list(container.items() if isinstance(container, dict) else enumerate(container))
    while len(pairs) > 1:
        half = len(pairs) // 2
        is_before = _is_flawed([value for _, value in pairs[:half]], depth)
        pairs = pairs[:half] if is_before else pairs[half:]
    return pairs[0]


def _is_flawed(level: Sequence[Any], depth: int) -> bool:
    """Whether anything is wrong in or below decoded values that stand at a depth.

    Level by level, so that no step in Python is made for each value: a message of 4 MiB may hold two million of them.
    """
    while level:
        if _flaw_on(level, depth) is not None:
            return True
        level = gc.get_referents(*level)
        depth += 1
    return False


def _flaw_on(level: Sequence[Any], depth: int) -> str | None:
    """What is wrong with any of some decoded values themselves, which stand at a depth."""
    kinds = set(map(type, level))
    if not kinds.isdisjoint(_CONTAINERS):
        if depth > MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH} levels"
        if "\x00" in "".join(keys_in(level)):
            return "a key holds the character NUL"
    if str in kinds and "\x00" in "".join([one for one in level if type(one) is str]):
        return "the text holds the character NUL"
    if not kinds.isdisjoint(_NUMBERS) and max([abs(one) for one in level if type(one) in _NUMBERS]) > MAX_INTEGER:
        return "the number is beyond ±(2^53-1)"
    return None


def keys_in(level: Iterable[Any]) -> Iterable[str]:
    """The keys of all objects among some values. The collector need not visit keys that are strings."""
    return chain.from_iterable([one for one in level if type(one) is dict])


def encode(value: Any) -> bytes:
    """Compact UTF-8 JSON of plain values."""
    return orjson.dumps(value)


def excerpt(value: Any, characters: int) -> str:
    """The beginning of a decoded value as JSON on one line; empty for what is too deep to be written."""
    try:
        raw = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:
        return ""
    # No character has more than four bytes, and writing one out never makes it shorter.
    return clip(visible(raw[: 4 * (characters + 1)].decode("utf-8", "ignore")[: characters + 1]), characters)
