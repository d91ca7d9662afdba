"""Replaces what the patterns match, anywhere in an event, and counts it. Pure but for the counts."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from testorch_core import events as ev
from testorch_core.events import WireEvent
from testorch_plugins.security.redaction.patterns import MARK, Pattern
from testorch_plugins.security.redaction.triggers import Triggers, as_json

KEPT: Final = frozenset({"id", "type", "runId", "project", "seq", "timestamp"})
"""By these an event is addressed and told of; they stay."""

TOO_LONG: Final = "too_long"
"""The name in the mark of a string that is not searched."""

_ORDINARY: Final = KEPT | {"payload"}
_IDENTITIES: Final = ("testId", "suiteId", "parentId")


class Redactor:
    """Holds the patterns, in the order in which they are tried, and how often each was found.

    The same event always becomes the same, whatever came before it.
    """

    def __init__(self, patterns: Sequence[Pattern], *, max_string_characters: int) -> None:
        self.counts: Counter[str] = Counter()
        self._patterns = tuple(patterns)
        self._encoded = tuple((one, tuple(map(as_json, one.words))) for one in patterns)
        triggers = Triggers(patterns)
        self._always, self._may_be_in = triggers.always, triggers.may_be_in
        self._most = max_string_characters

    def amend(self, event: WireEvent) -> WireEvent:
        """The event without what the patterns match; the same object where there is nothing of it."""
        if not _ORDINARY.issuperset(event) or event["type"] == ev.TEST_ATTACHMENT:
            return self._redacted(event, self._patterns)
        try:
            text = orjson.dumps(event["payload"]).decode()
        except TypeError:  # more than JSON can hold: nothing that the decoder lets in
            return self._redacted(event, self._patterns)
        if not self._always and len(text) <= self._most and not self._may_be_in(text):
            return event
        return self._redacted(event, self._possible(text))

    def _possible(self, text: str) -> Sequence[Pattern]:
        return [one for one, words in self._encoded if one.gate in text and (not words or _holds_any(text, words))]

    def _redacted(self, event: WireEvent, patterns: Sequence[Pattern]) -> WireEvent:
        walk = _Walk(patterns, self._most)
        found = {key: value if key in KEPT else walk.value(value) for key, value in event.items() if key != "payload"}
        search = walk.attachment if event["type"] == ev.TEST_ATTACHMENT else walk.value
        found["payload"] = search(event["payload"])
        self.counts.update(walk.counts)
        if all(found[key] is value for key, value in event.items()):
            return event
        found["payload"] = _with_short_identities(found["payload"])
        return found


class _Walk:
    """One way through one event."""

    def __init__(self, patterns: Sequence[Pattern], most: int) -> None:
        self.counts: Counter[str] = Counter()
        self._patterns = patterns
        self._pairs = [one for one in patterns if one.assigns]
        self._least = min((one.least for one in patterns), default=0)
        self._words = {word for one in patterns for word in one.words}
        self._always = any(not one.words for one in patterns)
        self._most = most

    def value(self, value: Any) -> Any:
        """A value of JSON without what the patterns match; itself where nothing does."""
        kind = type(value)
        if kind is str:
            return self.text(value)
        if kind is dict:
            return self._table(value)
        if kind is list:
            found = [self.value(one) for one in value]
            return value if all(map(_is, found, value)) else found
        return value

    def text(self, text: str) -> str:
        """The same of a string. Each pattern sees what those before it have left."""
        if len(text) < self._least:
            return text
        if len(text) > self._most:
            self.counts[TOO_LONG] += 1
            return MARK.format(TOO_LONG)
        if not self._always and not _holds_any(text, self._words):
            return text
        for one in self._patterns:
            if _may_match(one, text):
                replaced, count = one.replaced(text)
                if count:
                    self.counts[one.name] += count
                    text = replaced
        return text

    def _table(self, table: dict[Any, Any]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in table.items():
            name = self.text(key) if type(key) is str else key
            if name is not key:
                name = _unused(name, found, table)
            found[name] = self._member(key, value)
        is_same = all(map(_is, found, table)) and all(map(_is, found.values(), table.values()))
        return table if is_same else found

    def _member(self, key: Any, value: Any) -> Any:
        """A value in a table, where its name may say that it is a secret."""
        if self._pairs and type(value) is str and type(key) is str:
            for one in self._pairs:
                if any(word in key for word in one.words):
                    replaced, count = one.replaced(f"{key}: {value}")
                    if count and replaced.startswith(f"{key}: "):
                        self.counts[one.name] += count
                        return replaced[len(key) + 2 :]
        return self.value(value)

    def attachment(self, payload: Any) -> Any:
        """An attachment's payload. Its `body` is base64: text in it is searched as text, and anything else is left."""
        body = payload.get("body") if type(payload) is dict else None
        if type(body) is not str:
            return self.value(payload)
        try:
            content = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):  # what is no base64 is searched as it stands
            return self.value(payload)
        rest = {**payload, "body": ""}
        found = self.value(rest)
        redacted = self._content(content)
        if redacted is not content:
            return _with_body(found, redacted)
        return payload if found is rest else {**found, "body": body}

    def _content(self, content: bytes) -> bytes:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return content
        redacted = self.text(text)
        return content if redacted is text else redacted.encode()


def _may_match(pattern: Pattern, text: str) -> bool:
    if pattern.gate not in text or len(text) < pattern.least:
        return False
    return not pattern.words or _holds_any(text, pattern.words)


def _holds_any(text: str, words: Iterable[str]) -> bool:
    for word in words:  # noqa: SIM110 - a loop takes half the time of `any`
        if word in text:
            return True
    return False


def _with_body(payload: Mapping[str, Any], content: bytes) -> dict[str, Any]:
    facts = {"sizeBytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    known = {name: value for name, value in facts.items() if payload.get(name) is not None}
    return {**payload, "body": base64.b64encode(content).decode(), **known}


def _is(one: Any, other: Any) -> bool:
    return one is other


def _unused(name: str, found: Mapping[Any, Any], table: Mapping[Any, Any]) -> str:
    """A key that no other key of the same table has: two secrets must not become one."""
    count, free = 1, name
    while free in found or free in table:
        count += 1
        free = f"{name} ({count})"
    return free


def _with_short_identities(payload: Any) -> Any:
    """The payload with identities that a store takes: a mark may be longer than what it replaced."""
    for key in _IDENTITIES:
        identity = payload.get(key)
        if type(identity) is str and len(identity) > ev.MAX_TEST_ID_CHARACTERS:
            payload = {**payload, key: identity[: ev.MAX_TEST_ID_CHARACTERS]}
    return payload
