"""What is SQLite's own: its settings, its files, its schema, and what happens when the disk or another process is hostile."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import orjson
import pytest
import trio
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.pool import StaticPool

from testorch_core.errors import DuplicatesError, OpeningError, StorageFailedError
from testorch_core.interfaces.storage import Slice
from testorch_core.testing import plugin_context
from testorch_core.testing.commits import PROJECT, batch, commit_of, cursor, event, run_row, slice_of
from testorch_core.testing.contracts.store_case import ids_of, log_of, offsets_of
from testorch_plugins.storage.sql import reading, schema
from testorch_plugins.storage.sql.store import READERS
from testorch_plugins.storage.sql.tables import REVISION, metadata
from testorch_plugins.storage.sqlite.options import SqliteOptions
from testorch_plugins.storage.sqlite.plugin import JOURNAL_LIMIT_BYTES, SqliteStore


def make_store(path="store.db", **options):
    return SqliteStore("sqlite", SqliteOptions(path=str(path), **options))


@pytest.fixture
def context(nursery, tmp_path):
    return plugin_context(nursery, folder=tmp_path)


@pytest.fixture
def reading_context(nursery, tmp_path):
    return plugin_context(nursery, folder=tmp_path, read_only=True)


@pytest.fixture
async def store(context):
    store = make_store(busy_timeout_seconds=0.05)
    await store.start(context)
    yield store
    await store.aclose()


async def opening_fails(store, context):
    with pytest.raises(OpeningError) as failure:
        await store.start(context)
    await store.aclose()
    return str(failure.value)


# Settings.


def pragmas(connection):
    names = ("busy_timeout", "journal_mode", "synchronous", "foreign_keys", "trusted_schema", "journal_size_limit")
    return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]


async def test_every_connection_has_the_pragmas(store):
    barrier = threading.Barrier(READERS, timeout=10)  # holds the readers until each has a connection of its own
    found = []

    async def read():
        found.append(await store.reading(lambda connection: (barrier.wait(), pragmas(connection))[1]))

    async with trio.open_nursery() as nursery:
        for _ in range(READERS):
            nursery.start_soon(read)
    found.append(await store.writing(pragmas))
    assert found == [[50, "wal", 2, 1, 0, JOURNAL_LIMIT_BYTES]] * (READERS + 1)


async def test_the_statements_of_one_query_see_the_same_state(store):
    read_once, appended = threading.Event(), threading.Event()
    found = []

    def query(connection):
        found.append(reading.heads(connection))
        read_once.set()
        appended.wait(10)
        found.append(reading.heads(connection))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.reading, query)
        await trio.to_thread.run_sync(read_once.wait, 10)
        await store.append(commit_of(slice_of(0, ["a"])))
        appended.set()
    assert found == [{}, {}]
    assert await store.heads() == {PROJECT: 1}


async def test_a_path_may_hold_what_means_something_in_a_uri(context):
    path = context.folder / "ü ?mode=memory#50% 'x'.db"
    store = make_store(path.name)
    await store.start(context)
    await store.append(commit_of(slice_of(0, ["a"])))
    assert path.exists()
    await store.aclose()


# Who may open what.


async def test_a_second_server_is_refused_and_told_which_process_is_the_first(store, context):
    words = await opening_fails(make_store(), context)
    assert words == f"`{context.folder}/store.db` is in use by another testorch server (process {os.getpid()})"
    await store.append(commit_of(slice_of(0, ["a"])))


async def test_a_second_server_is_refused_that_comes_by_another_link(store, context):
    (context.folder / "link.db").symlink_to("store.db")
    assert "is in use by another testorch server" in await opening_fails(make_store("link.db"), context)


async def test_a_reader_beside_the_server_sees_its_commits(store, reading_context):
    reader = make_store()
    await reader.start(reading_context)
    assert await reader.heads() == {}
    await store.append(commit_of(slice_of(0, ["a"])))
    assert await ids_of(reader) == ["a"]
    assert reader.epoch == store.epoch
    with pytest.raises(StorageFailedError):
        await reader.append(commit_of(slice_of(1, ["b"])))
    await reader.aclose()
    await store.append(commit_of(slice_of(1, ["b"])))


async def test_a_reader_without_a_server_reads_what_was_left(store, context, reading_context):
    await store.append(commit_of(slice_of(0, ["a"])))
    await store.aclose()
    reader = make_store()
    await reader.start(reading_context)
    assert await ids_of(reader) == ["a"]
    await reader.aclose()


async def test_a_reader_makes_no_database(reading_context):
    words = await opening_fails(make_store(), reading_context)
    assert words == f"there is no database `{reading_context.folder}/store.db`; `testorch serve` makes one"
    assert list(reading_context.folder.iterdir()) == []


async def test_a_reader_refuses_an_empty_file(reading_context):
    (reading_context.folder / "store.db").touch()
    assert "holds no testorch data yet" in await opening_fails(make_store(), reading_context)


async def test_a_folder_is_not_a_database(context):
    (context.folder / "store.db").mkdir()
    words = await opening_fails(make_store(), context)
    assert words == f"`{context.folder}/store.db` is a folder; `path` must be a file"


async def test_the_folder_must_be_there(context):
    words = await opening_fails(make_store("no/store.db"), context)
    assert words == f"the folder `{context.folder}/no` does not exist; make it, or choose another `path`"


async def test_a_file_that_is_no_database_is_refused_and_left_alone(context):
    path = context.folder / "store.db"
    path.write_text("These are my notes. " * 200)
    assert await opening_fails(make_store(), context) == f"`{path}` can't be opened: file is not a database"
    assert path.read_text() == "These are my notes. " * 200


@pytest.mark.parametrize("revision", [None, "abc123", REVISION])
async def test_somebody_elses_database_is_refused_and_left_alone(context, revision):
    path = context.folder / "store.db"
    with_sqlite(path, "CREATE TABLE invoices (id INTEGER)")
    if revision is not None:
        with_sqlite(path, "CREATE TABLE alembic_version (version_num TEXT)")
        with_sqlite(path, f"INSERT INTO alembic_version VALUES ('{revision}')")
    before = path.read_bytes()
    assert "is not a testorch database" in await opening_fails(make_store(), context)
    assert path.read_bytes() == before


# The schema.


async def test_a_newer_schema_is_refused(store, context, reading_context):
    await store.writing(lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num='9999'"))
    await store.aclose()
    for where in (context, reading_context):
        assert await opening_fails(make_store(), where) == (
            f"`{context.folder}/store.db` has the schema 9999, newer than this testorch knows ({REVISION}); "
            "upgrade testorch"
        )


SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.add_column("runs", sa.Column("colour", sa.Text))
    {more}
"""


@pytest.fixture
def second_migration(monkeypatch, tmp_path):
    """Makes this program one migration newer than it is."""
    migrations = tmp_path / "100% migrations"
    shutil.copytree(str(schema.MIGRATIONS), migrations, ignore=shutil.ignore_patterns("__pycache__"))

    def write(more=""):
        (migrations / "versions" / "0002_second.py").write_text(SECOND.format(more=more))
        monkeypatch.setattr(schema, "MIGRATIONS", migrations)
        monkeypatch.setattr(schema, "REVISION", "0002")

    return write


async def test_an_older_schema_is_migrated_and_keeps_its_data(store, context, reading_context, second_migration):
    await store.append(commit_of(slice_of(0, ["a"])))
    epoch = store.epoch
    await store.aclose()
    second_migration()
    assert "was made by an older testorch" in await opening_fails(make_store(), reading_context)
    newer = make_store()
    await newer.start(context)
    assert (await ids_of(newer), newer.epoch) == (["a"], epoch)
    assert await newer.reading(lambda one: "colour" in {column["name"] for column in inspect(one).get_columns("runs")})
    await newer.aclose()


async def test_a_migration_that_fails_leaves_the_database_as_it_was(store, context, second_migration, monkeypatch):
    await store.append(commit_of(slice_of(0, ["a"])))
    await store.aclose()
    with monkeypatch.context():
        second_migration(more='op.execute("INSERT INTO no_such_table VALUES (1)")')
        assert "can't be opened" in await opening_fails(make_store(), context)
    monkeypatch.undo()
    again = make_store()
    await again.start(context)
    assert await ids_of(again) == ["a"]
    await again.aclose()


def test_the_tables_that_are_made_at_once_are_those_of_all_migrations():
    made, migrated = (create_engine("sqlite://", poolclass=StaticPool) for _ in range(2))
    with made.begin() as connection:
        metadata.create_all(connection)
        made_tables = described(connection)
    with migrated.begin() as connection:
        schema.migrate(connection, place="here", revision=REVISION)
        migrated_tables = described(connection)
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == REVISION
        assert len(schema.epoch(connection)) == 2 * schema.EPOCH_BYTES
    assert made_tables == migrated_tables
    made.dispose()
    migrated.dispose()


def described(connection):
    """Everything but the text of the statements that made the tables, which may be broken into lines differently."""
    seen = inspect(connection)
    statements = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")).all()
    without_rowid = {name for name, sql in statements if "WITHOUT ROWID" in sql.upper()}
    return {
        name: {
            "columns": [{**one, "type": str(one["type"])} for one in seen.get_columns(name)],
            "primary key": seen.get_pk_constraint(name),
            "foreign keys": sorted(seen.get_foreign_keys(name), key=str),
            "unique": sorted(seen.get_unique_constraints(name), key=str),
            "indexes": sorted(seen.get_indexes(name), key=str),
            "without rowid": name in without_rowid,
        }
        for name in seen.get_table_names()
        if name != "alembic_version"
    }


def test_a_new_database_and_a_migrated_one_keep_their_version_alike(tmp_path):
    found = []
    for prepare in (
        schema.prepare,
        lambda connection, place: schema.migrate(connection, place=place, revision=REVISION),
    ):
        engine = create_engine("sqlite://", poolclass=StaticPool)
        with engine.begin() as connection:
            prepare(connection, place="here")
            found.append(
                [(one["name"], str(one["type"])) for one in inspect(connection).get_columns("alembic_version")]
            )
        engine.dispose()
    assert found[0] == found[1]


# The disk.


def big_commit(after, names):
    bodies = [event(name, secrets.token_hex(40_000)) for name in names]
    part = Slice(project=PROJECT, expected_head=after, batches=[batch(after + 1, bodies)], runs=[run_row()])
    return commit_of(part)


async def test_a_full_disk_is_said_and_stores_nothing_and_passes(store):
    await store.append(commit_of(slice_of(0, ["a"])))
    pages = await store.writing(lambda one: one.exec_driver_sql("PRAGMA page_count").scalar_one())
    await store.writing(lambda one: one.exec_driver_sql(f"PRAGMA max_page_count={pages}"))
    with pytest.raises(StorageFailedError, match="full"):
        await store.append(big_commit(1, ["b"]))
    with pytest.raises(StorageFailedError, match="full"):
        async with store.locked([PROJECT]) as log:
            await log.append(big_commit(1, ["b"]))
    assert (await ids_of(store), await store.heads()) == (["a"], {PROJECT: 1})
    await store.writing(lambda one: one.exec_driver_sql("PRAGMA max_page_count=1000000"))
    await store.append(big_commit(1, ["b"]))
    assert await ids_of(store) == ["a", "b"]


@pytest.mark.parametrize("table", ["batches", "plain_events", "runs", "cursors"])
async def test_a_database_that_refuses_is_a_storage_failure_and_never_a_duplicate(store, table):
    refusal = f"CREATE TRIGGER refuses BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'not today'); END"
    await store.writing(lambda one: one.exec_driver_sql(refusal))
    with pytest.raises(StorageFailedError, match="not today"):
        await store.append(commit_of(slice_of(0, ["a"]), cursors=[cursor(1)]))
    assert await store.heads() == {}
    await store.writing(lambda one: one.exec_driver_sql("DROP TRIGGER refuses"))
    await store.append(commit_of(slice_of(0, ["a"]), cursors=[cursor(1)]))


async def test_a_lock_that_another_process_holds_is_a_failure_that_passes(store, tmp_path):
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageFailedError, match="locked"):
        await store.append(commit_of(slice_of(0, ["a"])))
    with pytest.raises(StorageFailedError, match="locked"):
        async with store.locked([PROJECT]):
            pass
    assert await store.heads() == {}
    other.close()
    await store.append(commit_of(slice_of(0, ["a"])))


async def test_a_commit_that_was_refused_inside_the_lock_can_be_corrected_there(store):
    await store.append(commit_of(slice_of(0, ["a"])))
    async with store.locked([PROJECT]) as log:
        with pytest.raises(DuplicatesError):
            await log.append(commit_of(slice_of(1, ["b", "a"])))
        assert await log.head(PROJECT) == 1
        await log.append(commit_of(slice_of(1, ["b"])))
    assert await ids_of(store) == ["a", "b"]


async def test_a_clean_close_leaves_the_database_and_its_lock_file_alone(store, tmp_path):
    async with trio.open_nursery() as nursery:
        for _ in range(READERS):
            nursery.start_soon(store.heads)
    await store.append(commit_of(slice_of(0, ["a"])))
    await store.aclose()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store.db", "store.db.lock"]


async def test_what_is_compressed_takes_less_room_and_comes_back(store):
    events = [event(f"event-{number}", "the same again") for number in range(100)]
    stored = batch(1, events)
    await store.append(commit_of(Slice(project=PROJECT, expected_head=0, batches=[stored], runs=[run_row()])))
    size = await store.reading(lambda one: one.exec_driver_sql("SELECT length(body) FROM batches").scalar_one())
    assert size < len(stored.body) / 5
    assert await log_of(store) == [stored]


# kill -9.

WRITER = """
import sys, trio
from pathlib import Path
from testorch_core.testing import plugin_context
from testorch_core.testing.commits import commit_of, slice_of
from testorch_plugins.storage.sqlite.options import SqliteOptions
from testorch_plugins.storage.sqlite.plugin import SqliteStore

async def main():
    async with trio.open_nursery() as nursery:
        store = SqliteStore("sqlite", SqliteOptions(path="store.db"))
        await store.start(plugin_context(nursery, folder=Path(sys.argv[1])))
        for after in range(0, 1_000_000, 2):
            await store.append(commit_of(slice_of(after, [f"a{after}", f"b{after}"])))
            print(after + 2, flush=True)

trio.run(main)
"""


@pytest.mark.slow  # a process that imports the whole store is started and killed
async def test_a_killed_server_has_kept_every_commit_that_it_told_of(context):
    command = [sys.executable, "-c", WRITER, str(context.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:  # noqa: ASYNC220 - nothing else runs here
        told = [int(writer.stdout.readline()) for _ in range(50)]
        in_use = await opening_fails(make_store(), context)
        writer.send_signal(signal.SIGKILL)
        told += [int(line) for line in writer.stdout.read().split("\n") if line.strip()]
    assert f"(process {writer.pid})" in in_use
    store = make_store()
    await store.start(context)
    head = (await store.heads())[PROJECT]
    assert head >= told[-1]
    assert offsets_of(await log_of(store)) == list(range(1, head + 1))
    run = await store.run(PROJECT, "run-1")
    assert (run.last_offset, orjson.loads(run.document)["offset"]) == (head, head)
    assert await store.reading(lambda one: one.exec_driver_sql("PRAGMA integrity_check").scalar_one()) == "ok"
    await store.aclose()


def with_sqlite(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


async def test_a_page_of_the_log_is_bounded_in_bytes_too(store, monkeypatch):
    """P7: a thousand large events must not be read at once."""
    monkeypatch.setattr(reading, "PAGE_BYTES", 3_000)
    for number in range(6):
        await store.append(commit_of(slice_of(number, [f"e{number}"], text="x" * 2_000)))
    pages, after = [], 0
    while page := await store.read(PROJECT, after=after, limit=1_000):
        pages.append(len(page))
        after = page[-1].last_offset
    assert pages == [2, 2, 2]
