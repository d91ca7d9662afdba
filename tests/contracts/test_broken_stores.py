"""The store's contract is tested too: each broken store fails the promise that it breaks, a sound one keeps the same.

The broken ones are memory stores but for their one defect.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from testorch_core.errors import BehindError, DuplicatesError, StoreError
from testorch_core.interfaces.storage import Commit, Page, RunFilter
from testorch_core.options import Options
from testorch_core.testing import EventStoreContract, plugin_context
from testorch_plugins.storage.memory import plugin as memory
from testorch_plugins.storage.memory.plugin import MemoryStore


class ForgetsAtomicity(MemoryStore):
    """Stores the slices one after the other, each by itself."""

    def _append(self, commit):
        for part in commit.slices:
            super()._append(Commit(slices=[part]))
        super()._append(Commit(slices=[], cursors=commit.cursors))


class StoresCursorsOfRefusedCommits(MemoryStore):
    def _append(self, commit):
        self._put_cursors(commit.cursors)
        super()._append(commit)


class LetsCursorsGoBack(MemoryStore):
    def _put_cursors(self, cursors):
        self._cursors |= {(one.reporter, one.project): one.offset for one in cursors}


class MissesDuplicates(MemoryStore):
    def _known(self, one):
        return None


class NamesOnlyTheFirstDuplicate(MemoryStore):
    def _append(self, commit):
        try:
            super()._append(commit)
        except DuplicatesError as duplicates:
            raise DuplicatesError(duplicates.known[:1]) from None


class NamesTheHashThatWasSent(MemoryStore):
    def _known(self, one):
        return None if super()._known(one) is None else one.content_hash


class KnowsPlainIdsAcrossRuns(MemoryStore):
    def _known(self, one):
        kept = self._projects.get(one.project)
        hashes = {event_id: stored for (_, event_id), stored in kept.plain.items()} if kept else {}
        return hashes.get(one.event_id)


class DoesNotCheckTheHead(MemoryStore):
    def _append(self, commit):
        heads = {name: kept.head for name, kept in self._projects.items()}
        super()._append(
            replace(commit, slices=[replace(one, expected_head=heads.get(one.project, 0)) for one in commit.slices])
        )


class OverwritesTheBegin(MemoryStore):
    def _append(self, commit):
        super()._append(commit)
        for part in commit.slices:
            for row in part.results:
                self._projects[part.project].results[row.run_id][row.test_id, row.attempt] = row


class ChecksAndWritesInTwoSteps(MemoryStore):
    """Lets another task in between the look at the head and the writing."""

    async def append(self, commit):
        for part in commit.slices:
            if (await self.heads()).get(part.project, 0) != part.expected_head:
                raise BehindError(part.project)
        await trio.lowlevel.checkpoint()
        for part in commit.slices:
            memory._put_slice(self._projects.setdefault(part.project, memory._Project()), part)


class IsTornByCancellation(MemoryStore):
    """Waits in the middle of a commit."""

    async def append(self, commit):
        await super().append(replace(commit, slices=[replace(one, runs=(), streams=()) for one in commit.slices]))
        for part in commit.slices:
            await trio.lowlevel.checkpoint()
            kept = self._projects[part.project]
            kept.runs |= {row.run_id: row for row in part.runs}


class LocksNobodyOut(MemoryStore):
    @asynccontextmanager
    async def _locked(self):
        yield memory._MemoryLockedLog(self)


class KeepsTheLockAfterAnException(MemoryStore):
    @asynccontextmanager
    async def _locked(self):
        await self._lock.acquire()
        yield memory._MemoryLockedLog(self)
        self._lock.release()

    async def append(self, commit):
        with trio.fail_after(0.01):
            await super().append(commit)


class CountsItsWayThroughPages(MemoryStore):
    """Its cursor is the number of rows shown, which means something else once a row has come."""

    async def runs(self, where, *, limit, cursor=None):
        rows = (await super().runs(where, limit=1000)).rows
        start = int(cursor or 0)
        return Page(rows[start : start + limit], str(start + limit) if start + limit < len(rows) else None)


class TakesPrefixesWithoutCase(MemoryStore):
    async def runs(self, where, *, limit, cursor=None):
        rows = (await super().runs(RunFilter(), limit=1000)).rows
        return Page(tuple(row for row in rows if row.run_id.lower().startswith((where.prefix or "").lower())))


class CutsBatchesAtTheLimit(MemoryStore):
    async def read(self, project, *, after, limit, run_id=None):
        return [
            one for one in await super().read(project, after=after, limit=limit, run_id=run_id) if one.count <= limit
        ]


class MovesTheHeadWhenDeleting(MemoryStore):
    async def delete_runs(self, project, run_ids):
        count = await super().delete_runs(project, run_ids)
        kept = self._project(project)
        kept.head = kept.batches[-1].last_offset if kept.batches else 0
        return count


class RemembersTheIdsOfDeletedRuns(MemoryStore):
    async def delete_runs(self, project, run_ids):
        plain = dict(self._project(project).plain)
        count = await super().delete_runs(project, run_ids)
        self._project(project).plain = plain
        return count


class MixesInstancesDocuments(MemoryStore):
    def documents(self, instance):
        return super().documents("all")


class NormalizesNames(MemoryStore):
    async def run(self, project, run_id):
        return await super().run(project, run_id.strip())


class ForgetsReceivedAt(MemoryStore):
    async def read(self, project, *, after, limit, run_id=None):
        found = await super().read(project, after=after, limit=limit, run_id=run_id)
        return [replace(one, received_at=0) for one in found]


FAILS = (AssertionError, pytest.fail.Exception, BaseExceptionGroup, StoreError, trio.TooSlowError, AttributeError)
"""What a broken promise shows itself as."""

BROKEN_STORES = [
    (ForgetsAtomicity, "test_a_commit_with_one_project_behind_stores_nothing_at_all", {"late": "api"}),
    (ForgetsAtomicity, "test_a_commit_with_a_duplicate_stores_nothing_at_all", {}),
    (StoresCursorsOfRefusedCommits, "test_a_commit_with_a_duplicate_stores_nothing_at_all", {}),
    (LetsCursorsGoBack, "test_a_cursor_never_goes_back", {"along_with_a_commit": True}),
    (LetsCursorsGoBack, "test_a_cursor_never_goes_back", {"along_with_a_commit": False}),
    (MissesDuplicates, "test_a_commit_with_a_duplicate_stores_nothing_at_all", {}),
    (NamesOnlyTheFirstDuplicate, "test_duplicates_name_every_known_plain_event_with_the_stored_hash", {}),
    (NamesTheHashThatWasSent, "test_duplicates_name_every_known_plain_event_with_the_stored_hash", {}),
    (KnowsPlainIdsAcrossRuns, "test_plain_ids_are_known_within_their_run_only", {}),
    (DoesNotCheckTheHead, "test_an_append_from_another_head_is_behind_and_stores_nothing", {}),
    (OverwritesTheBegin, "test_an_upsert_without_a_begin_or_an_end_leaves_what_is_stored", {}),
    (ChecksAndWritesInTwoSteps, "test_many_tasks_append_at_once_and_offsets_stay_dense", {}),
    (IsTornByCancellation, "test_a_cancelled_append_has_stored_all_or_nothing", {}),
    (LocksNobodyOut, "test_an_append_outside_waits_or_is_behind", {}),
    (KeepsTheLockAfterAnException, "test_leaving_by_an_exception_stores_nothing_and_gives_the_lock_back", {}),
    (KeepsTheLockAfterAnException, "test_leaving_by_cancellation_stores_nothing_and_gives_the_lock_back", {}),
    (CountsItsWayThroughPages, "test_runs_that_come_and_go_between_pages_neither_repeat_nor_hide_others", {}),
    (TakesPrefixesWithoutCase, "test_a_prefix_is_taken_by_the_letter", {}),
    (CutsBatchesAtTheLimit, "test_a_page_holds_whole_batches_until_the_limit_is_reached", {}),
    (MovesTheHeadWhenDeleting, "test_deleting_a_run_moves_nothing_else", {}),
    (RemembersTheIdsOfDeletedRuns, "test_the_ids_of_a_deleted_run_can_be_used_again", {}),
    (MixesInstancesDocuments, "test_documents_of_two_instances_are_apart", {}),
    (NormalizesNames, "test_runs_keys_and_streams_may_have_any_name", {}),
    (ForgetsReceivedAt, "test_batches_come_back_as_they_were_appended", {}),
    (MissesDuplicates, "test_any_series_of_commits_leaves_what_a_simple_model_holds", {"seed": 0}),
    (OverwritesTheBegin, "test_any_series_of_commits_leaves_what_a_simple_model_holds", {"seed": 0}),
    (LetsCursorsGoBack, "test_any_series_of_commits_leaves_what_a_simple_model_holds", {"seed": 0}),
]


async def opened(kind, context):
    store = kind("store", Options())
    await store.start(context)
    return store


@pytest.fixture
def context(nursery, tmp_path):
    return plugin_context(nursery, folder=tmp_path)


@pytest.mark.parametrize(("kind", "promise", "facts"), BROKEN_STORES)
async def test_a_broken_store_fails_the_promise_that_it_breaks(kind, promise, facts, context):
    with pytest.raises(FAILS):
        await getattr(EventStoreContract(), promise)(store=await opened(kind, context), **facts)


@pytest.mark.parametrize(("promise", "facts"), [(promise, facts) for _, promise, facts in BROKEN_STORES])
async def test_a_sound_store_keeps_the_same_promise(promise, facts, context):
    await getattr(EventStoreContract(), promise)(store=await opened(MemoryStore, context), **facts)
