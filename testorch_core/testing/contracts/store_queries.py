"""A store's contract, the queries: runs, results, history, streams, cursors, and pages that neither repeat nor skip."""

from __future__ import annotations

import pytest

from testorch_core.events import FAILED, PASSED, RUNNING
from testorch_core.interfaces.storage import EventStore, Page, ResultFilter, RunFilter, Slice
from testorch_core.results import ResultRow, RunRow
from testorch_core.testing.commits import (
    NOW_MS,
    PROJECT,
    RUN,
    commit_of,
    cursor,
    result_row,
    run_row,
    slice_of,
    stream_row,
)  # fmt: skip
from testorch_core.testing.contracts.store_case import StoreCase, all_pages

ANY_RUN = RunFilter()
ANY_RESULT = ResultFilter()


class QueryPromises(StoreCase):
    """`run`, `runs`, `results`, `history`, `stream`, `cursors`."""

    # Runs.

    async def test_a_runs_row_comes_back_and_is_replaced_as_a_whole(self, store: EventStore) -> None:
        first = run_row(key="nightly")
        await store.append(commit_of(slice_of(0, ["a"], run=first)))
        assert await store.run(PROJECT, RUN) == first
        second = run_row(status=PASSED, ended_at=NOW_MS + 5, last_offset=2, summary=b'{"timed": 1}')
        await store.append(commit_of(slice_of(1, ["b"], run=second)))
        assert await store.run(PROJECT, RUN) == second

    async def test_runs_come_newest_first_and_by_id_where_they_began_together(self, store: EventStore) -> None:
        await _put_runs(store, [_at(2, "b"), _at(1, "z"), _at(3, "a"), _at(2, "c"), _at(2, "a2")])
        assert await _run_ids(store) == ["a", "c", "b", "a2", "z"]

    async def test_runs_can_be_filtered(self, store: EventStore) -> None:
        rows = [
            run_row("r1", project="shop", key="main", status=PASSED),
            run_row("r2", project="shop", key="main", status=RUNNING),
            run_row("r3", project="shop", status=RUNNING),
            run_row("r1", project="api", key="main", status=RUNNING),
        ]
        for row in rows:
            await _put_runs(store, [row])

        async def found(**where: str) -> list[tuple[str, str]]:
            page = await store.runs(RunFilter(**where), limit=10)
            return sorted((row.project, row.run_id) for row in page.rows)

        assert await found(project="shop") == [("shop", "r1"), ("shop", "r2"), ("shop", "r3")]
        assert await found(key="main") == [("api", "r1"), ("shop", "r1"), ("shop", "r2")]
        assert await found(status=RUNNING, project="shop") == [("shop", "r2"), ("shop", "r3")]
        assert await found(status=RUNNING, key="main", project="api") == [("api", "r1")]
        assert await found(project="no such") == []

    async def test_a_prefix_is_taken_by_the_letter(self, store: EventStore) -> None:
        names = ["100%", "100x", "a_b", "axb", "Run-1", "run-1", "ru", "*", "\\%", "é-1", "e-1", "[a]", "a"]
        await _put_runs(store, [run_row(name) for name in names])

        async def found(prefix: str) -> set[str]:
            return {row.run_id for row in (await store.runs(RunFilter(prefix=prefix), limit=50)).rows}

        for prefix in ("100%", "a_", "Run", "run", "r", "*", "\\", "é", "%", "_", "[", "", "run-12"):
            assert await found(prefix) == {name for name in names if name.startswith(prefix)}, prefix

    async def test_pages_of_runs_hold_every_run_once(self, store: EventStore) -> None:
        await _put_runs(store, [_at(number // 3, f"run-{number:02}") for number in range(10)])
        whole = await _run_ids(store)
        assert len(whole) == 10
        for limit in (1, 3, 9, 10, 11):
            assert await _run_ids(store, limit=limit) == whole

    async def test_a_full_last_page_names_no_further_one(self, store: EventStore) -> None:
        await _put_runs(store, [_at(number, f"run-{number}") for number in range(4)])
        page = await store.runs(ANY_RUN, limit=2)
        assert page.next is not None
        assert (await store.runs(ANY_RUN, limit=2, cursor=page.next)).next is None
        assert (await store.runs(RunFilter(project="none"), limit=2)) == Page(())

    async def test_runs_that_come_and_go_between_pages_neither_repeat_nor_hide_others(self, store: EventStore) -> None:
        await _put_runs(store, [_at(number, f"run-{number}") for number in range(6)])
        first = await store.runs(ANY_RUN, limit=2)
        await _put_runs(store, [_at(8, "newer"), _at(9, "newest"), _at(0, "older")])
        await store.delete_runs(PROJECT, ["run-4", "run-2"])  # the one that the page ended with, and one to come
        rest = await all_pages(lambda at: store.runs(ANY_RUN, limit=2, cursor=at or first.next))
        assert [row.run_id for row in (*first.rows, *rest)] == ["run-5", "run-4", "run-3", "run-1", "run-0", "older"]

    async def test_two_projects_runs_with_the_same_id_and_start_are_paged_apart(self, store: EventStore) -> None:
        projects = ["a", "b", "c"]
        for project in projects:
            await _put_runs(store, [run_row(project=project)])
        rows = await all_pages(lambda at: store.runs(ANY_RUN, limit=1, cursor=at))
        assert sorted(row.project for row in rows) == projects

    # Results.

    async def test_results_come_in_the_order_of_test_and_attempt(self, store: EventStore) -> None:
        rows = [result_row(test, attempt) for test in ("b", "a", "B", "é", "a1") for attempt in (10, 2, 1)]
        await _put_results(store, rows)
        expected = sorted(rows, key=lambda row: (row.test_id, row.attempt))
        for limit in (1, 4, 100):
            assert await _all_results(store, limit=limit) == expected

    async def test_every_field_of_a_result_comes_back(self, store: EventStore) -> None:
        rows = [
            result_row("a", ok=None, outcome=None, duration_ms=None, begin=None, end=None, status=RUNNING, final=False),
            result_row("b", ok=False, outcome="unexpected", duration_ms=0.1, status=FAILED),
            result_row("c", ok=True, outcome="flaky", duration_ms=float(2**53 - 1)),
        ]
        await _put_results(store, rows)
        assert (await store.results(PROJECT, RUN, ANY_RESULT, limit=10)).rows == tuple(rows)

    async def test_results_can_be_filtered(self, store: EventStore) -> None:
        retried = [result_row("a", 1, final=False, status=FAILED, outcome=None), result_row("a", 2, outcome="flaky")]
        others = [result_row("b", status=FAILED, outcome="unexpected"), result_row("c")]
        await _put_results(store, [*retried, *others])

        async def found(where: ResultFilter) -> list[tuple[str, int]]:
            rows = await all_pages(lambda at: store.results(PROJECT, RUN, where, limit=1, cursor=at))
            return [(row.test_id, row.attempt) for row in rows]

        assert await found(ResultFilter(final_only=True)) == [("a", 2), ("b", 1), ("c", 1)]
        assert await found(ResultFilter(status=FAILED)) == [("a", 1), ("b", 1)]
        assert await found(ResultFilter(status=FAILED, final_only=True)) == [("b", 1)]
        assert await found(ResultFilter(outcome="flaky")) == [("a", 2)]
        assert await found(ResultFilter(attempts=[("c", 1), ("a", 1), ("b", 2), ("no such", 1)])) == [
            ("a", 1),
            ("c", 1),
        ]
        assert await found(ResultFilter(attempts=[("a", 1), ("a", 2)], final_only=True)) == [("a", 2)]
        assert await found(ResultFilter(attempts=[])) == []

    async def test_a_thousand_attempts_can_be_asked_for_at_once(self, store: EventStore) -> None:
        rows = [result_row(f"test-{number:04}") for number in range(1_200)]
        await _put_results(store, rows)
        wanted = [(row.test_id, row.attempt) for row in reversed(rows)]
        page = await store.results(PROJECT, RUN, ResultFilter(attempts=[*wanted, wanted[0]]), limit=len(wanted))
        assert page == Page(tuple(rows))

    async def test_an_upsert_without_a_begin_or_an_end_leaves_what_is_stored(self, store: EventStore) -> None:
        started = result_row("a", status=RUNNING, ok=None, outcome=None, duration_ms=None, end=None)
        await _put_results(store, [started])
        ended = result_row("a", begin=None, end=b'{"status": "passed"}')
        await _put_results(store, [ended], after=1)
        assert await _only_result(store) == ended._replace(begin=started.begin)
        verdict = result_row("a", final=False, outcome=None, begin=None, end=None)
        await _put_results(store, [verdict], after=2)
        assert await _only_result(store) == verdict._replace(begin=started.begin, end=ended.end)
        again = result_row("a", ok=None, duration_ms=None, begin=b"{}", end=None)
        await _put_results(store, [again], after=3)
        assert await _only_result(store) == again._replace(end=ended.end)

    async def test_results_of_a_run_that_is_not_there_are_an_empty_page(self, store: EventStore) -> None:
        await _put_results(store, [result_row("a")])
        assert await store.results(PROJECT, "run-9", ANY_RESULT, limit=10) == Page(())
        assert await store.results("other", RUN, ANY_RESULT, limit=10) == Page(())

    # History.

    async def test_history_holds_the_last_attempts_of_one_test_the_run_that_came_last_first(
        self, store: EventStore
    ) -> None:
        for after, (number, run_id) in enumerate(((2, "d"), (1, "c"), (3, "a"), (2, "b"))):
            rows = [result_row("t", 1, run_id=run_id, final=False), result_row("t", 2, run_id=run_id)]
            await _put_results(store, [*rows, result_row("u", run_id=run_id)], after=after, run=_at(number, run_id))
        await _put_results(store, [result_row("t")], project="other")
        for limit in (1, 2, 4, 5):
            told = await _all_history(store, limit=limit)
            assert [(row.run_id, row.attempt) for row in told] == [("b", 2), ("a", 2), ("c", 2), ("d", 2)]

    async def test_runs_that_come_and_go_between_pages_of_a_history_neither_repeat_nor_hide(
        self, store: EventStore
    ) -> None:
        for number in range(5):
            rows = [result_row("t", run_id=f"run-{number}")]
            await _put_results(store, rows, after=number, run=_at(number, f"run-{number}"))
        first = await store.history(PROJECT, "t", limit=2)
        for number, run_id in ((5, "newer"), (6, "newest")):
            await _put_results(store, [result_row("t", run_id=run_id)], after=number, run=_at(number + 3, run_id))
        await store.delete_runs(PROJECT, ["run-3"])
        rest = await all_pages(lambda at: store.history(PROJECT, "t", limit=2, cursor=at or first.next))
        assert [row.run_id for row in (*first.rows, *rest)] == ["run-4", "run-3", "run-2", "run-1", "run-0"]

    # Streams and cursors.

    async def test_a_streams_row_comes_back_and_is_replaced(self, store: EventStore) -> None:
        first = stream_row(refused=2, duplicates=3)
        await store.append(commit_of(slice_of(0, ["a"], streams=[first])))
        assert await store.stream(PROJECT, "stream-1") == first
        second = stream_row(acked_seq=2**53 - 1, state="ended", digest=b"\x00\xff")
        await store.append(commit_of(slice_of(1, ["b"], streams=[second])))
        assert await store.stream(PROJECT, "stream-1") == second
        assert await store.stream(PROJECT, "stream-2") is None
        assert await store.stream("other", "stream-1") is None

    async def test_a_slice_may_bring_nothing_but_a_streams_position(self, store: EventStore) -> None:
        await store.append(commit_of(slice_of(0, ["a"], streams=[stream_row()])))
        moved = stream_row(duplicates=5)
        await store.append(commit_of(Slice(project=PROJECT, expected_head=1, batches=(), streams=[moved])))
        assert await store.stream(PROJECT, "stream-1") == moved
        assert await store.heads() == {PROJECT: 1}

    @pytest.mark.parametrize("along_with_a_commit", [True, False])
    async def test_a_cursor_never_goes_back(self, store: EventStore, along_with_a_commit: bool) -> None:
        for number, offset in enumerate((5, 3, 7, 6)):
            if along_with_a_commit:
                await store.append(commit_of(slice_of(number, [f"e{number}"]), cursors=[cursor(offset)]))
            else:
                await store.save_cursors([cursor(offset)])
            assert await store.cursors("team-a") == {PROJECT: 5 if number < 2 else 7}

    async def test_every_reporter_has_cursors_of_its_own(self, store: EventStore) -> None:
        await store.save_cursors(
            [cursor(1), cursor(2, project="api"), cursor(3, reporter="team-b"), cursor(0, project="")]
        )
        assert await store.cursors("team-a") == {PROJECT: 1, "api": 2, "": 0}
        assert await store.cursors("team-b") == {PROJECT: 3}
        assert await store.cursors("team-c") == {}


def _at(number: int, run_id: str) -> RunRow:
    return run_row(run_id, started_at=NOW_MS + number)


async def _put_runs(store: EventStore, rows: list[RunRow]) -> None:
    head = (await store.heads()).get(rows[0].project, 0)
    for number, row in enumerate(rows, start=head):
        await store.append(commit_of(slice_of(number, [f"e{number}"], project=row.project, run=row)))


async def _run_ids(store: EventStore, *, limit: int = 100) -> list[str]:
    return [row.run_id for row in await all_pages(lambda at: store.runs(ANY_RUN, limit=limit, cursor=at))]


async def _put_results(
    store: EventStore, rows: list[ResultRow], *, after: int = 0, run: RunRow | None = None, project: str = PROJECT
) -> None:
    await store.append(commit_of(slice_of(after, [f"e{after}"], project=project, run=run, results=rows)))


async def _all_results(store: EventStore, *, limit: int) -> list[ResultRow]:
    return await all_pages(lambda at: store.results(PROJECT, RUN, ANY_RESULT, limit=limit, cursor=at))


async def _all_history(store: EventStore, *, limit: int) -> list[ResultRow]:
    return await all_pages(lambda at: store.history(PROJECT, "t", limit=limit, cursor=at))


async def _only_result(store: EventStore) -> ResultRow:
    (row,) = (await store.results(PROJECT, RUN, ANY_RESULT, limit=10)).rows
    return row
