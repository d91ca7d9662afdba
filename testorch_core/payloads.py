"""Reading an inner payload that may be any JSON object: a field of the wrong type counts as absent. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testorch_core.events import PASSED, SEVERITY, SKIPPED, TODO, UNKNOWN


def text(payload: Mapping[str, Any], key: str) -> str | None:
    """A field if it is a string."""
    value = payload.get(key)
    return value if isinstance(value, str) else None


def whole(payload: Mapping[str, Any], key: str, least: int) -> int | None:
    """A field if it is an integer of at least `least`."""
    value = payload.get(key)
    return value if type(value) is int and value >= least else None


def duration_ms(payload: Mapping[str, Any]) -> float | None:
    """`durationMs` if it is a finite number that is not negative."""
    value = payload.get("durationMs")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and value is not None and 0 <= value < float("inf") else None


def status_of(payload: Mapping[str, Any], key: str) -> str:
    """The status that a field names; `unknown` for any other word, or none."""
    word = payload.get(key)
    return word if isinstance(word, str) and word in SEVERITY else UNKNOWN


def is_ok(payload: Mapping[str, Any], status: str) -> bool:
    """Whether an attempt with this status leaves the run unharmed: what the producer says, else what follows."""
    said = payload.get("ok")
    if isinstance(said, bool):
        return said
    expected = payload.get("expectedStatus")
    return status == (expected if isinstance(expected, str) and expected in SEVERITY else PASSED) or status in (
        SKIPPED,
        TODO,
    )
