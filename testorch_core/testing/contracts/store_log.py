"""A store's contract, the log: what is appended is read again, and a commit is stored as a whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from itertools import count

import pytest
import trio

from testorch_core.errors import BehindError, DuplicatesError, StorageFailedError
from testorch_core.events import RecordedEvent, Source
from testorch_core.interfaces.storage import Commit, EventStore, Slice
from testorch_core.testing.commits import (
    NOW_MS,
    PROJECT,
    RUN,
    batch,
    commit_of,
    cursor,
    event,
    plain,
    result_row,
    run_row,
    slice_of,
    stream_row,
)  # fmt: skip
from testorch_core.testing.contracts.store_case import OpenStore, StoreCase, ids_of, log_of, offsets_of
from testorch_core.testing.hostile import MAX_INTEGER

TASKS = 4
APPENDS_EACH = 4


class LogPromises(StoreCase):
    """`append`, `read`, `heads`, `epoch`."""

    # Reading what was appended.

    async def test_batches_come_back_as_they_were_appended(self, store: EventStore) -> None:
        source = Source("connection-2", "ci", "stream-1")
        batches = [
            batch(1, [event("a"), event("b")], source=source, received_at=NOW_MS + 1, last_seq=17),
            batch(3, [event("c", "x" * 5000)], run_id="run-2", received_at=NOW_MS + 2, last_seq=MAX_INTEGER),
            batch(4, [event("d")], run_id=None, received_at=NOW_MS + 3),
        ]
        runs = [run_row(), run_row("run-2")]
        await store.append(commit_of(Slice(project=PROJECT, expected_head=0, batches=batches, runs=runs)))
        assert await log_of(store) == batches

    async def test_events_have_the_offsets_that_their_batch_gives_them(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, ["a", "b"])))
        await store.append(commit_of(slice_of(2, ["c"])))
        events = [one for stored in await log_of(store) for one in stored.events()]
        assert events == [
            RecordedEvent(PROJECT, offset, NOW_MS, Source("connection-1"), RUN, event(name))
            for offset, name in enumerate("abc", start=1)
        ]

    async def test_an_empty_store_has_no_heads_and_an_empty_log(self, store: EventStore) -> None:
        assert await store.heads() == {}
        assert await log_of(store) == []
        assert await store.run(PROJECT, RUN) is None

    async def test_heads_tell_the_last_offset_of_every_project(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, ["a", "b"], project="shop"), slice_of(0, ["a"], project="api")))
        await store.append(commit_of(slice_of(2, ["c"], project="shop")))
        assert await store.heads() == {"shop": 3, "api": 1}

    async def test_projects_have_logs_of_their_own(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, ["a"], project="shop"), slice_of(0, ["b"], project="api")))
        assert (await ids_of(store, "shop"), await ids_of(store, "api")) == (["a"], ["b"])

    async def test_a_page_holds_whole_batches_until_the_limit_is_reached(self, store: EventStore) -> None:
        for after, names in ((0, "ab"), (2, "cde"), (5, "f")):
            await store.append(commit_of(slice_of(after, names)))
        pages = {limit: await store.read(PROJECT, after=0, limit=limit) for limit in (1, 2, 3, 5, 6, 100)}
        assert {limit: len(offsets_of(page)) for limit, page in pages.items()} == {1: 2, 2: 2, 3: 5, 5: 5, 6: 6, 100: 6}

    async def test_reading_begins_with_the_batch_that_ends_after_the_offset(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, "ab")))
        await store.append(commit_of(slice_of(2, "cd")))
        first = {after: await store.read(PROJECT, after=after, limit=1) for after in range(5)}
        assert {after: offsets_of(page) for after, page in first.items()} == {
            0: [1, 2], 1: [1, 2], 2: [3, 4], 3: [3, 4], 4: [],
        }  # fmt: skip

    async def test_one_run_is_read_without_the_others(self, store: EventStore) -> None:
        for after in range(6):
            await store.append(commit_of(slice_of(after, [f"e{after}"], run_id=f"run-{after % 2}")))
        assert await ids_of(store, run_id="run-1") == ["e1", "e3", "e5"]
        assert offsets_of(await store.read(PROJECT, after=2, limit=1, run_id="run-1")) == [4]
        assert await ids_of(store, run_id="run-9") == []

    async def test_the_same_run_id_in_two_projects_is_two_runs(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, ["a"], project="shop"), slice_of(0, ["b"], project="api")))
        assert await ids_of(store, "shop", run_id=RUN) == ["a"]

    # All or nothing.

    async def test_an_append_from_another_head_is_behind_and_stores_nothing(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, "ab")))
        for wrong in (0, 1, 3):
            with pytest.raises(BehindError) as behind:
                await store.append(commit_of(slice_of(wrong, "cd")))
            assert behind.value.project == PROJECT
        assert await ids_of(store) == ["a", "b"]
        assert await store.heads() == {PROJECT: 2}

    async def test_a_project_without_a_log_is_at_0(self, store: EventStore) -> None:
        with pytest.raises(BehindError):
            await store.append(commit_of(slice_of(1, "a")))
        assert await store.heads() == {}

    @pytest.mark.parametrize("late", ["api", "shop"])
    async def test_a_commit_with_one_project_behind_stores_nothing_at_all(self, store: EventStore, late: str) -> None:
        await store.append(commit_of(slice_of(0, ["a"], project="shop"), slice_of(0, ["a"], project="api")))
        slices = [_full_slice(0 if project == late else 1, project) for project in ("shop", "api")]
        with pytest.raises(BehindError) as behind:
            await store.append(commit_of(*slices, cursors=[cursor(2, project="shop")]))
        assert behind.value.project == late
        await _assert_nothing_of_it(store)

    async def test_duplicates_name_every_known_plain_event_with_the_stored_hash(self, store: EventStore) -> None:
        await store.append(
            commit_of(slice_of(0, ["a", "b"], project="shop"), slice_of(0, ["a", "x"], project="api", run_id="r"))
        )
        again = commit_of(
            slice_of(2, ["n", "a", "b"], project="shop", text="other"),
            slice_of(2, ["x", "m"], project="api", run_id="r", text="other"),
        )
        with pytest.raises(DuplicatesError) as duplicates:
            await store.append(again)
        assert set(duplicates.value.known) == {
            plain("a", project="shop"), plain("b", project="shop"), plain("x", project="api", run_id="r"),
        }  # fmt: skip

    async def test_a_commit_with_a_duplicate_stores_nothing_at_all(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, ["a"], project="shop"), slice_of(0, ["a"], project="api")))
        slices = [_full_slice(1, "shop"), slice_of(1, ["new", "a"], project="api")]
        with pytest.raises(DuplicatesError):
            await store.append(commit_of(*slices, cursors=[cursor(2, project="shop")]))
        await _assert_nothing_of_it(store)
        await store.append(commit_of(slices[0], slice_of(1, ["new"], project="api")))
        assert await ids_of(store, "api") == ["a", "new"]

    async def test_many_duplicates_are_all_named(self, store: EventStore) -> None:
        names = [f"event-{number}" for number in range(2_000)]
        await store.append(commit_of(slice_of(0, names)))
        with pytest.raises(DuplicatesError) as duplicates:
            await store.append(commit_of(slice_of(2_000, ["new", *names])))
        assert {one.event_id for one in duplicates.value.known} == set(names)

    async def test_plain_ids_are_known_within_their_run_only(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, ["a"])))
        await store.append(commit_of(slice_of(1, ["a"], run_id="run-2")))
        await store.append(commit_of(slice_of(0, ["a"], project="other")))
        assert await ids_of(store) == ["a", "a"]

    async def test_events_of_streams_are_not_held_against_plain_ids(self, store: EventStore) -> None:
        for after in (0, 1):
            part = Slice(
                project=PROJECT, expected_head=after, batches=[batch(after + 1, [event("a")])], runs=[run_row()]
            )
            await store.append(commit_of(part))
        assert await ids_of(store) == ["a", "a"]

    # Many at once, and cancellation.

    async def test_many_tasks_append_at_once_and_offsets_stay_dense(self, store: EventStore) -> None:
        async with trio.open_nursery() as nursery:
            for task in range(TASKS):
                nursery.start_soon(_append_some, store, task)
                nursery.start_soon(_watch_density, store, TASKS * APPENDS_EACH)
        batches = await log_of(store)
        assert offsets_of(batches) == list(range(1, TASKS * APPENDS_EACH + 1))
        assert len({one.id for stored in batches for one in stored.events()}) == TASKS * APPENDS_EACH

    async def test_a_read_sees_every_commit_whose_append_has_returned(self, store: EventStore) -> None:
        for after in range(10):
            await store.append(commit_of(slice_of(after, [f"e{after}"])))
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(_assert_head, store, after + 1)

    async def test_a_cancelled_append_has_stored_all_or_nothing(self, store: EventStore) -> None:
        for steps in range(12):
            head = (await store.heads()).get(PROJECT, 0)
            await _append_and_cancel(store, commit_of(_full_slice(head, PROJECT, name=f"n{steps}")), steps)
            now = (await store.heads()).get(PROJECT, 0)
            assert now in (head, head + 2)
            assert offsets_of(await log_of(store)) == list(range(1, now + 1))
            row = await store.run(PROJECT, f"full-n{steps}")
            assert (row is not None) == (now == head + 2)

    # The epoch, and the time after closing.

    async def test_the_epoch_is_a_word_that_a_restart_keeps(self, store: EventStore, open_store: OpenStore) -> None:
        epoch = store.epoch
        assert epoch
        await store.append(commit_of(slice_of(0, ["a"])))
        assert store.epoch == epoch
        await store.aclose()
        assert ((await open_store()).epoch == epoch) == self.reopens

    async def test_what_was_appended_outlives_a_restart(self, store: EventStore, open_store: OpenStore) -> None:
        if not self.reopens:
            pytest.skip("this store doesn't say that it keeps anything")
        await store.append(commit_of(_full_slice(0, PROJECT), cursors=[cursor(2)]))
        batches, run = await log_of(store), await store.run(PROJECT, "full-n")
        await store.aclose()
        again = await open_store()
        assert (await log_of(again), await again.run(PROJECT, "full-n")) == (batches, run)
        assert await again.stream(PROJECT, "stream-n") is not None
        assert await again.cursors("team-a") == {PROJECT: 2}
        with pytest.raises(DuplicatesError):
            await again.append(commit_of(_full_slice(2, PROJECT)))

    async def test_whoever_is_busy_while_the_store_closes_ends_or_is_told(
        self, store: EventStore, open_store: OpenStore
    ) -> None:
        stored: list[int] = []
        async with trio.open_nursery() as nursery:
            for task in range(TASKS):
                nursery.start_soon(_read_until_closed, store)
                nursery.start_soon(_append_until_closed, store, f"project-{task}", stored)
            while len(stored) < 3 * TASKS:
                await trio.lowlevel.checkpoint()
            await store.aclose()
        again = await open_store()
        if self.reopens:
            assert sum((await again.heads()).values()) == len(stored)

    async def test_a_store_that_is_closed_says_so(self, store: EventStore) -> None:
        await store.aclose()
        with pytest.raises(StorageFailedError):
            await store.append(commit_of(slice_of(0, ["a"])))
        with pytest.raises(StorageFailedError):
            await store.heads()


def _full_slice(after: int, project: str, *, name: str = "n") -> Slice:
    """A slice with something in every part of it."""
    run_id = f"full-{name}"
    rows = [result_row("t", run_id=run_id)]
    streams = [stream_row(f"stream-{name}", run_id=run_id, project=project)]
    return slice_of(after, [f"{name}-1", f"{name}-2"], project=project, run_id=run_id, streams=streams, results=rows)


async def _assert_nothing_of_it(store: EventStore) -> None:
    """Nothing is there but what two commits of one event each have put into the projects `shop` and `api`."""
    assert await store.heads() == {"shop": 1, "api": 1}
    for project in ("shop", "api"):
        assert await ids_of(store, project) == ["a"]
        assert await store.run(project, "full-n") is None
        assert await store.stream(project, "stream-n") is None
        assert (await store.history(project, "t", limit=10)).rows == ()
        assert (await store.run(project, RUN)) == run_row(project=project)
    assert await store.cursors("team-a") == {}


async def _append_some(store: EventStore, task: int) -> None:
    for number in range(APPENDS_EACH):
        while True:
            head = (await store.heads()).get(PROJECT, 0)
            try:
                await store.append(commit_of(slice_of(head, [f"task{task}-{number}"], run_id=f"run-{task}")))
                break
            except BehindError:
                await trio.lowlevel.checkpoint()


async def _watch_density(store: EventStore, until: int) -> None:
    seen = 0
    while seen < until:
        offsets = offsets_of(await log_of(store, limit=3))
        assert offsets == list(range(1, len(offsets) + 1))
        assert len(offsets) >= seen
        seen = len(offsets)
        await trio.lowlevel.checkpoint()


async def _read_until_closed(store: EventStore) -> None:
    with suppress(StorageFailedError):
        while True:
            await log_of(store, "project-0")
            await trio.lowlevel.checkpoint()


async def _append_until_closed(store: EventStore, project: str, stored: list[int]) -> None:
    with suppress(StorageFailedError):
        for after in count():
            await store.append(commit_of(slice_of(after, [f"e{after}"], project=project)))
            stored.append(after)
            await trio.lowlevel.checkpoint()


async def _assert_head(store: EventStore, head: int) -> None:
    assert await store.heads() == {PROJECT: head}


async def _append_and_cancel(store: EventStore, commit: Commit, steps: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.append, commit)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
