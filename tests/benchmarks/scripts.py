"""What a stream will send: realistic events, encoded as frames before any clock starts."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from benchmarks.frames import client_frame

TEST_ID_CHARACTERS = 80
START_OF_TIME_MS = 1_766_000_000_000

STACK = "\n".join(
    f'  File "tests/checkout/test_{name}.py", line {line}, in test_{name}\n    assert basket.total == expected'
    for name, line in (("basket", 118), ("discount", 42), ("shipping", 77), ("invoice", 203))
)
OUTPUT = "INFO  checkout: basket of 3 items, total 41.97 EUR, discount SUMMER applied\n" * 5


@dataclass(frozen=True)
class Script:
    """All frames of one stream, one after the other, and what is needed to know what the server must answer."""

    frames: bytes
    ends: Sequence[int]
    """Where each message ends in `frames`."""
    batch: int
    """Events a message; the last one may have fewer."""
    ids: Sequence[str]
    marks: Sequence[str]
    """Of every event: `start`, the status of a test's end, or nothing for what counts no test."""

    @property
    def events(self) -> int:
        return len(self.ids)

    def messages_within(self, position: int) -> int:
        """How many messages it takes to have sent that many bytes: the one that is under way counts."""
        return bisect_left(self.ends, position) + 1 if position else 0

    def events_in(self, messages: int) -> int:
        return min(messages * self.batch, self.events)

    def digest(self, events: int) -> str:
        """The digest of a stream that sent only the first events."""
        lines = "".join(f"{seq}:{one}\n" for seq, one in enumerate(self.ids[:events], 1))
        return hashlib.sha256(lines.encode()).hexdigest()

    def counts(self, events: int) -> dict[str, int]:
        """The run's counts after the first events, once the stream has ended: what is still open is interrupted."""
        found = Counter(mark for mark in self.marks[:events] if mark)
        started = found.pop("start", 0)
        found["interrupted"] += started - sum(found.values())
        return {"total": started, **{bucket: count for bucket, count in found.items() if count}}


@dataclass
class _Draft:
    """The events of one stream in the making."""

    origin: int
    random_ids: bool
    dice: random.Random
    encoded: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)

    def add(self, kind: str, payload: dict[str, Any], mark: str = "") -> None:
        seq = len(self.ids) + 1
        name = f"{self.dice.getrandbits(96):024x}" if self.random_ids else f"evt-{self.origin:04d}-{seq:015d}"
        timestamp = START_OF_TIME_MS + seq
        event = {"id": name, "type": kind, "timestamp": timestamp, "seq": seq, "payload": payload}
        self.encoded.append(orjson.dumps(event))
        self.ids.append(name)
        self.marks.append(mark)


def write_script(events: int, *, batch: int, origin: int = 0, random_ids: bool = False, plain: bool = False) -> Script:
    """The script of a stream: tests that start and end, a fifth of them with an error or with output.

    `origin` tells the streams of a load apart, by test and event ids. With `plain` every test passes and is quiet.
    """
    draft = _Draft(origin, random_ids, random.Random(origin))
    number = 0
    while len(draft.ids) < events:
        _write_test(draft, number, plain=plain)
        number += 1
    return _framed(draft, events, batch)


def test_id(origin: int, number: int) -> str:
    """A test's id as pytest would make it, of exactly 80 characters."""
    path = f"tests/area_{origin % 100:02d}/test_module_{number // 200:04d}.py::TestCheckout::test_case"
    return f"{path}[{origin:04d}-{number:07d}]".ljust(TEST_ID_CHARACTERS, "x")


test_id.__test__ = False  # type: ignore[attr-defined]  # pytest's mark for what only looks like a test


def _write_test(draft: _Draft, number: int, *, plain: bool) -> None:
    name = test_id(draft.origin, number)
    kind = 1 if plain else number % 10
    draft.add("test/start", {"testId": name, "testName": f"test_case[{number}]", "workerId": "gw0"}, "start")
    if kind == 5:
        draft.add("test/output", {"testId": name, "stream": "stdout", "text": OUTPUT})
    end: dict[str, Any] = {"testId": name, "status": "passed", "durationMs": 1.25 + number % 400}
    if kind == 0:
        error = {"type": "AssertionError", "message": f"assert 41.97 == {number}.99", "stack": STACK, "phase": "call"}
        end |= {"status": "failed", "errors": [error]}
    elif kind == 3:
        end |= {"status": "skipped", "reason": "needs a payment gateway"}
    draft.add("test/end", end, end["status"])


def write_launches(launches: int, *, batch: int, origin: int) -> Script:
    """ReportPortal's published workload: a launch is 243 tests, 5,100 logical events; here one launch after the other."""
    draft = _Draft(origin, False, random.Random(origin))
    for launch in range(launches):
        _write_launch(draft, launch)
    return _framed(draft, len(draft.ids), batch)


LAUNCH_TESTS = 243
LAUNCH_EVENTS = 5_100
LAUNCH_SUITES = 20


def _write_launch(draft: _Draft, launch: int) -> None:
    first = len(draft.ids)
    for suite in range(LAUNCH_SUITES):
        facts = {"suiteId": f"launch-{launch}/suite-{suite}", "suiteName": f"suite {suite}"}
        draft.add("test/suite/start", facts)
        for number in range(suite, LAUNCH_TESTS, LAUNCH_SUITES):
            # 243 tests share what is left of the 5,100 events: 18 or 19 steps and lines of output each.
            left = LAUNCH_EVENTS - 2 * LAUNCH_SUITES - 2 * LAUNCH_TESTS
            inner = left // LAUNCH_TESTS + (number < left % LAUNCH_TESTS)
            _write_long_test(draft, launch * LAUNCH_TESTS + number, inner)
        draft.add("test/suite/end", facts)
    assert len(draft.ids) - first == LAUNCH_EVENTS


def _write_long_test(draft: _Draft, number: int, inner: int) -> None:
    name = test_id(draft.origin, number)
    draft.add("test/start", {"testId": name, "testName": f"test_case[{number}]"}, "start")
    for step in range(inner // 3):
        facts = {"testId": name, "stepId": f"step-{step}", "title": f"step {step} of the checkout"}
        draft.add("test/step/start", facts)
        draft.add("test/output", {"testId": name, "stream": "log", "text": f"INFO step {step}: answer 200 in 12 ms"})
        draft.add("test/step/end", facts)
    for line in range(inner % 3):
        draft.add("test/output", {"testId": name, "stream": "stdout", "text": f"line {line} of what it printed"})
    status = "failed" if number % 20 == 0 else "passed"
    draft.add("test/end", {"testId": name, "status": status, "durationMs": 12.5}, status)


def _framed(draft: _Draft, events: int, batch: int) -> Script:
    frames, ends, position = [], [], 0
    for message in _messages(draft.encoded[:events], batch):
        frame = client_frame(message)
        position += len(frame)
        frames.append(frame)
        ends.append(position)
    return Script(b"".join(frames), ends, batch, draft.ids[:events], draft.marks[:events])


def _messages(encoded: Sequence[bytes], batch: int) -> Iterator[bytes]:
    if batch == 1:
        for event in encoded:
            yield b'{"type":"event","payload":' + event + b"}"
        return
    for start in range(0, len(encoded), batch):
        yield b'{"type":"events","payload":{"events":[' + b",".join(encoded[start : start + batch]) + b"]}}"
