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
from testorch_core import run_events
from testorch_core.events import RUNNING, SERVER_TYPES, SEVERITY, RecordBatch, Source, WireEvent
from testorch_core.payloads import duration_ms, is_ok, status_of, text, whole
from testorch_core.results import ResultRow, RunRow
from testorch_core.runs import (
    FOLD_VERSION,
    GONE,
    MAX_LAST_OUTPUT_CHARACTERS,
    MAX_RUNNING_SHOWN,
    Attempt,
    OpenTest,
    RunState,
    RunStatus,
    Standing,
    standing,
)
from testorch_core.streams import StreamRow, StreamState
from testorch_core.summary import summarize

ATTEMPT_TYPES = frozenset({ev.TEST_START, ev.TEST_END, ev.TEST_OUTPUT, ev.TEST_ATTACHMENT, ev.STEP_START, ev.STEP_END})

Halves = list[Mapping[str, Any] | None]
"""The payloads of an attempt's start and end, as far as this draft has seen them."""


class Draft:
    """What one commit would make of a run."""

    __slots__ = ("_attempts", "_earlier", "_opened", "_status", "_streams", "_touched", "base", "head")

    def __init__(self, base: RunState) -> None:
        self.base = base
        self.head = base.head.copy()
        self._attempts: dict[str, Attempt] = {}
        self._earlier: dict[str, tuple[Attempt, ...]] = {}
        self._opened: dict[str, OpenTest | None] = {}
        self._touched: dict[tuple[str, int], Halves] = {}
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
        """A stream of this run, or None. Not to be changed; see `changed_stream`."""
        return self._streams.get(stream_id) or self.base.streams.get(stream_id)

    def changed_stream(self, stream_id: str) -> StreamState:
        """A stream of this run that this draft may change; opened if it is not there."""
        stream = self._streams.get(stream_id)
        if stream is None:
            known = self.base.streams.get(stream_id)
            stream = self._streams[stream_id] = known.copy() if known is not None else StreamState(stream_id)
        return stream

    def is_whole(self) -> bool:
        """Whether every participant has ended properly, and every stream proved that all it sent is here."""
        return self.head.has_all_ended and all(one.complete for one in (self.base.streams | self._streams).values())

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
            self.changed_stream(source.stream).consume(wires)

    def with_attempt(self, wire: WireEvent) -> WireEvent:
        """The event as it is to be stored: with its attempt's number, assigned here where the producer gave none.

        A start after an ended attempt gets the next number; everything else belongs to the attempt that is last.
        """
        payload = wire["payload"]
        if "attempt" in payload or wire["type"] not in ATTEMPT_TYPES:
            return wire
        test_id = text(payload, "testId")
        if test_id is None:
            return wire
        last = self.last_attempt(test_id)
        number = last.number if last else 1
        if last and last.ended_id is not None and wire["type"] == ev.TEST_START:
            number += 1
        return {**wire, "payload": {**payload, "attempt": number}}

    def fold(self, wire: WireEvent, *, offset: int, received_at: int, source: Source) -> None:
        """Take one event of the log into the draft. Never raises on any JSON object with the fields of an envelope."""
        head = self.head
        head.events += 1
        head.last_offset = offset
        if head.started_at is None:
            head.started_at = received_at
        kind = wire["type"]
        if head.status != RUNNING and kind not in SERVER_TYPES:
            head.late += 1
        folder = _FOLDERS.get(kind)
        if folder is not None:
            folder(self, wire, wire["payload"], source)
        else:
            run_events.fold(self, wire, received_at, source)

    def _test_start(self, wire: WireEvent, payload: Mapping[str, Any], source: Source) -> None:
        test_id = payload.get("testId")
        if not isinstance(test_id, str):
            return
        number = whole(payload, "attempt", 1) or 1
        name = payload.get("testName")
        participant = source.stream or source.connection
        shown = OpenTest(
            name if isinstance(name, str) and name else test_id,
            number,
            wire["timestamp"],
            text(payload, "workerId"),
            participant,
        )
        last = self.last_attempt(test_id)
        if last is None:  # as it nearly always is: the first that is heard of a test
            self._attempts[test_id] = attempt = Attempt(number, wire["id"], None, None, True, None, participant)
            self._opened[test_id] = shown
            self._touched[test_id, number] = [payload, None]
            self._count(None, standing(attempt, (), interrupted=self._is_cut_off(attempt)))
            return
        known = self._find(test_id, number)
        if known is not None and known.started_id is not None and known.started_id >= wire["id"]:
            return
        attempt = (known or Attempt(number))._replace(started_id=wire["id"], participant=participant)
        self._put(test_id, attempt, begin=payload, shown=shown)

    def _test_end(self, wire: WireEvent, payload: Mapping[str, Any], source: Source) -> None:
        test_id = payload.get("testId")
        if not isinstance(test_id, str):
            return
        number = whole(payload, "attempt", 1) or 1
        known = self._find(test_id, number) or Attempt(number)
        status = status_of(payload, "status")
        # Of two ends the more severe counts, then the one with the greater id.
        if known.status is not None and _rank(known.status, known.ended_id or "") >= _rank(status, wire["id"]):
            return
        ended = Attempt(
            number,
            known.started_id,
            wire["id"],
            status,
            is_ok(payload, status),
            duration_ms(payload),
            known.participant,
        )
        self._put(test_id, ended, end=payload)

    def _test_output(self, wire: WireEvent, payload: Mapping[str, Any], source: Source) -> None:
        """Keep the last that an open test has said, for the case that its worker dies in it."""
        test_id, chunk = payload.get("testId"), payload.get("text")
        if not isinstance(test_id, str) or not isinstance(chunk, str):
            return
        shown = self._opened[test_id] if test_id in self._opened else self.base.open.get(test_id)
        is_its_own = shown is not None and shown.participant == (source.stream or source.connection)
        if shown is not None and is_its_own and whole(payload, "attempt", 1) in (None, shown.attempt):
            self._opened[test_id] = shown.with_output(wire["timestamp"], wire.get("seq") or 0, wire["id"], chunk)
            self._touch(test_id, shown.attempt)

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
        shown: OpenTest | None = None,
    ) -> None:
        last = self.last_attempt(test_id)
        before = self.standing_of(test_id, last) if last is not None else None
        newest = attempt
        if last is not None and last.number != attempt.number:
            others = {one.number: one for one in (*self.earlier_attempts(test_id), last, attempt)}
            newest = others.pop(max(others))
            self._earlier[test_id] = tuple(others[number] for number in sorted(others))
            self.head.most_attempts = max(self.head.most_attempts, len(others) + 1)
            self._touch(test_id, last.number)
        self._attempts[test_id] = newest
        if newest.status is not None:
            if test_id in self.base.open or test_id in self._opened:
                self._opened[test_id] = None
        elif shown is not None and newest is attempt:
            self._opened[test_id] = shown
        self._touch(test_id, attempt.number, begin, end)
        self._count(before, self.standing_of(test_id, newest))

    def _touch(
        self, test_id: str, number: int, begin: Mapping[str, Any] | None = None, end: Mapping[str, Any] | None = None
    ) -> None:
        halves = self._touched.get((test_id, number))
        if halves is None:
            self._touched[test_id, number] = [begin, end]
            return
        if begin is not None:
            halves[0] = begin
        if end is not None:
            halves[1] = end

    def standing_of(self, test_id: str, last: Attempt) -> Standing:
        earlier = self.earlier_attempts(test_id) if self._earlier or self.base.earlier else ()
        return standing(last, earlier, interrupted=last.status is None and self._is_cut_off(last))

    def _is_cut_off(self, attempt: Attempt) -> bool:
        head = self.head
        return head.status != RUNNING or head.participants.get(attempt.participant or "") == GONE

    def _count(self, before: Standing | None, after: Standing) -> None:
        if before is after:
            return
        head = self.head
        counts = head.counts
        if before is None:
            head.tests += 1
        else:
            counts[before.bucket] -= 1
            head.flaky -= before.flaky
            head.unexpected -= before.unexpected
        counts[after.bucket] = counts.get(after.bucket, 0) + 1
        head.flaky += after.flaky
        head.unexpected += after.unexpected

    def reconsider(self, change: Callable[[], None]) -> None:
        """Make a change that may interrupt or heal the open tests, and count again those that it touched."""
        before = {}
        for test_id in self.open_tests():
            last = self.last_attempt(test_id)
            if last is not None:
                before[test_id] = last, self.standing_of(test_id, last)
        change()
        for test_id, (last, stood) in before.items():
            stands = self.standing_of(test_id, last)
            if stands is not stood:
                self._touch(test_id, last.number)
                self._count(stood, stands)

    # What a commit takes from the draft.

    def result_rows(self) -> list[ResultRow]:
        """The attempts that changed, each as it is to be stored."""
        return [self._row(test_id, number, *parts) for (test_id, number), parts in self._touched.items()]

    def _row(
        self, test_id: str, number: int, begin: Mapping[str, Any] | None, end: Mapping[str, Any] | None
    ) -> ResultRow:
        last = self.last_attempt(test_id)
        attempt = last if last is not None and last.number == number else self._find(test_id, number)
        assert attempt is not None, "an attempt was touched that is not there"
        final = attempt is last
        status = attempt.status or (ev.INTERRUPTED if self._is_cut_off(attempt) else RUNNING)
        return ResultRow(
            self.base.run_id,
            test_id,
            number,
            final,
            status,
            attempt.ok if attempt.status is not None else None,
            self.standing_of(test_id, attempt).outcome if final else None,
            attempt.duration_ms,
            orjson.dumps(begin) if begin is not None else None,
            orjson.dumps(end) if end is not None else self._last_output(test_id, attempt),
        )

    def _last_output(self, test_id: str, attempt: Attempt) -> bytes | None:
        """In place of an end that has not come, what the test has said last."""
        shown = self._opened.get(test_id) or self.base.open.get(test_id)
        if attempt.status is not None or shown is None or shown.attempt != attempt.number or not shown.output:
            return None
        return orjson.dumps({"lastOutput": shown.last_output(MAX_LAST_OUTPUT_CHARACTERS)})

    def stream_rows(self) -> list[StreamRow]:
        """The streams that moved, each as it is to be stored."""
        states, base = self.head.participants, self.base
        return [one.row(base.project, base.run_id, states[name]) for name, one in self._streams.items()]

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
        state.open = dict(self._open_now())
        return state

    def status(self) -> RunStatus:
        """The run's status as `merge` would make it."""
        if self._status is None or self._status.offset != self.head.last_offset:
            picture = RunState(self.base.project, self.base.run_id)
            picture.head = self.head
            picture.streams = self.base.streams | self._streams if self._streams else self.base.streams
            picture.open = dict(islice(self._open_now(), 2 * MAX_RUNNING_SHOWN))
            self._status = picture.status()
        return self._status

    def run_row(self) -> RunRow:
        """The run's row for this commit. Costs time in the number of tests only for a run that is over."""
        return row_of(self.status(), summary=summarize(self.preview()) if self.head.is_over else None)

    def _open_now(self) -> Iterator[tuple[str, OpenTest]]:
        for test_id in self.open_tests():
            shown = self._opened.get(test_id) or self.base.open.get(test_id)
            if shown is not None:
                yield test_id, shown


def _rank(status: str, event_id: str) -> tuple[int, str]:
    return SEVERITY[status], event_id


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


_FOLDERS: dict[str, Callable[[Draft, WireEvent, Mapping[str, Any], Source], None]] = {
    ev.TEST_START: Draft._test_start,
    ev.TEST_END: Draft._test_end,
    ev.TEST_OUTPUT: Draft._test_output,
}
