"""A store's contract, upkeep: runs that are deleted, and plugins' own documents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from testorch_core.interfaces.storage import Documents, EventStore, Page, ResultFilter, RunFilter
from testorch_core.testing.commits import (
    PROJECT,
    RUN,
    batch,
    commit_of,
    cursor,
    event,
    result_row,
    run_row,
    slice_of,
    stream_row,
)  # fmt: skip
from testorch_core.testing.contracts.store_case import OpenStore, StoreCase, ids_of, log_of, offsets_of
from testorch_core.testing.hostile import NAMES, NUMBERS

INCREMENTS = 5


class UpkeepPromises(StoreCase):
    """`delete_runs`, `documents`."""

    # Deleting runs.

    async def test_deleting_a_run_removes_everything_of_it(self, store: EventStore) -> None:
        await _three_runs(store)
        assert await store.delete_runs(PROJECT, ["run-1", "no such run"]) == 1
        assert await store.run(PROJECT, "run-1") is None
        assert await ids_of(store, run_id="run-1") == []
        assert await store.results(PROJECT, "run-1", ResultFilter(), limit=10) == Page(())
        assert await store.stream(PROJECT, "stream of run-1") is None
        assert [row.run_id for row in (await store.history(PROJECT, "t", limit=10)).rows] == ["run-2", "run-0"]

    async def test_deleting_a_run_moves_nothing_else(self, store: EventStore) -> None:
        await _three_runs(store)
        await store.save_cursors([cursor(4)])
        await store.delete_runs(PROJECT, ["run-1", "run-2"])
        assert offsets_of(await log_of(store)) == [1, 2]
        assert await store.heads() == {PROJECT: 6}
        assert await store.cursors("team-a") == {PROJECT: 4}
        assert await store.stream(PROJECT, "stream of run-0") is not None
        assert len((await store.results(PROJECT, "run-0", ResultFilter(), limit=10)).rows) == 1
        await store.append(commit_of(slice_of(6, ["g"])))
        assert offsets_of(await log_of(store)) == [1, 2, 7]

    async def test_the_ids_of_a_deleted_run_can_be_used_again(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, ["a"], results=[result_row("t")], streams=[stream_row()])))
        await store.delete_runs(PROJECT, [RUN])
        fresh = result_row("t", begin=None, end=None)
        await store.append(commit_of(slice_of(1, ["a"], results=[fresh], streams=[stream_row()])))
        assert offsets_of(await log_of(store)) == [2]
        assert (await store.results(PROJECT, RUN, ResultFilter(), limit=10)).rows == (fresh,)

    async def test_deleting_stays_within_the_project(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, ["a"], project="shop"), slice_of(0, ["a"], project="api")))
        assert await store.delete_runs("shop", [RUN]) == 1
        assert await store.delete_runs("no such project", [RUN]) == 0
        assert await store.delete_runs("api", []) == 0
        assert (await ids_of(store, "shop"), await ids_of(store, "api")) == ([], ["a"])
        assert await store.heads() == {"shop": 1, "api": 1}

    async def test_events_outside_any_run_stay(self, store: EventStore) -> None:
        outside = batch(2, [event("b")], run_id=None)
        part = slice_of(0, ["a"])
        await store.append(commit_of(replace(part, batches=[*part.batches, outside])))
        await store.delete_runs(PROJECT, [RUN, ""])
        assert await log_of(store) == [outside]

    async def test_many_runs_can_be_deleted_at_once(self, store: EventStore) -> None:
        names = [f"run-{number}" for number in range(600)]
        part = slice_of(0, ["a"], run_id=names[0])
        await store.append(commit_of(replace(part, runs=[run_row(name) for name in names])))
        assert await store.delete_runs(PROJECT, [*names, names[0]]) == len(names)
        assert (await store.runs(RunFilter(), limit=9)).rows == ()

    # Documents.

    async def test_a_document_comes_back_with_its_version(self, store: EventStore) -> None:
        documents = store.documents("team-a")
        assert await documents.get("k") is None
        bodies: list[dict[str, Any]] = [{"a": [1, None, "é"]}, {}, {"nested": {"x": list(NUMBERS)}}]
        for version, body in enumerate(bodies, start=1):
            assert await documents.put("k", body) == version
            assert await documents.get("k") == (body, version)

    async def test_a_document_is_a_copy(self, store: EventStore) -> None:
        documents = store.documents("team-a")
        body = {"list": [1]}
        await documents.put("k", body)
        body["list"].append(2)
        found = await documents.get("k")
        assert found == ({"list": [1]}, 1)
        found[0]["list"].append(3)
        assert await documents.get("k") == ({"list": [1]}, 1)

    async def test_compare_and_set_changes_nothing_where_the_version_is_another(self, store: EventStore) -> None:
        documents = store.documents("team-a")
        assert await documents.put("k", {"by": "first"}, expected_version=1) is None
        assert await documents.get("k") is None
        assert await documents.put("k", {"by": "first"}, expected_version=0) == 1
        for wrong in (0, 2):
            assert await documents.put("k", {"by": "second"}, expected_version=wrong) is None
        assert await documents.get("k") == ({"by": "first"}, 1)
        assert await documents.put("k", {"by": "second"}, expected_version=1) == 2

    async def test_of_many_that_compare_and_set_at_once_none_is_lost(self, store: EventStore) -> None:
        documents = store.documents("team-a")
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(_increment, documents)
        assert await documents.get("k") == ({"count": 4 * INCREMENTS}, 4 * INCREMENTS)

    async def test_a_deleted_document_is_gone(self, store: EventStore) -> None:
        documents = store.documents("team-a")
        await documents.put("k", {"a": 1})
        assert await documents.delete("k") is True
        assert await documents.delete("k") is False
        assert await documents.get("k") is None
        assert await documents.put("k", {"a": 2}, expected_version=0) == 1

    async def test_documents_are_paged_in_the_order_of_their_keys(self, store: EventStore) -> None:
        documents = store.documents("team-a")
        keys = ["b", "a", "B", "é", "a1", "%", "ab"]
        for key in keys:
            await documents.put(key, {"key": key})
        expected = [(key, {"key": key}) for key in sorted(keys)]
        for limit in (1, 3, 7, 8):
            assert await _all_documents(documents, limit=limit) == expected
        assert (await documents.page(after="a1", limit=2)).rows == (("ab", {"key": "ab"}), ("b", {"key": "b"}))
        assert await store.documents("empty").page() == Page(())

    async def test_documents_of_two_instances_are_apart(self, store: EventStore) -> None:
        mine, yours = store.documents("team-a/x"), store.documents("team-a")
        await mine.put("k", {"of": "mine"})
        assert await yours.get("k") is None
        assert await yours.delete("k") is False
        assert (await yours.page()).rows == ()
        assert await store.documents("team-a/x").get("k") == ({"of": "mine"}, 1)

    @pytest.mark.parametrize("number", range(len(NAMES)))
    async def test_keys_and_instances_may_have_any_name(self, store: EventStore, number: int) -> None:
        name = NAMES[number]
        documents = store.documents(name)
        await documents.put(name, {name: [name]})
        assert await documents.get(name) == ({name: [name]}, 1)
        assert (await documents.page()).rows == ((name, {name: [name]}),)

    async def test_documents_outlive_a_restart(self, store: EventStore, open_store: OpenStore) -> None:
        if not self.reopens:
            pytest.skip("this store doesn't say that it keeps anything")
        await store.documents("team-a").put("k", {"a": 1})
        await store.aclose()
        assert await (await open_store()).documents("team-a").get("k") == ({"a": 1}, 1)


async def _three_runs(store: EventStore) -> None:
    """Two events, a result and a stream each."""
    for number in range(3):
        run_id = f"run-{number}"
        rows = [result_row("t", run_id=run_id)]
        streams = [stream_row(f"stream of {run_id}", run_id=run_id)]
        await store.append(commit_of(slice_of(2 * number, ["a", "b"], run_id=run_id, results=rows, streams=streams)))


async def _increment(documents: Documents) -> None:
    for _ in range(INCREMENTS):
        while True:
            found = await documents.get("k")
            body, version = found if found is not None else ({"count": 0}, 0)
            if await documents.put("k", {"count": body["count"] + 1}, expected_version=version) is not None:
                break
            await trio.lowlevel.checkpoint()


async def _all_documents(documents: Documents, *, limit: int) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    after: str | None = None
    while True:
        page = await documents.page(after=after, limit=limit)
        found += page.rows
        after = page.next
        if after is None:
            return found
