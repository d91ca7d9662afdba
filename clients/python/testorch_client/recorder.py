"""Follows the tests of one pytest session and emits their events. Knows neither pytest's hooks nor the network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from testorch_client.encoding import visible
from testorch_client.failures import describe, errors_of
from testorch_client.identity import Location, bounded, identify, without_group
from testorch_client.outcomes import (
    CRASHED,
    PASSED,
    Output,
    Phases,
    Verdict,
    begun_outputs_of,
    judge,
    outputs_of,
    properties_of,
    skip_reason,
)
from testorch_client.progress import Progress

INTERRUPTED = Verdict("interrupted", "interrupted", reason="the session ended before this test did")
COLLECTION_TAG = "collection"


class Emit(Protocol):
    def __call__(self, type: str, payload: dict[str, Any]) -> None: ...


@dataclass(slots=True)
class OpenAttempt:
    """An attempt that has started. `identity` is what every event about it says; it isn't changed once emitted.

    `sent` says what of its output was sent while it was running, by the headings of its sections.
    """

    nodeid: str
    identity: dict[str, Any]
    started_ms: int
    worker_id: str | None
    phases: Phases = field(default_factory=Phases)
    sent: dict[str, Progress] = field(default_factory=dict)

    @property
    def is_settled(self) -> bool:
        return self.phases.is_settled


@dataclass(frozen=True, slots=True)
class LiveChunk:
    """Output of a test that is still running, and what of its output will have been sent with it."""

    stream: str
    text: str
    is_cut: bool
    progress: dict[str, Progress]


class Recorder:
    """The attempts that are open, by test, and by worker too where each worker runs every test (`--dist=each`).

    An attempt opens with `start`, or with the first report on it, and closes with `finish`, with the report of a
    crash, with the next `start` of the same test, or at the session's end.

    `running` and `send_live` are for any thread, the rest is for pytest's.
    """

    def __init__(
        self,
        emit: Emit,
        *,
        root: str,
        clock: Callable[[], float],
        is_per_worker: bool = False,
        has_groups: bool = False,
    ) -> None:
        self.ended = 0
        self.running: OpenAttempt | None = None  # the last that has started, until it ends
        self._emit = emit
        self._root = root
        self._clock = clock
        self._is_per_worker = is_per_worker
        self._has_groups = has_groups
        # By node id, or by node id and worker where each worker runs every test.
        self._open: dict[str, OpenAttempt] = {}
        self._attempts: dict[str, int] = {}
        self._collected: set[str] = set()
        self._is_planned = False
        self._running_lock = threading.Lock()

    def plan(self, total: int) -> None:
        """Say once how many tests there will be; with xdist, every worker says so."""
        # Where each worker runs every test, the number of workers isn't known: no plan rather than a wrong one.
        if not self._is_planned and not self._is_per_worker:
            self._is_planned = True
            self._emit("run/plan", {"total": total})

    def start(self, nodeid: str, location: Location, worker_id: str | None) -> None:
        if self._is_per_worker and worker_id is None:
            return  # whose it is will be known with its first report
        key = self._key(nodeid, worker_id) if self._is_per_worker else nodeid
        if key in self._open:
            self._close(key)
        self._begin(key, nodeid, location, worker_id)

    def report(self, report: Any, worker_id: str | None) -> None:
        nodeid = report.nodeid
        key = self._key(nodeid, worker_id) if self._is_per_worker else nodeid
        attempt = self._open.get(key)
        if attempt is None:
            attempt = self._begin(key, nodeid, report.location, worker_id)
        elif attempt.worker_id is None:
            attempt.worker_id = worker_id
        attempt.phases.add(report)
        if report.when == CRASHED:
            self._close(key)

    def finish(self, nodeid: str, worker_id: str | None) -> None:
        if self._is_per_worker and worker_id is None:
            settled = [key for key, attempt in self._open.items() if attempt.nodeid == nodeid and attempt.is_settled]
            for key in settled:
                self._close(key)
            return
        key = self._key(nodeid, worker_id) if self._is_per_worker else nodeid
        if key in self._open:
            self._close(key)

    def collected(self, report: Any) -> None:
        """A module that can't be collected is an error, one that skips itself is skipped: both on its own id."""
        nodeid = report.nodeid
        if report.outcome == "passed" or nodeid in self._collected:
            return
        self._collected.add(nodeid)  # every xdist worker collects, and so does every replacement
        is_failed = report.outcome == "failed"
        errors = [{**describe(report.longrepr, self._root), "phase": "collection"}] if is_failed else []
        if is_failed:
            self._emit("run/error", {"testId": bounded(nodeid), "errors": errors} if nodeid else {"errors": errors})
        if not nodeid:
            return
        end = identify(nodeid, None) | {"filePath": nodeid.partition("::")[0], "attempt": 1}
        end |= {"status": "error" if is_failed else "skipped", "rawStatus": report.outcome, "tags": [COLLECTION_TAG]}
        reason = None if is_failed else skip_reason(report)
        end |= {"errors": errors} if is_failed else {"reason": reason} if reason else {}
        self._emit("test/end", end)
        self.ended += 1

    def send_live(self, attempt: OpenAttempt, chunk: LiveChunk, *, is_valid: Callable[[], bool]) -> bool:
        """Emit output of the running attempt; False if it isn't running any more, or if `is_valid` says no.

        `is_valid` is asked once it is sure that the attempt's end comes after what is emitted here.
        """
        output = Output(chunk.stream, visible(chunk.text), chunk.is_cut)
        with self._running_lock:
            if self.running is not attempt or not is_valid():
                return False
            attempt.sent.update(chunk.progress)
            self._emit_output(attempt, output)
            return True

    def internal_error(self, representation: object) -> None:
        self._emit("run/error", {"errors": [describe(representation, self._root)]})

    def end_session(self) -> None:
        """Close what is still open: with its verdict where that is known, else as interrupted."""
        for key in list(self._open):
            self._close(key, is_over=not self._open[key].is_settled)

    def _key(self, nodeid: str, worker_id: str | None) -> str:
        # Copies that run at the same time must differ in their ids, too.
        return f"{nodeid}@{worker_id}"

    def _begin(self, key: str, nodeid: str, location: Location, worker_id: str | None) -> OpenAttempt:
        number = self._attempts[key] = self._attempts.get(key, 0) + 1
        identity = identify(without_group(nodeid) if self._has_groups else nodeid, location)
        identity["attempt"] = number
        if self._is_per_worker:
            identity["testId"] = bounded(key)
        if worker_id is not None:
            identity["workerId"] = worker_id
        attempt = self._open[key] = OpenAttempt(nodeid, identity, int(self._clock() * 1000), worker_id)
        self._emit("test/start", identity)
        self.running = attempt
        return attempt

    def _close(self, key: str, *, is_over: bool = False) -> None:
        attempt = self._open.pop(key)
        if self.running is attempt:
            with self._running_lock:
                self.running = None
        phases = attempt.phases
        verdict = INTERRUPTED if is_over else judge(phases)
        if not verdict.is_ok:
            for output in outputs_of(phases, attempt.sent):
                self._emit_output(attempt, output)
        elif attempt.sent:  # what was begun is brought to its end
            for output in begun_outputs_of(phases, attempt.sent):
                self._emit_output(attempt, output)
        reports = phases.whole
        first, last = (reports[0], reports[-1]) if reports else (None, None)
        end = {
            **attempt.identity,
            "status": verdict.status,
            "rawStatus": verdict.raw_status,
            "expectedStatus": verdict.expected_status,
            # Setup, call and teardown by pytest's own monotonic clock, as junit's `total`.
            "durationMs": round(phases.duration_seconds * 1000, 3),
            "startedAt": _milliseconds(first, "start") or attempt.started_ms,
            "endedAt": _milliseconds(last, "stop") or int(self._clock() * 1000),
        }
        if attempt.worker_id is not None:
            end["workerId"] = attempt.worker_id
        if verdict is not PASSED:
            end |= self._details(verdict, phases)
        properties = properties_of(last)
        if properties:
            end["properties"] = properties
        self._emit("test/end", end)
        self.ended += not verdict.will_retry

    def _details(self, verdict: Verdict, phases: Phases) -> dict[str, Any]:
        errors = errors_of(phases, self._root)
        details: dict[str, Any] = {"errors": errors} if errors else {}
        if verdict.ok is not None:
            details["ok"] = verdict.ok
        if verdict.reason:
            details["reason"] = verdict.reason
        if verdict.will_retry:
            details["willRetry"] = True
        return details

    def _emit_output(self, attempt: OpenAttempt, output: Output) -> None:
        said = {
            "testId": attempt.identity["testId"],
            "attempt": attempt.identity["attempt"],
            "stream": output.stream,
            "text": output.text,
            "truncated": output.is_truncated,
        }
        self._emit("test/output", said)


def _milliseconds(report: Any, name: str) -> int | None:
    """A time of a report, in milliseconds since the epoch; None if it has none (old pytest, or a crash)."""
    seconds = getattr(report, name, None)
    return int(seconds * 1000) if seconds else None
