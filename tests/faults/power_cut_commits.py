"""A seeded sequence of commits of every kind, and what a store holds after the first so many of them. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from testorch_core.errors import KnownEvent
from testorch_core.events import FAILED, PASSED, RecordBatch, Source
from testorch_core.interfaces.storage import Commit, Slice
from testorch_core.testing.commits import batch, commit_of, cursor, event, hash_of, result_row, run_row, stream_row

PROJECTS = ("default", "other")
RUNS = ("run-1", "run-2", "run-3")
REPORTER = "ledger"
TEXT_BYTES = ((0.70, 40), (0.92, 4_000), (1.00, 60_000))
"""How long an event's text is: up to which chance, how many bytes. The longer ones make a commit span many pages."""


@dataclass(slots=True)
class Contents:
    """All that a store holds, in a form that can be compared."""

    heads: dict[str, int] = field(default_factory=dict)
    log: dict[str, list[RecordBatch]] = field(default_factory=dict)
    runs: dict[tuple[str, str], Any] = field(default_factory=dict)
    results: dict[tuple[str, str, str, int], Any] = field(default_factory=dict)
    streams: dict[tuple[str, str], Any] = field(default_factory=dict)
    plain: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)

    def add(self, commit: Commit) -> None:
        for part in commit.slices:
            self.heads[part.project] = part.head
            self.log.setdefault(part.project, []).extend(part.batches)
            self.runs |= {(part.project, row.run_id): row for row in part.runs}
            self.streams |= {(part.project, row.stream_id): row for row in part.streams}
            self.plain |= {(one.project, one.run_id, one.event_id): one.content_hash for one in part.plain}
            for row in part.results:
                key = (part.project, row.run_id, row.test_id, row.attempt)
                before = self.results.get(key, row)
                halves = {name: getattr(row, name) or getattr(before, name) for name in ("begin", "end")}
                verdict = {name: getattr(row, name) for name in ("final", "status", "ok", "outcome", "duration_ms")}
                self.results[key] = result_row(row.test_id, row.attempt, run_id=row.run_id, **verdict, **halves)
        self.cursors |= {one.project: max(one.offset, self.cursors.get(one.project, 0)) for one in commit.cursors}

    def differences(self, other: Contents) -> list[str]:
        """The parts that aren't the same."""
        return [name for name in self.__slots__ if getattr(self, name) != getattr(other, name)]


def contents_after(commits: Sequence[Commit]) -> Contents:
    contents = Contents()
    for commit in commits:
        contents.add(commit)
    return contents


def commits(seed: int, count: int) -> Iterator[Commit]:
    """The same commits for the same seed, in this process or another."""
    made = _Generator(random.Random(seed))
    return (made.commit(number) for number in range(1, count + 1))


class _Generator:
    """Remembers how far each project's log and each stream has come."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._heads = dict.fromkeys(PROJECTS, 0)
        self._seqs: dict[tuple[str, str], int] = {}

    def commit(self, number: int) -> Commit:
        projects = PROJECTS if self._chance.random() < 0.2 else (self._chance.choice(PROJECTS),)
        slices = [self._slice(project, number) for project in projects]
        return commit_of(
            *slices, cursors=[cursor(part.head, reporter=REPORTER, project=part.project) for part in slices]
        )

    def _slice(self, project: str, number: int) -> Slice:
        after = self._heads[project]
        batches: list[RecordBatch] = []
        plain: list[KnownEvent] = []
        streams: dict[str, Any] = {}
        for run_id in self._chance.sample(RUNS, self._chance.randint(1, len(RUNS))):
            stream = f"stream-{run_id}" if self._chance.random() < 0.5 else None
            wires = [event(f"{number}-{run_id}-{step}", self._text()) for step in range(self._chance.randint(1, 8))]
            seq = None
            if stream is not None:
                seq = self._seqs[project, stream] = self._seqs.get((project, stream), 0) + len(wires)
                streams[stream] = stream_row(stream, project=project, run_id=run_id, acked_seq=seq)
            else:
                plain += [KnownEvent(project, run_id, one["id"], hash_of(one)) for one in wires]
            first = batches[-1].last_offset + 1 if batches else after + 1
            source = Source("connection-1", stream=stream)
            batches.append(batch(first, wires, project=project, run_id=run_id, source=source, last_seq=seq))
        self._heads[project] = batches[-1].last_offset
        return Slice(
            project=project,
            expected_head=after,
            batches=batches,
            runs=[run_row(one.run_id, project=project, last_offset=one.last_offset) for one in batches if one.run_id],
            results=[self._result(one.run_id, number) for one in batches if one.run_id],
            streams=list(streams.values()),
            plain=plain,
        )

    def _result(self, run_id: str, number: int) -> Any:
        """A new test, or another verdict on an old one; sometimes without an end of its own."""
        test_id = f"test-{self._chance.randrange(1, number + 1)}"
        facts: dict[str, Any] = {"status": self._chance.choice([PASSED, FAILED]), "duration_ms": number / 2}
        if self._chance.random() < 0.3:
            facts["end"] = None
        return result_row(test_id, run_id=run_id, **facts)

    def _text(self) -> str:
        drawn = self._chance.random()
        longest = next(size for up_to, size in TEXT_BYTES if drawn < up_to)
        return self._chance.randbytes(self._chance.randint(1, longest) // 2).hex()
