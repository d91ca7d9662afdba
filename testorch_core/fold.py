"""The fold: how events make a run's state. Pure; total over any JSON object, idempotent, and indifferent to disorder.

A `Draft` is an overlay on a committed `RunState`: events are folded into it, and `merge` makes it the state once the
commit has succeeded. A draft that is dropped leaves no trace, so the state is always that of the committed log.

The laws (held by `tests/test_fold.py`): a client's event folded twice changes nothing; any interleaving of the clients'
events that keeps each source's own order reaches the same state. Events of the server itself occur once, in log order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import orjson

from testorch_core import events as ev
from testorch_core.events import RUNNING, SEVERITY, UNKNOWN, RecordBatch, Source, WireEvent
from testorch_core.payloads import duration_ms, is_ok, status_of, text, whole
from testorch_core.results import ResultRow, RunRow
from testorch_core.runs import (
    ACTIVE,
    ENDED,
    FOLD_VERSION,
    GONE,
    LOST,
    MAX_REFUSALS_SHOWN,
    MAX_RUNNING_SHOWN,
    Attempt,
    RunState,
    RunStatus,
    Standing,
    standing,
)
from testorch_core.streams import StreamRow, StreamState
from testorch_core.summary import summarize
from testorch_core.text import clip

MAX_RUN_ERRORS = 20
"""Errors outside any test that a run's status shows; the log has them all."""

ATTEMPT_TYPES = frozenset({ev.TEST_START, ev.TEST_END, ev.TEST_OUTPUT, ev.TEST_ATTACHMENT, ev.STEP_START, ev.STEP_END})


def _participant(source: Source) -> str:
    return source.stream or source.connection


class Draft:
    """What one commit would make of a run."""

    __slots__ = ("_attempts", "_earlier", "_opened", "_status", "_streams", "_touched", "base", "head")

    def __init__(self, base: RunState) -> None:
        self.base = base
        self.head = base.head.copy()
        self._attempts: dict[str, Attempt] = {}
        self._earlier: dict[str, tuple[Attempt, ...]] = {}
        self._opened: dict[str, Mapping[str, Any] | None] = {}
        self._touched: dict[tuple[str, int], list[Mapping[str, Any] | None]] = {}
        self._streams: dict[str, StreamState] = {}
        self._status: RunStatus | None = None

    # Reading through the overlay.

    def last_attempt(self, test_id: str) -> Attempt | None:
        """The test's last attempt, or None for a test of which nothing has been heard."""
        return self._attempts.get(test_id) or self.base.attempts.get(test_id)

    def earlier_attempts(self, test_id: str) -> tuple[Attempt, ...]:
        earlier = self._earlier.get(test_id)
        return self.base.earlier.get(test_id, ()) if earlier is None else earlier

    def open_tests(self) -> Iterator[str]:
        """The ids of the tests whose last attempt has not ended."""
        kept = (test_id for test_id in self.base.open if test_id not in self._opened)
        return chain(kept, (test_id for test_id, shown in self._opened.items() if shown is not None))

    def stream(self, stream_id: str) -> StreamState | None:
        """A stream of this run, or None. Not to be changed; see `consume`."""
        return self._streams.get(stream_id) or self.base.streams.get(stream_id)

    def with_attempt(self, wire: WireEvent) -> WireEvent:
        """The event as it is to be stored: with its attempt's number, assigned here where the producer gave none.

        A start after an ended attempt gets the next number; everything else belongs to the attempt that is last.
        """
        if wire["type"] not in ATTEMPT_TYPES:
            return wire
        payload = wire["payload"]
        if "attempt" in payload:
            return wire
        test_id = text(payload, "testId")
        if test_id is None:
            return wire
        last = self.last_attempt(test_id)
        number = last.number if last else 1
        if last and last.ended_id is not None and wire["type"] == ev.TEST_START:
            number += 1
        return {**wire, "payload": {**payload, "attempt": number}}

    # Folding.

    def record(
        self, wires: Sequence[WireEvent], *, first_offset: int, received_at: int, source: Source
    ) -> list[WireEvent]:
        """Take new events into the draft; returns them as they are to be stored."""
        stored: list[WireEvent] = []
        for offset, wire in enumerate(wires, first_offset):
            numbered = self.with_attempt(wire)
            self.fold(numbered, offset=offset, received_at=received_at, source=source)
            stored.append(numbered)
        self._consume(stored, source)
        return stored

    def replay(self, batch: RecordBatch) -> None:
        """Take in a batch of the log; what has been folded already (by offset) is passed over."""
        wires = batch.wires()
        folded = self.head.last_offset
        for offset, wire in enumerate(wires, batch.first_offset):
            if offset > folded:
                self.fold(wire, offset=offset, received_at=batch.received_at, source=batch.source)
        self._consume(wires, batch.source)

    def _consume(self, wires: Sequence[WireEvent], source: Source) -> None:
        # A stream is opened in the log before its first event.
        if source.stream is not None and self.stream(source.stream) is not None:
            self._changed_stream(source.stream).consume(wires)

    def fold(self, wire: WireEvent, *, offset: int, received_at: int, source: Source) -> None:
        """Take one event of the log into the draft. Never raises on any JSON object with the fields of an envelope."""
        head = self.head
        head.events += 1
        head.last_offset = offset
        if head.started_at is None:
            head.started_at = received_at
        kind = wire["type"]
        if head.is_over and kind not in ev.SERVER_TYPES:
            head.late += 1
        folder = _FOLDERS.get(kind)
        if folder is not None:
            folder(self, wire, wire["payload"], received_at, source)

    def _changed_stream(self, stream_id: str) -> StreamState:
        stream = self._streams.get(stream_id)
        if stream is None:
            known = self.base.streams.get(stream_id)
            stream = self._streams[stream_id] = known.copy() if known is not None else StreamState(stream_id)
        return stream

    def _test_start(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        test_id = text(payload, "testId")
        if test_id is None:
            return
        number = whole(payload, "attempt", 1) or 1
        known = self._find(test_id, number)
        if known is not None and known.started_id is not None and known.started_id >= wire["id"]:
            return
        attempt = known or Attempt(number)
        attempt = attempt._replace(started_id=wire["id"], participant=_participant(source))
        shown = {
            "testId": test_id,
            "testName": text(payload, "testName") or test_id,
            "attempt": number,
            "startedAt": wire["timestamp"],
            "workerId": text(payload, "workerId"),
        }
        self._put(test_id, attempt, begin=payload, shown=shown)

    def _test_end(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        test_id = text(payload, "testId")
        if test_id is None:
            return
        number = whole(payload, "attempt", 1) or 1
        known = self._find(test_id, number) or Attempt(number)
        status = status_of(payload, "status")
        rank = (SEVERITY[status], wire["id"])
        if known.status is not None and (SEVERITY[known.status], known.ended_id or "") >= rank:
            return
        ended = known._replace(
            ended_id=wire["id"],
            status=status,
            ok=is_ok(payload, status),
            duration_ms=duration_ms(payload),
        )
        self._put(test_id, ended, end=payload)

    def _run_plan(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        total = whole(payload, "total", 0)
        ids = payload.get("ids")
        planned = total if total is not None else len(ids) if isinstance(ids, list) else 0
        participant = _participant(source)
        self.head.plans[participant] = max(planned, self.head.plans.get(participant, 0))

    def _run_error(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        listed = payload.get("errors")
        first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else payload
        message = text(first, "message") or "an error outside any test"
        errors = self.head.errors
        errors[wire["id"]] = {"id": wire["id"], "type": text(first, "type"), "message": clip(message, 500)}
        if len(errors) > MAX_RUN_ERRORS:  # the least ids stay, whatever the order they came in
            self.head.errors = dict(sorted(errors.items())[:MAX_RUN_ERRORS])

    def _run_start(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        head = self.head
        head.started_at = received_at
        head.name = text(payload, "name")
        head.key = text(payload, "key")
        head.expect = whole(payload, "expect", 1)
        head.previous_run_id = text(payload, "previousRunId")
        head.implicit = payload.get("implicit") is True
        metadata = payload.get("metadata")
        head.metadata = metadata if isinstance(metadata, dict) else {}
        self._run_join(wire, payload, received_at, source)

    def _run_join(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        participant = text(payload, "participant")
        if participant is not None:
            self._set_state(participant, ACTIVE)

    def _run_leave(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        participant = text(payload, "participant")
        if participant is not None:
            self._set_state(participant, GONE if payload.get("reason") == LOST else ENDED)

    def _run_refused(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        head = self.head
        code = text(payload, "code") or UNKNOWN
        head.refused[code] = head.refused.get(code, 0) + 1
        shown = {key: payload[key] for key in ("eventId", "eventType", "seq", "code", "message") if key in payload}
        head.refusals = (*head.refusals, {**shown, "at": received_at})[-MAX_REFUSALS_SHOWN:]

    def _stream_open(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        stream_id = text(payload, "stream")
        if stream_id is not None:
            self._changed_stream(stream_id)
            self._set_state(stream_id, ACTIVE)

    def _stream_lost(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        participant = text(payload, "participant")
        if participant is not None and self.head.participants.get(participant) == ACTIVE:
            self.head.participants[participant] = LOST
            self._touch_stream(participant)

    def _stream_resumed(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        participant = text(payload, "participant")
        if participant is not None and self.head.participants.get(participant) in (LOST, GONE):
            self._set_state(participant, ACTIVE)

    def _stream_end(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        stream_id = text(payload, "streamId")
        if stream_id is not None:
            self._changed_stream(stream_id).complete = payload.get("complete") is True
            self._set_state(stream_id, ENDED)

    def _touch_stream(self, participant: str) -> None:
        if self.stream(participant) is not None:  # its row says the state, too
            self._changed_stream(participant)

    def _set_state(self, participant: str, state: str) -> None:
        self._touch_stream(participant)
        self._reconsider(lambda: self.head.participants.__setitem__(participant, state))
        head = self.head
        if head.is_over and head.end_reason in (None, LOST) and self.is_whole():
            head.complete = True  # what was missing when the run ended has come, and was proved, after all

    def is_whole(self) -> bool:
        """Whether every participant has ended properly, and every stream proved that all it sent is here."""
        if any(state != ENDED for state in self.head.participants.values()):
            return False
        streams = self.base.streams | self._streams
        return all(one.complete for one in streams.values())

    def _run_end(self, wire: WireEvent, payload: Mapping[str, Any], received_at: int, source: Source) -> None:
        def end() -> None:
            head = self.head
            head.status = text(payload, "status") or UNKNOWN
            head.complete = payload.get("complete") is True
            head.end_reason = text(payload, "reason")
            head.ended_at = received_at

        if not self.head.is_over:
            self._reconsider(end)

    # Changing a test.

    def _find(self, test_id: str, number: int) -> Attempt | None:
        last = self.last_attempt(test_id)
        if last is None or last.number == number:
            return last
        return next((one for one in self.earlier_attempts(test_id) if one.number == number), None)

    def _put(
        self,
        test_id: str,
        attempt: Attempt,
        *,
        begin: Mapping[str, Any] | None = None,
        end: Mapping[str, Any] | None = None,
        shown: Mapping[str, Any] | None = None,
    ) -> None:
        before = self._standing(test_id)
        last = self.last_attempt(test_id)
        if last is None or last.number == attempt.number:
            self._attempts[test_id] = attempt
        else:
            others = {one.number: one for one in (*self.earlier_attempts(test_id), last, attempt)}
            newest = others.pop(max(others))
            self._attempts[test_id] = newest
            self._earlier[test_id] = tuple(others[number] for number in sorted(others))
            self._touch(test_id, last.number)
            shown = shown if newest is attempt else None
        if self._attempts[test_id].status is not None:
            if test_id in self.base.open or test_id in self._opened:
                self._opened[test_id] = None
        elif shown is not None:
            self._opened[test_id] = shown
        self._touch(test_id, attempt.number, begin, end)
        self._recount(test_id, before)

    def _touch(
        self, test_id: str, number: int, begin: Mapping[str, Any] | None = None, end: Mapping[str, Any] | None = None
    ) -> None:
        parts = self._touched.setdefault((test_id, number), [None, None])
        if begin is not None:
            parts[0] = begin
        if end is not None:
            parts[1] = end

    def _standing(self, test_id: str) -> Standing | None:
        last = self.last_attempt(test_id)
        return None if last is None else self.standing_of(test_id, last)

    def standing_of(self, test_id: str, last: Attempt) -> Standing:
        return standing(last, self.earlier_attempts(test_id), interrupted=self._is_cut_off(last))

    def _is_cut_off(self, attempt: Attempt) -> bool:
        head = self.head
        return head.is_over or head.participants.get(attempt.participant or "") == GONE

    def _recount(self, test_id: str, before: Standing | None) -> None:
        after = self._standing(test_id)
        if before == after:
            return
        head = self.head
        for stand, step in ((before, -1), (after, 1)):
            if stand is None:
                head.tests += 1
                continue
            head.counts[stand.bucket] = head.counts.get(stand.bucket, 0) + step
            head.flaky += step * stand.flaky
            head.unexpected += step * stand.unexpected

    def _reconsider(self, change: Callable[[], None]) -> None:
        """Make a change that may interrupt or heal the open tests, and count again those that it touched."""
        before = {test_id: self._standing(test_id) for test_id in self.open_tests()}
        change()
        for test_id, stood in before.items():
            last = self.last_attempt(test_id)
            if last is not None and self.standing_of(test_id, last) != stood:
                self._touch(test_id, last.number)
                self._recount(test_id, stood)

    # What a commit takes from the draft.

    def result_rows(self) -> list[ResultRow]:
        """The attempts that changed, each as it is to be stored."""
        return [self._row(test_id, number, *parts) for (test_id, number), parts in self._touched.items()]

    def _row(
        self, test_id: str, number: int, begin: Mapping[str, Any] | None, end: Mapping[str, Any] | None
    ) -> ResultRow:
        attempt = self._find(test_id, number)
        assert attempt is not None, "an attempt was touched that is not there"
        final = self.last_attempt(test_id) is attempt
        stand = self.standing_of(test_id, attempt) if final else None
        cut_off = ev.INTERRUPTED if self._is_cut_off(attempt) else RUNNING
        return ResultRow(
            run_id=self.base.run_id,
            test_id=test_id,
            attempt=number,
            final=final,
            status=attempt.status or cut_off,
            ok=attempt.ok if attempt.status is not None else None,
            outcome=stand.outcome if stand else None,
            duration_ms=attempt.duration_ms,
            begin=orjson.dumps(begin) if begin is not None else None,
            end=orjson.dumps(end) if end is not None else None,
        )

    def stream_rows(self) -> list[StreamRow]:
        """The streams that moved, each as it is to be stored."""
        states, base = self.head.participants, self.base
        return [one.row(base.project, base.run_id, states.get(name, ACTIVE)) for name, one in self._streams.items()]

    def merge(self) -> tuple[RunState, RunStatus]:
        """Make the draft the state of the run, after its commit; returns that state and its status. The draft is spent."""
        status = self.status()
        base = self.base
        base.head = self.head
        base.attempts.update(self._attempts)
        base.earlier.update(self._earlier)
        base.streams.update(self._streams)
        for test_id, shown in self._opened.items():
            if shown is None:
                base.open.pop(test_id, None)
            else:
                base.open[test_id] = shown
        return base, status

    def preview(self) -> RunState:
        """The state as `merge` would make it, without touching the base; shares the untouched attempts with it."""
        state = RunState(self.base.project, self.base.run_id)
        state.head = self.head
        state.attempts = self.base.attempts | self._attempts
        state.earlier = self.base.earlier | self._earlier
        state.streams = self.base.streams | self._streams
        state.open = {test_id: shown for test_id, shown in (self.base.open | self._opened).items() if shown is not None}
        return state

    def status(self) -> RunStatus:
        """The run's status as `merge` would make it."""
        if self._status is None or self._status.offset != self.head.last_offset:
            picture = RunState(self.base.project, self.base.run_id)
            picture.head = self.head
            picture.streams = self.base.streams | self._streams if self._streams else self.base.streams
            picture.open = dict(islice(self._open_now(), MAX_RUNNING_SHOWN))
            self._status = picture.status()
        return self._status

    def run_row(self) -> RunRow:
        """The run's row for this commit. Costs time in the number of tests only for a run that is over."""
        return row_of(self.status(), summary=summarize(self.preview()) if self.head.is_over else None)

    def _open_now(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for test_id in self.open_tests():
            shown = self._opened.get(test_id) or self.base.open.get(test_id)
            if shown is not None:
                yield test_id, shown


def row_of(status: RunStatus, *, summary: bytes | None) -> RunRow:
    """A run's row from its status."""
    return RunRow(
        project=status.project,
        run_id=status.run_id,
        key=status.key,
        status=status.status,
        started_at=status.started_at or 0,
        ended_at=status.ended_at,
        last_offset=status.offset,
        fold_version=FOLD_VERSION,
        document=orjson.dumps(status.payload()),
        summary=summary,
    )


_FOLDERS: dict[str, Callable[[Draft, WireEvent, Mapping[str, Any], int, Source], None]] = {
    ev.TEST_START: Draft._test_start,
    ev.TEST_END: Draft._test_end,
    ev.RUN_PLAN: Draft._run_plan,
    ev.RUN_ERROR: Draft._run_error,
    ev.RUN_START: Draft._run_start,
    ev.RUN_JOIN: Draft._run_join,
    ev.RUN_LEAVE: Draft._run_leave,
    ev.RUN_REFUSED: Draft._run_refused,
    ev.RUN_END: Draft._run_end,
    ev.STREAM_OPEN: Draft._stream_open,
    ev.STREAM_LOST: Draft._stream_lost,
    ev.STREAM_RESUMED: Draft._stream_resumed,
    ev.STREAM_END: Draft._stream_end,
}
