"""The event vocabulary: types, statuses and the frozen forms in which events are stored and read. No trio, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

WireEvent = Mapping[str, Any]
"""An event as the wire carries it: `{id, type, timestamp, payload, runId?, project?, seq?}` and whatever else it has."""

TEST_START: Final = "test/start"
TEST_END: Final = "test/end"
SUITE_START: Final = "test/suite/start"
SUITE_END: Final = "test/suite/end"
TEST_OUTPUT: Final = "test/output"
TEST_ATTACHMENT: Final = "test/attachment"
STEP_START: Final = "test/step/start"
STEP_END: Final = "test/step/end"
CLIENT_CONNECT: Final = "system/client/connect"
CLIENT_DISCONNECT: Final = "system/client/disconnect"
RUN_PLAN: Final = "run/plan"
RUN_ERROR: Final = "run/error"
RUN_START: Final = "run/start"
RUN_JOIN: Final = "run/join"
RUN_LEAVE: Final = "run/leave"
RUN_END: Final = "run/end"
RUN_REFUSED: Final = "run/refused"
RUN_DELETED: Final = "run/deleted"
STREAM_OPEN: Final = "stream/open"
STREAM_LOST: Final = "stream/lost"
STREAM_RESUMED: Final = "stream/resumed"
STREAM_END: Final = "stream/end"

AUDIT_AUTHENTICATION: Final = "system/audit/authentication"
AUDIT_REFUSAL: Final = "system/audit/refusal"
AUDIT_ADMINISTRATION: Final = "system/audit/administration"

PRESENCE_TYPES: Final = frozenset({CLIENT_CONNECT, CLIENT_DISCONNECT})
"""Written by the server for every client; an embedding host may send them, the wire may not."""

SERVER_TYPES: Final = frozenset(
    {
        RUN_START,
        RUN_JOIN,
        RUN_LEAVE,
        RUN_END,
        RUN_REFUSED,
        RUN_DELETED,
        STREAM_OPEN,
        STREAM_LOST,
        STREAM_RESUMED,
        STREAM_END,
        AUDIT_AUTHENTICATION,
        AUDIT_REFUSAL,
        AUDIT_ADMINISTRATION,
    }
)
"""Written by the server alone, so that the log holds everything that the state depends on."""

PASSED: Final = "passed"
FAILED: Final = "failed"
ERROR: Final = "error"
SKIPPED: Final = "skipped"
TODO: Final = "todo"
TIMED_OUT: Final = "timedOut"
INTERRUPTED: Final = "interrupted"
UNKNOWN: Final = "unknown"
RUNNING: Final = "running"

SEVERITY: Final[Mapping[str, int]] = {
    PASSED: 0, SKIPPED: 1, TODO: 2, UNKNOWN: 3, INTERRUPTED: 4, FAILED: 5, TIMED_OUT: 6, ERROR: 7,
}  # fmt: skip
"""Every status of an attempt, with its rank: of two ends for one attempt the more severe counts."""

MAX_TEST_ID_CHARACTERS: Final = 1024
DEFAULT_PROJECT: Final = "default"
AUDIT_PROJECT: Final = "_audit"
RESERVED_PREFIX: Final = "_"
"""Projects whose names begin so are the server's own: no client writes to them, and only `admin` may look into them."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where an event came from, as the server saw it: the connection, who was on it, and its stream if it had one."""

    connection: str
    principal: str = "anonymous"
    stream: str | None = None

    def encode(self) -> str:
        """A compact JSON object, the same for equal sources."""
        facts = {"connection": self.connection, "principal": self.principal, "stream": self.stream}
        return orjson.dumps({key: value for key, value in facts.items() if value is not None}).decode()

    @classmethod
    def decode(cls, text: str) -> Source:
        facts = orjson.loads(text)
        return cls(facts["connection"], facts.get("principal", "anonymous"), facts.get("stream"))


SERVER_SOURCE: Final = Source("server", "server")
"""The source of events that no client caused: timers, restarts."""


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event as the log holds it: what the client sent, and the server's offset, time of receipt and source.

    `offset` numbers the project's log from 1 in commit order; `received_at` is the server's clock in milliseconds.
    """

    project: str
    offset: int
    received_at: int
    source: Source
    run_id: str | None
    wire: WireEvent

    @property
    def id(self) -> str:
        return str(self.wire["id"])

    @property
    def type(self) -> str:
        return str(self.wire["type"])

    @property
    def timestamp(self) -> int:
        return int(self.wire["timestamp"])

    @property
    def payload(self) -> Mapping[str, Any]:
        payload: Mapping[str, Any] = self.wire["payload"]
        return payload


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordBatch:
    """The unit in which the log is stored: what one source sent to one run in one commit.

    `body` is a JSON array of `count` wire events; the event at index i has the offset `first_offset + i`.
    """

    project: str
    first_offset: int
    count: int
    run_id: str | None
    source: Source
    received_at: int
    body: bytes
    last_seq: int | None = None

    @property
    def last_offset(self) -> int:
        return self.first_offset + self.count - 1

    def wires(self) -> list[WireEvent]:
        """The events as they came over the wire, in the order of their offsets, decoded anew at every call."""
        decoded: list[WireEvent] = orjson.loads(self.body)
        return decoded

    def events(self) -> Iterator[RecordedEvent]:
        """The events in the order of their offsets, decoded anew at every call."""
        for index, wire in enumerate(self.wires()):
            yield RecordedEvent(
                self.project, self.first_offset + index, self.received_at, self.source, self.run_id, wire
            )
