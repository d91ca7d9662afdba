"""Text from outside, made fit to be shown: on one line, without what moves a cursor, hides or reorders."""

from __future__ import annotations

import re
from typing import Final

_ANSI: Final = re.compile(
    r"""
      (?:\x1b\[|\x9b) [0-?]* [\ -/]* [@-~]        # colours, cursor; in 7 bits and in 8
    | \x1b \] [^\x07\x1b]* (?: \x07 | \x1b\\ )    # titles, links
    | \x1b [PX^_] [^\x1b]* \x1b\\                 # strings for the terminal
    | \x1b [\ -/]* [0-~]                          # all others
    """,
    re.VERBOSE,
)
UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\U000e0000-\U000e007f]"
)
"""Controls, lone surrogates, and what is invisible, reorders the line or ends it: bidi marks, separators, tags."""


def clip(text: str, limit: int) -> str:
    """`text` with at most `limit` characters, ending in an ellipsis where something was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def without_ansi(text: str) -> str:
    """`text` without the escape sequences that terminals obey."""
    return _ANSI.sub("", text)


def visible(text: str) -> str:
    r"""`text` on one line, with what can't be seen written out, such as `\n`, `\x1b` or `\u202e`."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
