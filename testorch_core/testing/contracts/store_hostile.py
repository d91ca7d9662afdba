"""A store's contract, hostile data: names that are SQL, markup or mixed scripts come back as they went in, and apart."""

from __future__ import annotations

import orjson
import pytest

from testorch_core.errors import DuplicatesError
from testorch_core.events import Source, WireEvent
from testorch_core.interfaces.storage import EventStore, ResultFilter, RunFilter, Slice
from testorch_core.testing.commits import (
    PROJECT,
    batch,
    commit_of,
    cursor,
    event,
    result_row,
    run_row,
    slice_of,
    stream_row,
)
from testorch_core.testing.contracts.store_case import StoreCase, all_pages, log_of
from testorch_core.testing.hostile import LONG_EMOJI, MAX_INTEGER, NAMES, VALUES


class HostilePromises(StoreCase):
    """Every name and every text, everywhere."""

    async def test_projects_may_have_any_name(self, store: EventStore) -> None:
        await store.append(commit_of(*(slice_of(0, ["a"], project=name) for name in NAMES)))
        assert await store.heads() == dict.fromkeys(NAMES, 1)
        for name in NAMES:
            assert [one.project for one in await log_of(store, name)] == [name]
            assert [row.project for row in (await store.runs(RunFilter(project=name), limit=9)).rows] == [name]

    async def test_runs_keys_and_streams_may_have_any_name(self, store: EventStore) -> None:
        for after, name in enumerate(NAMES):
            streams = [stream_row(name, run_id=name)]
            await store.append(commit_of(slice_of(after, ["a"], run=run_row(name, key=name), streams=streams)))
        for after, name in enumerate(NAMES):
            row = await store.run(PROJECT, name)
            assert row == run_row(name, key=name)
            assert [one.first_offset for one in await log_of(store, run_id=name)] == [after + 1]
            assert (await store.runs(RunFilter(key=name), limit=9)).rows == (row,)
            assert row in (await store.runs(RunFilter(prefix=name), limit=99)).rows
            assert await store.stream(PROJECT, name) == stream_row(name, run_id=name)
        rows = await all_pages(lambda at: store.runs(RunFilter(), limit=1, cursor=at))
        assert [row.run_id for row in rows] == sorted(NAMES, reverse=True)

    async def test_tests_may_have_any_id(self, store: EventStore) -> None:
        rows = [result_row(name, begin=orjson.dumps({"testName": name})) for name in NAMES]
        await store.append(commit_of(slice_of(0, ["a"], results=rows)))
        found = await all_pages(lambda at: store.results(PROJECT, "run-1", ResultFilter(), limit=2, cursor=at))
        assert found == sorted(rows, key=lambda row: row.test_id)
        for row in rows:
            assert (await store.history(PROJECT, row.test_id, limit=9)).rows == (row,)
            wanted = ResultFilter(attempts=[(row.test_id, 1)])
            assert (await store.results(PROJECT, "run-1", wanted, limit=9)).rows == (row,)

    async def test_plain_events_may_have_any_id(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, NAMES)))
        with pytest.raises(DuplicatesError) as duplicates:
            await store.append(commit_of(slice_of(len(NAMES), NAMES, text="other")))
        assert {one.event_id for one in duplicates.value.known} == set(NAMES)

    async def test_sources_and_reporters_may_have_any_name(self, store: EventStore) -> None:
        for after, name in enumerate(NAMES):
            stored = batch(after + 1, [event("a")], source=Source(name, name, name))
            part = Slice(project=PROJECT, expected_head=after, batches=[stored], runs=[run_row()])
            await store.append(commit_of(part, cursors=[cursor(after + 1, reporter=name, project=name)]))
            assert await store.read(PROJECT, after=after, limit=1) == [stored]
        for after, name in enumerate(NAMES):
            assert await store.cursors(name) == {name: after + 1}

    async def test_events_may_hold_any_value(self, store: EventStore) -> None:
        events: list[WireEvent] = [
            {**event(f"e{number}"), "payload": {"value": value}} for number, value in enumerate(VALUES)
        ]
        events.append(event("big", LONG_EMOJI * 50))
        stored = batch(1, events)
        await store.append(commit_of(Slice(project=PROJECT, expected_head=0, batches=[stored], runs=[run_row()])))
        (found,) = await log_of(store)
        assert found == stored
        assert [one.wire for one in found.events()] == events

    async def test_numbers_may_be_as_large_as_json_holds_exactly(self, store: EventStore) -> None:
        run = run_row(started_at=-MAX_INTEGER, ended_at=MAX_INTEGER, last_offset=MAX_INTEGER)
        row = result_row("t", attempt=1000, duration_ms=float(MAX_INTEGER))
        stream = stream_row(acked_seq=MAX_INTEGER, accepted=MAX_INTEGER, refused=MAX_INTEGER, duplicates=MAX_INTEGER)
        await store.append(
            commit_of(slice_of(0, ["a"], run=run, results=[row], streams=[stream]), cursors=[cursor(MAX_INTEGER)])
        )
        assert await store.run(PROJECT, "run-1") == run
        assert (await store.results(PROJECT, "run-1", ResultFilter(), limit=1)).rows == (row,)
        assert await store.stream(PROJECT, "stream-1") == stream
        assert await store.cursors("team-a") == {PROJECT: MAX_INTEGER}

    async def test_a_log_may_stand_at_a_very_large_offset(self, store: EventStore) -> None:
        jump = batch(MAX_INTEGER - 1, [event("a")])
        await store.append(commit_of(Slice(project=PROJECT, expected_head=0, batches=[jump], runs=[run_row()])))
        await store.append(commit_of(slice_of(MAX_INTEGER - 1, ["b"])))
        assert await store.heads() == {PROJECT: MAX_INTEGER}
        assert [one.first_offset for one in await log_of(store)] == [MAX_INTEGER - 1, MAX_INTEGER]
