"""Names with `*` and `?` in them, and which names they match. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

ANY_CHARACTERS: Final = "*"
ONE_CHARACTER: Final = "?"
WILD: Final = frozenset({ANY_CHARACTERS, ONE_CHARACTER})


class Patterns:
    """One or more patterns, compiled once. A name matches when it matches one of them from its beginning to its end.

    `*` stands for any number of characters, none and line ends too; `?` for exactly one. Everything else stands for
    itself; upper and lower case differ. A name has one code point after the other: nothing is normalised.
    """

    __slots__ = ("_exact", "_wild", "given")

    def __init__(self, given: Iterable[str]) -> None:
        self.given = tuple(given)
        wild = [one for one in self.given if not WILD.isdisjoint(one)]
        self._exact = frozenset(self.given).difference(wild)
        self._wild = re.compile("|".join(map(_expression, wild)), re.DOTALL) if wild else None

    def match(self, name: str) -> bool:
        """Whether a name is one of those that are meant. Takes at most about (name × patterns) steps, in characters."""
        return name in self._exact or (self._wild is not None and self._wild.fullmatch(name) is not None)

    def match_any(self, names: Iterable[str]) -> bool:
        """Whether any of the names is."""
        return any(map(self.match, names))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Patterns) and other.given == self.given

    def __hash__(self) -> int:
        return hash(self.given)

    def __repr__(self) -> str:
        return f"Patterns({list(self.given)!r})"


def of(given: Any) -> Patterns | None:
    """Patterns, or None where nothing is given."""
    return None if given is None else Patterns(given)


def _expression(pattern: str) -> str:
    """A pattern as a regular expression for `fullmatch`."""
    parts = pattern.split(ANY_CHARACTERS)
    return _literal(parts[0]) + "".join(_tail(parts[1:]))


def _tail(parts: list[str]) -> Iterator[str]:
    for position, part in enumerate(parts, 1):
        if position == len(parts):
            yield f".*{_literal(part)}"
        elif part:
            # The first place where a part fits is as good as any later one, so the search never comes back to it (an
            # atomic group): without that, a name of 200 characters could keep a pattern with ten stars busy for years.
            yield f"(?>.*?{_literal(part)})"


def _literal(text: str) -> str:
    return "".join("." if one == ONE_CHARACTER else re.escape(one) for one in text)
