"""Sizes: what is too long or too much in an event, each with its path. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from testorch_core import events as ev
from testorch_core.errors import MAX_DETAILS, Problem
from testorch_core.events import WireEvent
from testorch_core.text import clip

_PATH_CHARACTERS: Final = 80
_OWN_LIMITS: Final = {ev.TEST_OUTPUT: "text", ev.TEST_ATTACHMENT: "body"}
"""Strings that have a limit of their own, by event type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that is taken; None for no limit. Strings in characters, the event in bytes of compact JSON."""

    event_bytes: int | None = None
    string_characters: int | None = None
    error_characters: int | None = None
    keys: int | None = None

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return any(
            one is not None for one in (self.event_bytes, self.string_characters, self.error_characters, self.keys)
        )

    def problems(self, event: WireEvent) -> list[Problem]:
        """What is over a limit: the size of the whole first, then at most `MAX_DETAILS` strings, then the keys."""
        payload = event["payload"]
        found = [*self._size(event), *self._strings(event["type"], payload)]
        if self.keys is not None:
            count = sum(1 for one in _parts(payload) if type(one) is dict for _ in one)
            if count > self.keys:
                found.append(Problem("payload", f"has {count} keys, at all levels; at most {self.keys} are taken"))
        return found

    def _size(self, event: WireEvent) -> list[Problem]:
        if self.event_bytes is None:
            return []
        try:
            size = len(orjson.dumps(event))
        except TypeError:  # more than JSON can hold: nothing that the decoder lets in
            return [Problem("", "can't be written as JSON")]
        if size <= self.event_bytes:
            return []
        return [Problem("", f"has {size} bytes; at most {self.event_bytes} are taken")]

    def _strings(self, kind: str, payload: Mapping[str, Any]) -> list[Problem]:
        if self.string_characters is None and self.error_characters is None:
            return []
        found: list[Problem] = []
        for key, value in payload.items():
            most = self.error_characters if key == "errors" else self.string_characters
            if most is not None and key != _OWN_LIMITS.get(kind):
                found += self._too_long(f"payload.{key}", value, most)
        return found[:MAX_DETAILS]

    def _too_long(self, path: str, value: Any, most: int) -> list[Problem]:
        found = []
        for where, text in _strings_in(value, path):
            if len(text) > most:
                found.append(Problem(where, f"has {len(text)} characters; at most {most} are taken"))
                if len(found) == MAX_DETAILS:
                    break
        return found


def _parts(value: Any) -> Iterator[Any]:
    """A value and everything inside it."""
    todo = [value]
    while todo:
        one = todo.pop()
        yield one
        if type(one) is dict:
            todo.extend(one.values())
        elif type(one) is list:
            todo.extend(one)


def _strings_in(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every string, with its path, in the order of the event; a key is told of by the path of its table."""
    todo = [(path, value)]
    while todo:
        where, one = todo.pop()
        if type(one) is str:
            yield where, one
        elif type(one) is dict:
            yield from ((where, key) for key in one if type(key) is str)
            todo += reversed([(clip(f"{where}.{key}", _PATH_CHARACTERS), inner) for key, inner in one.items()])
        elif type(one) is list:
            todo += reversed([(clip(f"{where}.{index}", _PATH_CHARACTERS), inner) for index, inner in enumerate(one)])
