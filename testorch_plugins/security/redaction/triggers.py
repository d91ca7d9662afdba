"""Whether a text may hold anything that a pattern matches: fixed words, looked for as fast as Python can. Pure.

Measured on 300 bytes: one substring costs 0.3 µs, one character 0.08 µs. So each word is looked for only where its rarest
character is; and the words that end in `_` or in `-`, which are anything but rare, are looked for all at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from testorch_plugins.security.redaction.patterns import Pattern

_RARE_FIRST: Final = "@JZKQXzqYGHVjUBWLxFCAOD="
"""Characters that are rare in ordinary events as compact JSON, the rarest first."""

_ENDS: Final = "_-"
_LOOKED_BACK: Final = 3
"""How many of the characters before the last one are held against classes, before whole words are."""


class Triggers:
    """The words of some patterns. `always` is true where a pattern has none: then every text may hold it."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self.always = any(not one.words for one in patterns)
        gates = {as_json(word): one.gate for one in patterns for word in one.words}
        ending = {end: sorted(word for word in gates if word[-1] == end and len(word) > 1) for end in _ENDS}
        self._searches = tuple(_search_for(end, words) for end, words in ending.items() if words)
        gated: dict[str, list[str]] = {}
        for word, gate in gates.items():
            if word[-1] not in _ENDS:
                gated.setdefault(gate or _rarest(word), []).append(word)
        self._gates = tuple(gated)
        self._gated = gated

    def may_be_in(self, text: str) -> bool:
        """Whether any of the words is in a text of JSON."""
        for gate in self._gates:
            if gate in text and any(word in text for word in self._gated[gate]):
                return True
        for search in self._searches:  # noqa: SIM110 - a loop takes half the time of `any`
            if search(text) is not None:
                return True
        return False


def as_json(text: str) -> str:
    """A text as it stands inside a string of the JSON that orjson writes."""
    return orjson.dumps(text).decode()[1:-1]


def _rarest(word: str) -> str:
    """The rarest character of a word; the word itself where all of them are common."""
    return next((one for one in _RARE_FIRST if one in word), word)


def _search_for(end: str, words: Iterable[str]) -> Any:
    """A search for words that end in a character: from one to the next of it, looking back at what stands before."""
    depth = min(_LOOKED_BACK, min(map(len, words)) - 1)
    columns = zip(*(word[-depth - 1 : -1] for word in words), strict=True)
    classes = "".join(f"[{''.join(re.escape(one) for one in sorted(set(column)))}]" for column in columns)
    by_length: dict[int, list[str]] = {}
    for word in words:
        by_length.setdefault(len(word), []).append(re.escape(word))
    whole = "|".join(f"(?<={'|'.join(same)})" for same in by_length.values())
    last = re.escape(end)
    return re.compile(f"{last}(?<={classes}{last})(?:{whole})").search
