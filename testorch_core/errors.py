"""Every exception of the core, each with a stable code that the documentation explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import orjson

from testorch_core.text import clip

MAX_DETAILS: Final = 8
MAX_PAYLOAD_BYTES: Final = 2_840
"""The most of an `error` message's payload. What stands around it, with an `inReplyTo` of 200 characters that are all
written as escapes, keeps the message under 4,096 bytes."""


class TestorchError(Exception):
    """The root of what testorch raises on purpose.

    `code` is stable and documented; `exit_code` is what the command line exits with when the error ends a command.
    """

    __test__ = False  # pytest would take a class named `Test…` for a test
    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with something that was given to us: where it stands and what was expected."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}" if self.path else self.problem


class ConfigurationError(TestorchError):
    """Everything that is wrong with a configuration, sorted by its place, found before anything was opened."""

    code = "configuration"
    exit_code = 2

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))


class PluginNotFoundError(TestorchError):
    """A plugin that the configuration names is not installed; the message lists what is."""

    code = "plugin_not_found"
    exit_code = 2


class PluginBrokenError(TestorchError):
    """A plugin is installed but can't be used: its import failed, its name is taken twice, or it is of the wrong family."""

    code = "plugin_broken"
    exit_code = 2


class OpeningError(TestorchError):
    """A plugin could not be opened with its options: a port in use, a database path that is a folder, a newer schema.

    Found only while opening, when the configuration itself was sound; hence exit code 1.
    """

    code = "opening_failed"


class InUseError(OpeningError):
    """Another server holds the store. `word` is what it left for commands beside it, if it could."""

    code = "in_use"

    def __init__(self, words: str, word: str | None = None) -> None:
        self.word = word
        super().__init__(words)


class PluginFailedError(TestorchError):
    """The start or a task of a store, a security plugin or a transport failed; the server stops, not to go on without."""

    code = "plugin_failed"


class PolicyFailedError(TestorchError):
    """A security policy raised, or answered what its interface does not allow; what it was asked about is refused."""

    code = "policy_failed"

    def __init__(self, policy: str, method: str) -> None:
        self.policy = policy
        self.method = method
        super().__init__(f"security policy `{policy}` failed in `{method}`")


class UsageError(TestorchError):
    """A command was asked for something that is not there: no such run, no such format."""

    code = "usage"


class ConnectionClosedError(TestorchError):
    """The peer of a connection has gone, or the connection was closed on this side."""

    code = "connection_closed"

    def __init__(self, close_code: int | None = None, reason: str = "") -> None:
        self.close_code = close_code
        self.reason = reason
        super().__init__(f"connection closed with code {close_code}" + (f": {reason}" if reason else ""))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal in the words of the wire protocol; becomes the payload of an `error` message.

    `temporary` refusals may be sent again after `retry_after_ms`; the others never succeed.
    """

    code: str
    message: str
    temporary: bool = False
    retry_after_ms: int | None = None
    details: tuple[Problem, ...] = ()
    event_id: str | None = None
    policy: str | None = None
    seq: int | None = None

    def payload(self) -> dict[str, Any]:
        """The wire form, at most `MAX_PAYLOAD_BYTES` whatever the input was."""
        body: dict[str, Any] = {
            "code": within(self.code, 50, 50),
            "message": within(self.message, 500, 700),
            "temporary": self.temporary,
            "details": [],
        }
        optional = (
            ("retryAfterMs", self.retry_after_ms),
            ("seq", self.seq),
            ("eventId", None if self.event_id is None else within(self.event_id, 200, 1_200)),
            ("policy", None if self.policy is None else within(self.policy, 100, 200)),
        )
        body |= {key: value for key, value in optional if value is not None}
        self._add_details(body)
        return body

    def _add_details(self, body: dict[str, Any]) -> None:
        """As many of the details as there is room for; the others are counted."""
        left = MAX_PAYLOAD_BYTES - len(orjson.dumps(body)) - len(',"moreDetails":1000000')
        for one in self.details[:MAX_DETAILS]:
            shown = {"path": within(one.path, 80, 160), "problem": within(one.problem, 200, 300)}
            left -= len(orjson.dumps(shown)) + 1
            if left < 0:
                break
            body["details"].append(shown)
        if len(self.details) > len(body["details"]):
            body["moreDetails"] = len(self.details) - len(body["details"])


def within(text: str, characters: int, most_bytes: int) -> str:
    """`text` cut to so many characters, and to so many bytes as JSON writes it; what is not Unicode becomes `?`."""
    text = clip(clip(text, characters).encode("utf-8", "replace").decode(), characters)
    while text and (size := len(orjson.dumps(text)) - 2) > most_bytes:
        # At least one less each time; an ellipsis alone may still be too much.
        text = clip(text, min(len(text) - 1, max(1, len(text) * most_bytes // size))) if len(text) > 1 else ""
    return text


class RefusedError(TestorchError):
    """Raised where a message is refused; carries the `Refusal` that the client is told."""

    code = "refused"

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.message)


def refuse(code: str, message: str, **facts: Any) -> RefusedError:
    """A `RefusedError`, ready to raise: `raise refuse("unknown_run", "…")`."""
    return RefusedError(Refusal(code, message, **facts))


class StoreError(TestorchError):
    """What a store raises from `append`; nothing was stored."""

    code = "storage_failed"


class BehindError(StoreError):
    """The head of a project has moved since it was last read: another node was quicker."""

    code = "behind"

    def __init__(self, project: str, head: int | None = None) -> None:
        self.project = project
        self.head = head
        super().__init__(f"the log of project `{project}` has moved on" + ("" if head is None else f" to {head}"))


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """A plain event that is stored already: its address and the hash of the content that was stored first."""

    project: str
    run_id: str
    event_id: str
    content_hash: bytes


class DuplicatesError(StoreError):
    """Plain events of a commit are known already; the commit must be made again without them."""

    code = "duplicates"

    def __init__(self, known: Sequence[KnownEvent]) -> None:
        self.known = tuple(known)
        super().__init__(f"{len(self.known)} event(s) are stored already")


class InvalidCursorError(StoreError):
    """A cursor that the store has not made, or not for this query."""

    code = "invalid_cursor"

    def __init__(self) -> None:
        super().__init__("not a cursor that a page of this query came with; begin again without one")


class StorageFailedError(StoreError):
    """The store can't keep its promise now (disk full, read-only, database gone)."""


@dataclass(slots=True)
class Tally:
    """Counts by code, for statistics: what was refused, and how often."""

    by_code: dict[str, int] = field(default_factory=dict)

    def count(self, code: str, times: int = 1) -> None:
        self.by_code[code] = self.by_code.get(code, 0) + times
