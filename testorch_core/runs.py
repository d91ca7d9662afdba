"""What is known of a run: its state as the fold keeps it, and the frozen forms in which it is stored and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from testorch_core.events import (
    ERROR,
    FAILED,
    INTERRUPTED,
    PASSED,
    RUNNING,
    SEVERITY,
    SKIPPED,
    TIMED_OUT,
    TODO,
)  # fmt: skip
from testorch_core.streams import StreamState

FOLD_VERSION: Final = 2
"""Rises with every change that makes the fold reach another state from the same log."""

EXPECTED_FAILED: Final = "expectedFailed"
BUCKETS: Final = ("queued", RUNNING, *SEVERITY, EXPECTED_FAILED)
MAX_RUNNING_SHOWN: Final = 100
MAX_LAST_CHUNKS: Final = 4
MAX_LAST_OUTPUT_CHARACTERS: Final = 2_000
MAX_SHOWN_OUTPUT_CHARACTERS: Final = 300
"""How much of the output of an open test is kept, and how much a status shows; the log has it all."""

MAX_REFUSALS_SHOWN: Final = 20
"""The newest refusals that a run's status shows; the log has them all."""

ACTIVE: Final = "active"
LOST: Final = "lost"
"""The participant's connection has gone; it may come back."""
GONE: Final = "gone"
"""It did not come back in its time: its open tests count as interrupted, until it does or the run ends."""
ENDED: Final = "ended"


class Attempt(NamedTuple):
    """One attempt of one test. `status` is None while it runs; `participant` is who started it."""

    number: int
    started_id: str | None = None
    ended_id: str | None = None
    status: str | None = None
    ok: bool = True
    duration_ms: float | None = None
    participant: str | None = None


class OpenTest(NamedTuple):
    """What is shown of a test while it runs. `started_at` is the producer's clock.

    `output` are the newest chunks of its output: (timestamp, seq, event id, text), in that order.
    """

    name: str
    attempt: int
    started_at: int
    worker_id: str | None
    participant: str
    output: tuple[tuple[int, int, str, str], ...] = ()

    def with_output(self, timestamp: int, seq: int, event_id: str, text: str) -> OpenTest:
        """With one more chunk. The newest are kept, so that neither order nor repetition matters."""
        chunks = {(timestamp, seq, event_id, text[-MAX_LAST_OUTPUT_CHARACTERS:]), *self.output}
        return self._replace(output=tuple(sorted(chunks)[-MAX_LAST_CHUNKS:]))

    def last_output(self, characters: int) -> str:
        """The end of its output."""
        return "".join(chunk[-1] for chunk in self.output)[-characters:]

    def shown(self, test_id: str) -> dict[str, Any]:
        """As a status lists it."""
        facts: dict[str, Any] = {
            "testId": test_id,
            "testName": self.name,
            "attempt": self.attempt,
            "startedAt": self.started_at,
            "workerId": self.worker_id,
        }
        return facts | ({"lastOutput": self.last_output(MAX_SHOWN_OUTPUT_CHARACTERS)} if self.output else {})


class Standing(NamedTuple):
    """Where a test stands in the counts: its one bucket, and the two marks that are counted beside it.

    There is one object for each: two that are equal are the same.
    """

    bucket: str
    outcome: str | None
    flaky: bool = False
    unexpected: bool = False


_RUNS: Final = Standing(RUNNING, None)
_CUT_OFF: Final = Standing(INTERRUPTED, "unexpected", unexpected=True)
_FLAKY: Final = Standing(PASSED, "flaky", flaky=True)
_EXPECTED: Final = {
    status: Standing(EXPECTED_FAILED, "expected")
    if status in (FAILED, ERROR, TIMED_OUT)
    else Standing(status, "skipped" if status in (SKIPPED, TODO) else "expected")
    for status in SEVERITY
}
_UNEXPECTED: Final = {
    # A pass that was not expected fails the run, so it is counted with what failed.
    status: Standing(FAILED if status in (PASSED, SKIPPED, TODO) else status, "unexpected", unexpected=True)
    for status in SEVERITY
}


def standing(last: Attempt, earlier: Sequence[Attempt], *, interrupted: bool) -> Standing:
    """The roll-up over a test's attempts; `interrupted` says whether an attempt that is still open will not go on."""
    if last.status is None:
        return _CUT_OFF if interrupted else _RUNS
    if not last.ok:
        return _UNEXPECTED[last.status]
    if earlier and last.status == PASSED and any(one.status is not None and not one.ok for one in earlier):
        return _FLAKY
    return _EXPECTED[last.status]


@dataclass(slots=True)
class RunHead:
    """The facts and counters of a run: everything but its tests. A draft works on a copy of it."""

    name: str | None = None
    key: str | None = None
    expect: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    previous_run_id: str | None = None
    implicit: bool = False
    status: str = RUNNING
    complete: bool = False
    end_reason: str | None = None
    started_at: int | None = None
    ended_at: int | None = None
    participants: dict[str, str] = field(default_factory=dict)
    plans: dict[str, int] = field(default_factory=dict)
    errors: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    refusals: tuple[Mapping[str, Any], ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    tests: int = 0
    most_attempts: int = 1
    flaky: int = 0
    unexpected: int = 0
    late: int = 0
    events: int = 0
    last_offset: int = 0

    def copy(self) -> RunHead:
        """A head of its own, sharing only what is never changed in place. Made for every run of every commit."""
        other = RunHead.__new__(RunHead)
        for name in RunHead.__slots__:
            setattr(other, name, getattr(self, name))
        for name in ("participants", "plans", "errors", "refused", "counts"):
            setattr(other, name, getattr(self, name).copy())
        return other

    @property
    def is_over(self) -> bool:
        return self.status != RUNNING

    def participants_in(self, state: str) -> list[str]:
        """The participants that are in this state."""
        return [name for name, one in self.participants.items() if one == state]

    @property
    def is_deserted(self) -> bool:
        """Whether nobody takes part any more, or will return in time: all have ended, or are gone."""
        return all(state in (ENDED, GONE) for state in self.participants.values())

    @property
    def has_all_ended(self) -> bool:
        """Whether every participant has ended its part by itself."""
        return all(state == ENDED for state in self.participants.values())

    @property
    def queued(self) -> int:
        """Planned tests of which nothing has been heard."""
        return max(0, sum(self.plans.values()) - self.tests)


class RunState:
    """A run as the committed log tells it. Only `Draft.merge` changes it."""

    __slots__ = ("attempts", "earlier", "head", "open", "project", "run_id", "streams")

    def __init__(self, project: str, run_id: str) -> None:
        self.project = project
        self.run_id = run_id
        self.head = RunHead()
        self.attempts: dict[str, Attempt] = {}
        """The last attempt of every test, by `testId`."""
        self.earlier: dict[str, tuple[Attempt, ...]] = {}
        """The attempts before the last one, of the tests that have any."""
        self.open: dict[str, OpenTest] = {}
        """What is shown of the tests whose last attempt has not ended, by `testId`."""
        self.streams: dict[str, StreamState] = {}
        """The streams of the run, by `streamId`."""

    def status(self) -> RunStatus:
        """An immutable picture of the run as it is now."""
        head = self.head
        counts = {bucket: head.counts.get(bucket, 0) for bucket in BUCKETS}
        counts["queued"] = head.queued
        running, interrupted = self._open_tests()
        return RunStatus(
            run_id=self.run_id,
            project=self.project,
            name=head.name,
            key=head.key,
            status=head.status,
            complete=head.complete,
            end_reason=head.end_reason,
            started_at=head.started_at,
            ended_at=head.ended_at,
            counts={"total": sum(counts.values()), **counts, "flaky": head.flaky, "late": head.late},
            running=running,
            interrupted=interrupted,
            participants=tuple(self._participant(name, state) for name, state in head.participants.items()),
            metadata=head.metadata,
            previous_run_id=head.previous_run_id,
            errors=tuple(head.errors.values()),
            refused=head.refused,
            refusals=head.refusals,
            events=head.events,
            offset=head.last_offset,
        )

    def _open_tests(self) -> tuple[tuple[Mapping[str, Any], ...], tuple[Mapping[str, Any], ...]]:
        """The open tests that go on, and those that were cut off, as far as they are shown."""
        running: list[Mapping[str, Any]] = []
        interrupted: list[Mapping[str, Any]] = []
        head = self.head
        for test_id, one in islice(self.open.items(), 2 * MAX_RUNNING_SHOWN):
            is_cut_off = head.is_over or head.participants.get(one.participant) == GONE
            (interrupted if is_cut_off else running).append(one.shown(test_id))
        return tuple(running[:MAX_RUNNING_SHOWN]), tuple(interrupted[:MAX_RUNNING_SHOWN])

    def _participant(self, name: str, state: str) -> dict[str, Any]:
        stream = self.streams.get(name)
        return {"id": name, "state": state} | (stream.shown() if stream is not None else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """A run at one offset of its project's log. Times are milliseconds since the epoch, by the server's clock."""

    run_id: str
    project: str
    name: str | None
    key: str | None
    status: str
    complete: bool
    end_reason: str | None
    started_at: int | None
    ended_at: int | None
    counts: Mapping[str, int]
    running: tuple[Mapping[str, Any], ...]
    interrupted: tuple[Mapping[str, Any], ...]
    participants: tuple[Mapping[str, Any], ...]
    metadata: Mapping[str, Any]
    previous_run_id: str | None
    errors: tuple[Mapping[str, Any], ...]
    refused: Mapping[str, int]
    refusals: tuple[Mapping[str, Any], ...]
    events: int
    offset: int

    @property
    def is_over(self) -> bool:
        return self.status != RUNNING

    @property
    def duration_ms(self) -> int | None:
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0, self.ended_at - self.started_at)

    def payload(self) -> dict[str, Any]:
        """The status as the wire carries it; a new object at every call."""
        body: dict[str, Any] = {
            "runId": self.run_id,
            "project": self.project,
            "name": self.name,
            "status": self.status,
            "complete": self.complete,
            "startedAt": self.started_at,
            "endedAt": self.ended_at,
            "durationMs": self.duration_ms,
            "counts": dict(self.counts),
            "running": [dict(test) for test in self.running],
            "participants": [dict(one) for one in self.participants],
            "metadata": dict(self.metadata),
            "events": self.events,
            "offset": self.offset,
        }
        optional = {
            "key": self.key,
            "endReason": self.end_reason,
            "previousRunId": self.previous_run_id,
            "interrupted": [dict(test) for test in self.interrupted],
            "errors": list(self.errors),
            "refused": dict(self.refused),
            "refusals": list(self.refusals),
        }
        return body | {key: value for key, value in optional.items() if value}

    @classmethod
    def from_payload(cls, body: Mapping[str, Any]) -> RunStatus:
        """The inverse of `payload`."""
        return cls(
            run_id=body["runId"],
            project=body["project"],
            name=body["name"],
            key=body.get("key"),
            status=body["status"],
            complete=body["complete"],
            end_reason=body.get("endReason"),
            started_at=body["startedAt"],
            ended_at=body["endedAt"],
            counts=body["counts"],
            running=tuple(body["running"]),
            interrupted=tuple(body.get("interrupted", ())),
            participants=tuple(body["participants"]),
            metadata=body["metadata"],
            previous_run_id=body.get("previousRunId"),
            errors=tuple(body.get("errors", ())),
            refused=body.get("refused", {}),
            refusals=tuple(body.get("refusals", ())),
            events=body["events"],
            offset=body["offset"],
        )
