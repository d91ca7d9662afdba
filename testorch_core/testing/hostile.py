"""Hostile data as named constants: what clients may send and every plugin has to stand. All of it passes the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from testorch_core.events import MAX_TEST_ID_CHARACTERS

QUOTES: Final = "O'Brien's \"quoted\" `name` \\ back"
SQL: Final = "'; DROP TABLE runs; --"
MARKUP: Final = "<script>alert(1)</script> &amp; ]]> <!-- -->"
WILDCARDS: Final = "100%_[a-z]*?"
PERCENT: Final = "%"
UNDERSCORE: Final = "_"
UPPER: Final = "Checkout"
LOWER: Final = "checkout"
"""Another name than `UPPER`: names differ in case."""
COMPOSED: Final = "caf\u00e9"
DECOMPOSED: Final = "cafe\u0301"
"""Another name than `COMPOSED`: nobody normalises what a client calls its tests."""
EMOJI: Final = "\U0001f9ea \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f4"
RIGHT_TO_LEFT: Final = "\u05e9\u05dc\u05d5\u05dd \u202eevil.exe\u202c"
LINES: Final = "first\nsecond\r\nthird\u2028fourth"
CONTROLS: Final = "\x01\x1b[31mred\x1b[0m\x7f\ufffe"
SPACE: Final = " "
PATH: Final = "../../etc/passwd"
DOTS: Final = ".."
LONG: Final = "x" * MAX_TEST_ID_CHARACTERS
LONG_EMOJI: Final = "\U0001f9ea" * MAX_TEST_ID_CHARACTERS
"""The most bytes that a test's id can have: 4,096 in UTF-8."""

NAMES: Final[tuple[str, ...]] = (
    QUOTES, SQL, MARKUP, WILDCARDS, PERCENT, UNDERSCORE, UPPER, LOWER, COMPOSED, DECOMPOSED, EMOJI, RIGHT_TO_LEFT, LINES,
    CONTROLS, SPACE, PATH, DOTS, LONG, LONG_EMOJI,
)  # fmt: skip
"""Names that must stay apart, and come back as they went in."""

MAX_INTEGER: Final = 2**53 - 1
NUMBERS: Final[tuple[int | float, ...]] = (0, -1, MAX_INTEGER, -MAX_INTEGER, 0.1, -1e-300, 2**52 + 0.5)


def _nested(levels: int) -> Any:
    value: Any = "deep"
    for _ in range(levels):
        value = [value]
    return value


VALUES: Final[tuple[Any, ...]] = (
    None, True, False, "", *NUMBERS, *NAMES, [], {}, [None], [[]], {"": None}, {"__proto__": {"admin": True}}, _nested(50),
)  # fmt: skip
"""Any of these may stand in any field of a payload."""

BEYOND_THE_DECODER: Final[tuple[Any, ...]] = (
    float("nan"), float("inf"), float("-inf"), 1.7976931348623157e308, 10**400, "\x00", "\ud800", _nested(200),
)  # fmt: skip
"""What no client can send and no host can pass on, because the decoder refuses it. Plugins stand it all the same."""


def payloads(good: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """`good`, the same without each of its fields, and with each of its fields replaced by every hostile value."""
    found: list[Mapping[str, Any]] = [good]
    for name in good:
        found.append({key: value for key, value in good.items() if key != name})
        found += [{**good, name: value} for value in (*VALUES, *BEYOND_THE_DECODER)]
    return found
