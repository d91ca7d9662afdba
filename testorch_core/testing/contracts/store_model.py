"""A store's contract, at random: any series of commits leaves what a simple model of a store is left with.

The series are drawn from numbered seeds, so that a failure can be repeated and the kit needs no further library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

from testorch_core.errors import BehindError, DuplicatesError, KnownEvent
from testorch_core.events import RecordBatch
from testorch_core.interfaces.storage import Commit, EventStore, ResultFilter, RunFilter, Slice
from testorch_core.results import ResultRow, RunRow
from testorch_core.testing.commits import NOW_MS, commit_of, cursor, result_row, run_row, slice_of
from testorch_core.testing.contracts.store_case import StoreCase, all_pages, log_of

PROJECTS = ("shop", "api")
RUNS = ("r0", "r1", "r2")
STEPS = 25


@dataclass
class Model:
    """What a store must hold, written as plainly as can be."""

    heads: dict[str, int] = field(default_factory=dict)
    log: list[RecordBatch] = field(default_factory=list)
    runs: dict[tuple[str, str], RunRow] = field(default_factory=dict)
    results: dict[tuple[str, str, str, int], ResultRow] = field(default_factory=dict)
    plain: dict[tuple[str, str, str], KnownEvent] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)

    def is_behind(self, commit: Commit) -> bool:
        return any(self.heads.get(part.project, 0) != part.expected_head for part in commit.slices)

    def known(self, commit: Commit) -> set[KnownEvent]:
        keys = [(one.project, one.run_id, one.event_id) for part in commit.slices for one in part.plain]
        return {self.plain[key] for key in keys if key in self.plain}

    def append(self, commit: Commit) -> None:
        for part in commit.slices:
            self.heads[part.project] = part.head
            self.log += part.batches
            self.runs |= {(part.project, row.run_id): row for row in part.runs}
            self.plain |= {(one.project, one.run_id, one.event_id): one for one in part.plain}
            for row in part.results:
                key = (part.project, row.run_id, row.test_id, row.attempt)
                old = self.results.get(key, row)
                self.results[key] = row._replace(begin=row.begin or old.begin, end=row.end or old.end)
        for one in commit.cursors:
            self.cursors[one.project] = max(one.offset, self.cursors.get(one.project, 0))

    def delete(self, project: str, run_id: str) -> int:
        gone = (project, run_id)
        self.log = [one for one in self.log if (one.project, one.run_id) != gone]
        self.results = {key: row for key, row in self.results.items() if key[:2] != gone}
        self.plain = {key: one for key, one in self.plain.items() if key[:2] != gone}
        return 1 if self.runs.pop(gone, None) else 0


class ModelPromises(StoreCase):
    """Series of commits, some of them behind or with duplicates, and deletions."""

    @pytest.mark.parametrize("seed", range(4))
    async def test_any_series_of_commits_leaves_what_a_simple_model_holds(self, store: EventStore, seed: int) -> None:
        random, model = Random(seed), Model()
        for _ in range(STEPS):
            if random.random() < 0.1:
                address = (random.choice(PROJECTS), random.choice(RUNS))
                assert await store.delete_runs(address[0], [address[1]]) == model.delete(*address)
            else:
                await _append(store, model, _some_commit(random, model))
        await _assert_equal(store, model)


def _some_commit(random: Random, model: Model) -> Commit:
    projects = random.sample(PROJECTS, random.randint(1, 2))
    slices = [_some_slice(random, model.heads.get(project, 0), project) for project in projects]
    cursors = [cursor(random.randint(0, 30), project=project) for project in projects if random.random() < 0.3]
    return commit_of(*slices, cursors=cursors)


def _some_slice(random: Random, head: int, project: str) -> Slice:
    after = max(0, head + random.choice((0, 0, 0, 0, 0, 0, 1, -1)))
    ids = [f"e{number}" for number in random.sample(range(60), random.randint(1, 4))]
    run_id = random.choice(RUNS)
    row = run_row(run_id, project=project, started_at=NOW_MS + random.randint(0, 2), key=random.choice((None, "k")))
    results = [
        result_row(
            test_id,
            random.randint(1, 2),
            run_id=run_id,
            final=random.random() < 0.5,
            begin=random.choice((None, b'{"a":1}', b'{"a":2}')),
            end=random.choice((None, b'{"b":1}')),
        )
        for test_id in random.sample("tuvw", random.randint(0, 3))
    ]
    return slice_of(after, ids, project=project, run=row, results=results)


async def _append(store: EventStore, model: Model, commit: Commit) -> None:
    if model.is_behind(commit):
        with pytest.raises(BehindError):
            await store.append(commit)
    elif known := model.known(commit):
        with pytest.raises(DuplicatesError) as duplicates:
            await store.append(commit)
        assert set(duplicates.value.known) == known
    else:
        await store.append(commit)
        model.append(commit)


async def _assert_equal(store: EventStore, model: Model) -> None:
    assert await store.heads() == model.heads
    assert await store.cursors("team-a") == model.cursors
    for project in PROJECTS:
        log = [one for one in model.log if one.project == project]
        assert await log_of(store, project, limit=2) == log
        await _assert_runs(store, model, project)
        for run_id in RUNS:
            assert await log_of(store, project, run_id=run_id) == [one for one in log if one.run_id == run_id]
            await _assert_results(store, model, project, run_id)
        for test_id in "tuvw":
            await _assert_history(store, model, project, test_id)


async def _assert_runs(store: EventStore, model: Model, project: str) -> None:
    rows = await all_pages(lambda at: store.runs(RunFilter(project=project), limit=2, cursor=at))
    kept = [row for (name, _), row in model.runs.items() if name == project]
    assert rows == sorted(kept, key=lambda row: (row.started_at, row.run_id), reverse=True)


async def _assert_results(store: EventStore, model: Model, project: str, run_id: str) -> None:
    rows = await all_pages(lambda at: store.results(project, run_id, ResultFilter(), limit=2, cursor=at))
    assert rows == [row for key, row in sorted(model.results.items()) if key[:2] == (project, run_id)]


async def _assert_history(store: EventStore, model: Model, project: str, test_id: str) -> None:
    rows = await all_pages(lambda at: store.history(project, test_id, limit=2, cursor=at))
    kept = [row for key, row in model.results.items() if (key[0], key[2]) == (project, test_id) and row.final]
    stored = {address: place for place, address in enumerate(model.runs)}
    newest_first = sorted(kept, key=lambda row: (stored[project, row.run_id], row.attempt), reverse=True)
    assert [(row.run_id, row.attempt) for row in rows] == [(row.run_id, row.attempt) for row in newest_first]
