"""Values of any JSON type as text, numbers and times that every XML 1.0 parser takes.

ElementTree writes control characters and lone surrogates without a word into files that nothing can read again, so all
text passes through here before an element is made of it.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any, Final

from testorch_core.text import without_ansi

MAX_NAME_CHARACTERS: Final = 4 * 1024
MAX_MESSAGE_CHARACTERS: Final = 8 * 1024
MAX_TEXT_CHARACTERS: Final = 64 * 1024
"""Of one failure or one output. libxml2 refuses texts over 10 MB, and GitLab files over 30 MB."""

LONGEST_SECONDS: Final = 1e9

# What XML 1.0 forbids, and DEL and the C1 controls, which it only discourages but no reader can see.
_ILLEGAL: Final = re.compile(r"[^\t\n\r -~\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def legal(text: str) -> str:
    """The text without ANSI escapes, and with what may not stand in XML replaced by a visible `#xNN`."""
    return _ILLEGAL.sub(lambda found: f"#x{ord(found[0]):02X}", without_ansi(text))


def text_of(value: Any) -> str:
    """Any JSON value as legal text; None is empty, and what is no string is written as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return legal(value)
    try:
        return legal(json.dumps(value, ensure_ascii=False, default=str))
    except (RecursionError, ValueError):  # nested too deep, or a number of too many digits
        return f"({type(value).__name__})"


def without_middle(text: str, limit: int) -> str:
    """The text with about `limit` characters: a stack's beginning says how it came there, its end what happened."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def milliseconds_of(value: Any) -> float:
    """A duration in milliseconds; 0 for anything that can't be one."""
    if type(value) not in (int, float) or not 0 <= value <= LONGEST_SECONDS * 1000:
        return 0.0
    return float(value)


def seconds(milliseconds: float) -> str:
    """Seconds with three decimals, never negative, NaN or in scientific notation."""
    sound = milliseconds / 1000 if math.isfinite(milliseconds) else 0.0
    return f"{min(max(0.0, sound), LONGEST_SECONDS):.3f}"


def timestamp(milliseconds: Any) -> str | None:
    """A time since the epoch in ISO 8601 and UTC, without the offset that old schemas refuse; None for what is none."""
    if type(milliseconds) not in (int, float) or not 0 <= milliseconds < 253_402_300_800_000:  # the year 10000
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
