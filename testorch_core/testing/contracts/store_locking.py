"""A store's contract, the locked form: whoever holds the heads reads and appends alone."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from testorch_core.errors import BehindError, DuplicatesError
from testorch_core.interfaces.storage import EventStore
from testorch_core.testing.commits import PROJECT, commit_of, plain, slice_of
from testorch_core.testing.contracts.store_case import StoreCase, ids_of, log_of, offsets_of

WAIT_SECONDS = 5.0


class _MindChangedError(Exception):
    """Raised inside the lock."""


class LockingPromises(StoreCase):
    """`locked`."""

    async def test_inside_the_lock_the_log_is_read_and_appended_to(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, "ab")))
        async with store.locked([PROJECT, "empty"]) as log:
            assert (await log.head(PROJECT), await log.head("empty")) == (2, 0)
            assert await log.read(PROJECT, after=0, limit=10) == await log_of(store)
            assert await log.read("empty", after=0, limit=10) == []
            await log.append(commit_of(slice_of(2, "c"), slice_of(0, "x", project="empty")))
        assert await ids_of(store) == ["a", "b", "c"]
        assert await store.heads() == {PROJECT: 3, "empty": 1}

    async def test_reading_inside_the_lock_pages_as_outside(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, "ab")))
        await store.append(commit_of(slice_of(2, "cd")))
        async with store.locked([PROJECT]) as log:
            assert offsets_of(await log.read(PROJECT, after=0, limit=1)) == [1, 2]
            assert offsets_of(await log.read(PROJECT, after=2, limit=9)) == [3, 4]
            assert offsets_of(await log.read(PROJECT, after=4, limit=9)) == []

    async def test_leaving_without_an_append_stores_nothing_and_gives_the_lock_back(self, store: EventStore) -> None:
        async with store.locked([PROJECT]) as log:
            assert await log.head(PROJECT) == 0
        await _assert_free(store)

    async def test_leaving_by_an_exception_stores_nothing_and_gives_the_lock_back(self, store: EventStore) -> None:
        with pytest.raises(_MindChangedError):
            await _change_mind(store, [])
        await _assert_free(store)

    async def test_leaving_by_cancellation_stores_nothing_and_gives_the_lock_back(self, store: EventStore) -> None:
        with trio.CancelScope() as scope:
            async with store.locked([PROJECT]) as log:
                await log.head(PROJECT)
                scope.cancel()
                await trio.sleep_forever()
        await _assert_free(store)

    async def test_a_lock_that_was_cancelled_at_any_moment_is_free_again(self, store: EventStore) -> None:
        for steps in range(12):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hold, store)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        await _assert_free(store)

    async def test_who_is_cancelled_while_waiting_for_the_lock_leaves_it_to_others(self, store: EventStore) -> None:
        async with trio.open_nursery() as nursery, store.locked([PROJECT]):
            nursery.start_soon(_hold, store)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await _assert_free(store)

    async def test_an_append_outside_waits_or_is_behind(self, store: EventStore) -> None:
        outcomes: list[str] = []
        async with trio.open_nursery() as nursery, store.locked([PROJECT]) as log:
            nursery.start_soon(_try_to_append, store, outcomes)
            await trio.testing.wait_all_tasks_blocked()
            assert "stored" not in outcomes
            await log.append(commit_of(slice_of(await log.head(PROJECT), ["inside"])))
        assert outcomes == ["behind"]
        assert await ids_of(store) == ["inside"]

    async def test_reading_outside_goes_on_and_sees_nothing_of_what_is_not_committed(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, ["a"])))
        async with store.locked([PROJECT]) as log:
            await log.head(PROJECT)
            with trio.fail_after(WAIT_SECONDS):
                assert await ids_of(store) == ["a"]
                assert await store.heads() == {PROJECT: 1}

    async def test_whoever_reads_the_head_inside_the_lock_is_never_behind(self, store: EventStore) -> None:
        async with trio.open_nursery() as nursery:
            for task in range(4):
                nursery.start_soon(_append_locked, store, task)
        assert offsets_of(await log_of(store)) == list(range(1, 13))

    async def test_duplicates_inside_the_lock_are_named_and_nothing_is_stored(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, ["a"])))
        async with store.locked([PROJECT]) as log:
            with pytest.raises(DuplicatesError) as duplicates:
                await log.append(commit_of(slice_of(1, ["b", "a"], text="other")))
            assert duplicates.value.known == (plain("a"),)
        assert await ids_of(store) == ["a"]
        assert await store.heads() == {PROJECT: 1}
        await store.append(commit_of(slice_of(1, ["b"])))

    async def test_what_was_appended_inside_the_lock_is_stored_even_if_the_rest_fails(self, store: EventStore) -> None:
        with pytest.raises(_MindChangedError):
            await _change_mind(store, ["a"])
        assert await ids_of(store) == ["a"]

    async def test_two_who_lock_the_same_projects_in_another_order_do_not_block_each_other(
        self, store: EventStore
    ) -> None:
        with trio.fail_after(WAIT_SECONDS):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(_lock_both, store, ["shop", "api"])
                    nursery.start_soon(_lock_both, store, ["api", "shop"])
        assert await store.heads() == {"shop": 6, "api": 6}


async def _assert_free(store: EventStore) -> None:
    """Nothing is stored, and anybody may append, in either form."""
    assert await store.heads() == {}
    with trio.fail_after(WAIT_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_append_in_both_forms, store)
    assert await ids_of(store) == ["first", "second"]


async def _append_in_both_forms(store: EventStore) -> None:
    await store.append(commit_of(slice_of(0, ["first"])))
    async with store.locked([PROJECT]) as log:
        await log.append(commit_of(slice_of(1, ["second"])))


async def _change_mind(store: EventStore, ids: list[str]) -> None:
    async with store.locked([PROJECT]) as log:
        head = await log.head(PROJECT)
        if ids:
            await log.append(commit_of(slice_of(head, ids)))
        raise _MindChangedError


async def _hold(store: EventStore) -> None:
    async with store.locked([PROJECT]) as log:
        await log.head(PROJECT)
        await trio.sleep_forever()


async def _try_to_append(store: EventStore, outcomes: list[str]) -> None:
    try:
        await store.append(commit_of(slice_of(0, ["outside"])))
        outcomes.append("stored")
    except BehindError:
        outcomes.append("behind")


async def _append_locked(store: EventStore, task: int) -> None:
    for number in range(3):
        async with store.locked([PROJECT]) as log:
            head = await log.head(PROJECT)
            await log.append(commit_of(slice_of(head, [f"{task}-{number}"], run_id=f"run-{task}")))


async def _lock_both(store: EventStore, projects: list[str]) -> None:
    async with store.locked(projects) as log:
        heads = {project: await log.head(project) for project in projects}
        slices = [slice_of(head, [f"e{head}"], project=project) for project, head in heads.items()]
        await log.append(commit_of(*slices))
