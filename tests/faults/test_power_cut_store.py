"""A power cut under the SQLite store: every acknowledged commit is there, whole, and nothing is there in part (P1, P8)."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from faults import power_cut_writer as writer
from faults.power_cut_commits import REPORTER, Contents, commits, contents_after
from faults.power_cut_recording import strace_command
from faults.power_cut_replay import Record, check_cuts, read_record, require_strace

from testorch_core.interfaces.storage import ResultFilter, RunFilter

FOREVER = 10**6


@pytest.fixture(autouse=True)
def strace():
    require_strace()


def recorded(folder: Path, *ways: str, seed: int, count: int, faults: Sequence[str] = ()) -> Record:
    """Commits appended by a process of its own, and all that it did to its files meanwhile."""
    place = folder / "store"
    place.mkdir()
    script = [sys.executable, writer.__file__, str(place), str(seed), str(count), *ways]
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    subprocess.run(
        [*strace_command(folder / "record", faults=faults), *script],
        env=environment,
        check=True,
        timeout=300,
        stdout=subprocess.DEVNULL,
    )
    return read_record(folder / "record", place, told=lambda text: re.findall(rb"ack (\d+)\n", text))


async def contents_of(store) -> Contents:
    """Read a store whole, through its own methods; plain ids have none, so through SQL."""
    found = Contents(heads=dict(await store.heads()), cursors=dict(await store.cursors(REPORTER)))
    for project in found.heads:
        found.log[project] = list(await store.read(project, after=0, limit=FOREVER))
        for row in (await store.runs(RunFilter(project=project), limit=FOREVER)).rows:
            found.runs[project, row.run_id] = row
            for one in (await store.results(project, row.run_id, ResultFilter(), limit=FOREVER)).rows:
                found.results[project, row.run_id, one.test_id, one.attempt] = one
            stream = await store.stream(project, f"stream-{row.run_id}")
            if stream is not None:
                found.streams[project, stream.stream_id] = stream
    plain = "SELECT name, run_id, event_id, content_hash FROM plain_events JOIN runs ON run = runs.id JOIN projects ON project_id = projects.id"
    for project, run_id, event_id, content_hash in await store.reading(lambda one: one.exec_driver_sql(plain).all()):
        found.plain[project, run_id, event_id] = content_hash
    return found


def is_a_prefix_of(sent):
    """A check: the store holds exactly the first so many of the commits, and all that were acknowledged."""
    steps = [contents_after(sent[:count]).heads for count in range(len(sent) + 1)]

    async def check(store, told):
        found = await contents_of(store)
        assert found.heads in steps, f"the heads {found.heads} are not those after any commit"
        count = steps.index(found.heads)
        acknowledged = max(map(int, told), default=0)
        assert count >= acknowledged, f"acknowledged were {acknowledged} commits, {count} are there"
        assert not found.differences(contents_after(sent[:count])), f"of {count} commits something is there in part"

    return check


async def survive_cuts(
    folder: Path,
    *ways: str,
    seed: int,
    count: int,
    at_most: int | None,
    shuffled: int,
    faults: Sequence[str] = (),
    gives_up: bool = False,
) -> Record:
    record = recorded(folder, *ways, seed=seed, count=count, faults=faults)
    assert len(record.told_before(len(record.operations))) == count
    sent = list(commits(seed, count))
    images = await check_cuts(
        record, is_a_prefix_of(sent), seed=seed, at_most=at_most, shuffled=shuffled, gives_up=gives_up
    )
    assert images > (at_most or count), "the cuts have left images that differ"
    return record


@pytest.mark.slow(reason="records a process and opens hundreds of databases")
async def test_after_a_power_cut_every_acknowledged_commit_is_there_whole(tmp_path):
    record = await survive_cuts(tmp_path, writer.SMALL_WAL, seed=1, count=30, at_most=24, shuffled=1)
    assert record.checkpoints > 5
    assert record.wal_restarts > 2


@pytest.mark.slow(reason="records a process and opens databases until one is found that is wrong")
@pytest.mark.parametrize("breakage", [writer.EARLY, writer.SYNCHRONOUS_OFF, writer.SYNCHRONOUS_NORMAL])
async def test_a_store_whose_acknowledgements_are_not_durable_is_caught(tmp_path, breakage):
    with pytest.raises(AssertionError, match=r"acknowledged were|can't be read any more|malformed|heads"):
        await survive_cuts(tmp_path, writer.SMALL_WAL, breakage, seed=1, count=20, at_most=30, shuffled=1)


SYNCS_FAIL = ("fdatasync,fsync:error=EIO:when=9+4",)


@pytest.mark.slow(reason="records a process and opens hundreds of databases")
@pytest.mark.parametrize("gives_up", [False, True], ids=["kept for a later sync", "given up by the system"])
async def test_where_syncs_fail_nothing_acknowledged_hangs_on_what_they_were_to_save(tmp_path, gives_up):
    many = {"seed": 2, "count": 20, "at_most": 24, "shuffled": 1}
    record = await survive_cuts(tmp_path, writer.SMALL_WAL, faults=SYNCS_FAIL, gives_up=gives_up, **many)
    assert record.failed_syncs > 5


@pytest.mark.slow(reason="records a process and opens databases until one is found that is wrong")
async def test_a_store_that_takes_a_failed_sync_for_a_good_one_is_caught(tmp_path):
    with pytest.raises(AssertionError, match=r"acknowledged were|can't be read any more|malformed|heads"):
        await survive_cuts(
            tmp_path, writer.SMALL_WAL, writer.SWALLOWS, faults=SYNCS_FAIL, seed=2, count=20, at_most=40, shuffled=1
        )


@pytest.mark.usefixtures("long_faults")
@pytest.mark.slow(reason="a long version: every cut of long records")
@pytest.mark.parametrize("ways", [(writer.SMALL_WAL,), ()], ids=["small-wal", "as-it-is"])
@pytest.mark.parametrize("faults", [(), ("fdatasync,fsync:error=EIO:when=9+7",)], ids=["well", "syncs fail"])
@pytest.mark.parametrize("attempt", range(2))
async def test_after_any_power_cut_every_acknowledged_commit_is_there_whole(tmp_path, ways, faults, attempt):
    seed = random.SystemRandom().randrange(10**9)
    many = {"count": 60, "at_most": 150} if ways else {"count": 250, "at_most": 60}
    record = await survive_cuts(tmp_path, *ways, seed=seed, shuffled=4, faults=faults, gives_up=bool(faults), **many)
    assert record.wal_restarts > 1
