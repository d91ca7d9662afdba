"""The one strict decoder for everything that comes from outside, and the one encoder for what goes out.

What it refuses, no store ever sees: text over the limit, not UTF-8, not JSON, NaN and Infinity, lone surrogates (orjson
refuses these), and, found in a second look that a cheap filter on the bytes calls for: nesting over 64, numbers beyond
±(2^53-1), NUL in any string, keys included. Of duplicate keys the last wins.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import orjson

from testorch_core.errors import Problem, refuse
from testorch_core.text import clip

MAX_DEPTH: Final = 64
MAX_INTEGER: Final = 2**53 - 1
"""The largest integer that JavaScript, and so a browser, holds exactly."""

_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))

# A message's outline: every digit is `0`, every place where a number can begin follows a `:`. Looking for fixed words in it
# costs a twentieth of what a regular expression over the message itself does.
_OUTLINE: Final = bytes.maketrans(b"123456789E,[ \t\r\n", b"000000000e::::::")
_SIXTEEN_DIGITS: Final = (b":0000000000000000", b":-0000000000000000")
_EXPONENT: Final = re.compile(rb":-?0[0.]*e\+?0")


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
    return Decoded(value, b"\\u0000" in raw or _may_be_great(raw) or _may_be_deep(raw))


def _may_be_great(raw: bytes) -> bool:
    """Whether a number could exceed the limit: one of sixteen digits before the point, or with a positive exponent.

    What looks like that inside a string may only make it answer True too often.
    """
    outline = b":" + raw.translate(_OUTLINE)
    if _SIXTEEN_DIGITS[0] in outline or _SIXTEEN_DIGITS[1] in outline:
        return True
    return (b"e0" in outline or b"e+0" in outline) and _EXPONENT.search(outline) is not None


def _may_be_deep(raw: bytes) -> bool:
    """Whether nesting could exceed the limit. Brackets inside strings may only make it answer True too often.

    Each round takes the innermost pairs away, so what is left after as many rounds as there are levels is too deep.
    """
    brackets = raw.translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        shorter = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(shorter) == len(brackets):
            return True
        brackets = shorter
    return bool(brackets)


def flaw_in(value: Any) -> Problem | None:
    """The first thing in a decoded value that must not be stored, with its path; None for a sound one."""
    todo: list[tuple[Any, str, int]] = [(value, "", 1)]
    while todo:
        one, path, depth = todo.pop()
        if isinstance(one, dict | list):
            if depth > MAX_DEPTH:
                return Problem(clip(path, 80), f"nested deeper than {MAX_DEPTH} levels")
            items = one.items() if isinstance(one, dict) else enumerate(one)
            for key, inner in items:
                if isinstance(key, str) and "\x00" in key:
                    return Problem(clip(path, 80), "a key holds the character NUL")
                todo.append((inner, f"{path}.{key}" if path else str(key), depth + 1))
        elif isinstance(one, str):
            if "\x00" in one:
                return Problem(clip(path, 80), "the text holds the character NUL")
        elif type(one) in (int, float) and not abs(one) <= MAX_INTEGER:  # which NaN isn't either
            return Problem(clip(path, 80), "the number is beyond ±(2^53-1)")
    return None


def encode(value: Any) -> bytes:
    """Compact UTF-8 JSON of plain values."""
    return orjson.dumps(value)
