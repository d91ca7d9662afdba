"""`testorch verify`: clean after an ordinary life, and every kind of damage is named."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support import clients, configured, running
from test_streams import begin, ended
from whole_support import run_testorch

from testorch_core.logs import library_log
from testorch_core.server import with_store
from testorch_core.verifying import Verdict, run_ids, verify_project, verify_run

TABLES: dict[str, Any] = {
    "storage": {"use": "sqlite", "path": "x.db"},
    "security": {"events": {"use": "event_validation"}},
}


async def make_a_store(folder: Path) -> Path:
    """A store with a life behind it: streams, refusals, duplicates, retries, a restart, a plain client."""
    async with running(TABLES, folder) as server, clients(server, 2) as [client, plain]:
        await begin(client)
        bad = {**ended(3), "payload": {"status": 7}}
        client.send("events", {"events": [{**ended(1), "type": "test/start"}, ended(2), bad]})
        await client.receive()
        await client.receive()
        plain.event("test/start", testId="p", id="p1", runId="plain")
        plain.event("test/end", testId="p", id="p2", runId="plain", status="failed", errors=[{"message": "no"}])
        plain.event("test/end", testId="p", id="p2", runId="plain", status="passed")
        await plain.receive()
    async with running(TABLES, folder) as server, clients(server) as [client]:
        await begin(client, resume=True)
        retry = {**ended(4), "type": "test/start", "payload": {"testId": "t2"}}
        client.send(
            "events", {"events": [ended(2), bad, retry, {**ended(5), "payload": {"testId": "t2", "status": "failed"}}]}
        )
        await client.receive()
        assert (await client.ask("streamEnd", {"lastSeq": 5}))["complete"]
    return folder / "x.db"


async def verdicts(folder: Path) -> list[Verdict]:
    async def work(store: Any) -> list[Verdict]:
        found = [await verify_project(store, "default")]
        return found + [await verify_run(store, *address) for address in await run_ids(store, None)]

    return await with_store(configured(TABLES, folder), work, log=library_log())


async def test_a_store_with_a_life_behind_it_is_clean(tmp_path: Path):
    await make_a_store(tmp_path)
    found = await verdicts(tmp_path)
    assert [one.differences for one in found] == [[], [], []]
    run = next(one for one in found if one.run_id == "r")
    assert (run.tests, run.streams, run.receipts) == (2, 1, 1)


def change_status(database: sqlite3.Connection) -> None:
    document = json.loads(database.execute("SELECT document FROM runs WHERE run_id = 'r'").fetchone()[0])
    document["counts"]["passed"] += 1
    database.execute("UPDATE runs SET document = ? WHERE run_id = 'r'", [json.dumps(document).encode()])


def repeat_a_batch(database: sqlite3.Connection) -> None:
    """The same events once more, after the others: what a store would hold whose duplicates are not recognised."""
    columns = "project_id, run, source, received_at, last_seq, count, encoding, body"
    run = "(SELECT id FROM runs WHERE run_id = 'plain')"
    database.execute(
        f"INSERT INTO batches (first_offset, last_offset, {columns}) SELECT head + 1, head + count, {columns} "
        f"FROM (SELECT * FROM batches WHERE run = {run} ORDER BY last_offset LIMIT 1), (SELECT head FROM projects)"
    )
    database.execute("UPDATE projects SET head = (SELECT max(last_offset) FROM batches)")
    database.execute(f"UPDATE runs SET last_offset = (SELECT head FROM projects) WHERE id = {run}")


DAMAGES: list[tuple[str | Callable[[sqlite3.Connection], None], str]] = [
    ("DELETE FROM batches WHERE last_offset = (SELECT min(last_offset) FROM batches WHERE last_seq IS NOT NULL)", "is followed by"),
    ("DELETE FROM batches WHERE last_offset = (SELECT max(last_offset) FROM batches)", "the head is"),
    ("DELETE FROM batches WHERE last_seq = 3", "seq 4 where 1 should be"),
    ("UPDATE batches SET count = count + 1, last_offset = last_offset + 1 WHERE last_seq = 5", "should hold"),
    (change_status, "status `counts`"),
    (repeat_a_batch, "plain event `p1` is in the log twice"),
    ("UPDATE results SET status = 'failed' WHERE test_id = 't1'", "result of `t1`, attempt 1, status: stored `failed`"),
    ("UPDATE results SET begin = '{}' WHERE test_id = 't1'", "result of `t1`, attempt 1, begin"),
    ("DELETE FROM results WHERE test_id = 't2' AND attempt = 1", "result of `t2`, attempt 1: in the log, not stored"),
    ("UPDATE results SET test_id = 'x' WHERE test_id = 'p'", "result of `x`, attempt 1: stored, but not in the log"),
    ("UPDATE streams SET acked_seq = 7", "stream `s`, acked_seq: stored `7`, folded `5`"),
    ("UPDATE streams SET digest = x'00'", "stream `s`, digest"),
    ("DELETE FROM streams", "stream `s`, accepted: stored nothing, folded `4`"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "named"), DAMAGES, ids=[named for _, named in DAMAGES])
async def test_every_kind_of_damage_is_named(damage: Any, named: str, tmp_path: Path):
    """P2, P3: the harness bites: a repeated batch, a hole and a wrong count are found."""
    path = await make_a_store(tmp_path)
    database = sqlite3.connect(path)
    with database:
        database.execute(damage) if isinstance(damage, str) else damage(database)
    database.close()
    found = [difference for verdict in await verdicts(tmp_path) for difference in verdict.differences]
    assert any(named in one for one in found), found


async def test_a_receipt_that_says_something_else_than_the_log_is_named(tmp_path: Path):
    path = await make_a_store(tmp_path)
    database = sqlite3.connect(path)
    with database:  # one event has become another one, everywhere but in the receipt
        for offset, encoding, body in database.execute("SELECT last_offset, encoding, body FROM batches").fetchall():
            text = zstandard.ZstdDecompressor().decompress(body, max_output_size=10**6) if encoding else body
            changed = [0, text.replace(b'"e2"', b'"e9"'), offset]
            database.execute("UPDATE batches SET encoding = ?, body = ? WHERE last_offset = ?", changed)
    database.close()
    found = [difference for verdict in await verdicts(tmp_path) for difference in verdict.differences]
    assert any("receipt of stream `s`, digest" in one for one in found), found


@pytest.mark.slow(reason="starts the command line three times")
async def test_the_command_says_what_differs_and_exits_with_one(tmp_path: Path):
    path = await make_a_store(tmp_path)
    clean = run_testorch("verify", "--db", str(path))
    assert (clean.returncode, clean.stderr) == (0, "")
    assert "run r: 11 events, 2 tests, 1 stream, 1 receipt: clean" in clean.stdout
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE results SET ok = NOT ok WHERE test_id = 't2' AND attempt = 1")
    database.close()
    damaged = run_testorch("verify", "r", "--db", str(path))
    assert damaged.returncode == 1
    assert "result of `t2`, attempt 1, ok: stored `False`, folded `True`" in damaged.stdout
    [told] = json.loads(run_testorch("verify", "r", "--db", str(path), "--json").stdout)
    assert len(told["differences"]) == 1
