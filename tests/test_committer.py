"""Group commit: what is grouped, what several nodes over one store do, and what happens when the store can't."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio
from support import MEMORY, clients, configured, running

from testorch_core.config import ServerOptions
from testorch_core.errors import DuplicatesError, RefusedError, StorageFailedError
from testorch_core.events import Source
from testorch_core.gate import Gate
from testorch_core.hosting import HostedPlugin
from testorch_core.interfaces.storage import Commit, EventStore, RunFilter
from testorch_core.items import Decision
from testorch_core.logs import library_log
from testorch_core.orchestrator import Orchestrator
from testorch_core.registry import RunRegistry
from testorch_core.runs import RunState
from testorch_core.server import Server
from testorch_plugins.storage.memory.plugin import MemoryStore
from testorch_plugins.storage.sqlite.options import SqliteOptions
from testorch_plugins.storage.sqlite.plugin import SqliteStore

NODE = Source("node")


@asynccontextmanager
async def opened(store: EventStore, folder: Path) -> AsyncIterator[EventStore]:
    hosted = HostedPlugin(store, close_seconds=5, log=library_log())
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: hosted.run(folder=folder, task_status=task_status))
        yield store
        await hosted.close()


@asynccontextmanager
async def nodes(store: EventStore, count: int) -> AsyncIterator[list[Orchestrator]]:
    made = [
        Orchestrator(store, gate=Gate(()), reporters=(), options=ServerOptions(), log=library_log())
        for _ in range(count)
    ]
    async with trio.open_nursery() as nursery:
        for one in made:
            await nursery.start(one.run)
        yield made
        nursery.cancel_scope.cancel()


def store_of(kind: str) -> EventStore:
    return MemoryStore("m", None) if kind == "memory" else SqliteStore("s", SqliteOptions(path="x.db"))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_several_nodes_over_one_store_agree_on_one_log(kind: str, tmp_path: Path):
    """P4: each node is behind whenever another was quicker; none loses or repeats an offset, and shards by key are one run."""
    async with opened(store_of(kind), tmp_path) as store, nodes(store, 3) as orchestrators:

        async def shard(number: int) -> None:
            node, name = orchestrators[number], f"shard-{number}"
            status = await node.start_run("p", {"key": "k"}, participant=name, source=NODE)
            for _ in range(5):
                await node.presence("p", "system/client/connect", {}, source=NODE)
            await node.end_run("p", status.run_id, participant=name, source=NODE)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(shard, number)
        heads = await store.heads()
        events = [one for batch in await store.read("p", after=0, limit=1000) for one in batch.events()]
        page = await store.runs(RunFilter(), limit=10)
    assert [one.offset for one in events] == list(range(1, heads["p"] + 1))
    assert sum(one.type == "system/client/connect" for one in events) == 15
    joined = [one.payload["participant"] for one in events if one.type in ("run/start", "run/join")]
    assert len(joined) == len(set(joined)) == 3
    runs = [row.run_status() for row in page.rows]
    assert all(run.status == "passed" for run in runs)


async def test_a_node_that_was_behind_shows_what_another_node_committed(autojump_clock: trio.testing.MockClock):
    async with opened(MemoryStore("m", None), Path()) as store, nodes(store, 2) as [one, two]:
        await one.start_run("p", {"runId": "r", "name": "first"}, participant="a", source=NODE)
        status = await two.start_run("p", {"runId": "r"}, participant="b", source=NODE)
        assert status.name == "first"
        assert {each["id"] for each in status.participants} == {"a", "b"}
        with pytest.raises(RefusedError) as refused:
            await two.cancel_run("p", "unknown", source=NODE, reason=None)
        assert refused.value.refusal.code == "unknown_run"


class CountingStore(MemoryStore):
    """Counts commits, takes a while for each, and fails on demand."""

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self.commits: list[Commit] = []
        self.failing = False

    async def append(self, commit: Commit) -> None:
        await trio.sleep(1)
        if self.failing:
            raise StorageFailedError("no space left on the device")
        await super().append(commit)
        self.commits.append(commit)


@asynccontextmanager
async def counted() -> AsyncIterator[tuple[Server, CountingStore]]:
    server = Server(configured(MEMORY), log=library_log())
    store = CountingStore("counting", None)
    server.store = server.orchestrator._store = server.orchestrator._registry._store = store
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server, store
        store.failing = False
        server.stop()


async def test_what_queued_up_during_a_commit_becomes_the_next_one(autojump_clock: trio.testing.MockClock):
    async with counted() as (server, store), clients(server, 3) as made:
        await made[0].ask("startTestRun", {"runId": "r"})
        before = len(store.commits)
        for number in range(90):
            made[number % 3].event("test/end", id=f"x{number}", testId=f"t{number}", status="passed", runId="r")
        status = await made[0].ask("getRunStatus", {"runId": "r"})
        assert status["counts"]["passed"] == 90
        new = store.commits[before:]
        assert len(new) <= 3
        batches = [batch for commit in new for part in commit.slices for batch in part.batches]
        assert len(batches) <= 3 * len(new), "what one client sent to one run in one commit is one batch"


async def test_a_store_that_fails_refuses_for_a_while_and_then_goes_on(autojump_clock: trio.testing.MockClock):
    """P6: nothing is stored, everybody is told, and the next commit is the recovery."""
    async with counted() as (server, store), clients(server) as [client]:
        await client.ask("startTestRun", {"runId": "r"})
        store.failing = True
        lost = client.event("test/end", testId="t", status="passed")
        refused = (await client.receive())["payload"]
        assert (refused["code"], refused["temporary"], refused["eventId"]) == ("storage_failed", True, lost)
        assert refused["retryAfterMs"] > 0
        assert "no space left" in refused["message"]
        again = await client.ask("endTestRun", {"runId": "r"})
        assert again["payload"]["code"] == "storage_failed"
        store.failing = False
        status = await client.ask("getRunStatus", {"runId": "r"})
        assert (status["status"], status["counts"]["total"]) == ("running", 0), "nothing of the failed commits is seen"
        client.event("test/end", id=lost, testId="t", status="passed")
        ended = await client.ask("endTestRun", {"runId": "r"})
        assert (ended["status"], ended["counts"]["passed"]) == ("passed", 1)


async def test_nothing_is_answered_before_its_commit_has_returned(autojump_clock: trio.testing.MockClock):
    """P1: an answer waits for the store."""
    async with counted() as (server, store), clients(server) as [client]:
        before = trio.current_time()
        await client.ask("startTestRun", {})
        assert trio.current_time() - before >= 1
        assert any(batch.run_id for commit in store.commits for part in commit.slices for batch in part.batches)


async def test_a_full_queue_makes_clients_wait_and_loses_nothing(autojump_clock: trio.testing.MockClock):
    """P7: the queue has a size, and what is over it waits at the client."""
    tables = {**MEMORY, "server": {"max_queued_events": 10, "max_commit_events": 7}}
    async with running(tables) as server, clients(server) as [client]:
        run = await client.ask("startTestRun", {})
        for start in range(0, 100, 25):
            events = [_passed(number) for number in range(start, start + 25)]
            client.send("events", {"events": events})
        status = await client.ask("getRunStatus", {"runId": run["runId"]})
        assert status["counts"]["passed"] == 100


async def test_a_run_that_is_not_in_memory_is_folded_again_from_its_log(tmp_path: Path):
    """P8: a restart finds the state that the log tells."""
    tables = {"storage": {"use": "sqlite", "path": "x.db"}}
    async with running(tables, tmp_path) as server, clients(server) as [client]:
        await client.ask("hello", {"streamId": "me"})
        await client.ask("startTestRun", {"runId": "r"})
        client.send("events", {"events": [{**_passed(number), "seq": number + 1} for number in range(300)]})
        assert (await client.receive())["payload"] == {"streamId": "me", "seq": 300}
        before = await client.ask("getRunStatus", {"runId": "r"})
    async with running(tables, tmp_path) as server, clients(server) as [client]:
        assert (await client.ask("getActiveRuns"))[0]["counts"] == before["counts"]
        assert (await client.ask("hello", {"streamId": "me", "resume": True}))["ackedSeq"] == 300
        client.send("events", {"events": [{**_passed(number), "seq": number + 1} for number in range(290, 310)]})
        assert (await client.receive())["payload"] == {"streamId": "me", "seq": 310}
        receipt = await client.ask("streamEnd", {"lastSeq": 310})
        ended = await client.ask("endTestRun", {"runId": "r"})
    assert receipt == {
        "streamId": "me", "lastSeq": 310, "accepted": 310, "refused": 0, "duplicates": 10, "complete": True,
        "digest": sha256("".join(f"{number + 1}:{_passed(number)['id']}\n" for number in range(310)).encode()).hexdigest(),
    }  # fmt: skip
    assert ended["counts"] | {"total": 310, "passed": 310, "interrupted": 0} == ended["counts"]
    assert (ended["status"], ended["complete"]) == ("passed", True)


async def test_participants_that_do_not_return_after_a_restart_are_lost(autojump_clock: trio.testing.MockClock):
    """P8: runs that a dead server left open are not open for ever."""
    store = MemoryStore("kept", None)
    async with opened(store, Path()):
        async with nodes(store, 1) as [before]:
            await before.start_run("p", {"runId": "r"}, participant="gone", source=NODE)
        async with nodes(store, 1) as [after]:
            await trio.sleep(59)
            assert after.status("p", "r").status == "running"
            await trio.sleep(2)
            ended = after.status("p", "r")
    assert (ended.status, ended.complete, ended.end_reason) == ("interrupted", False, "lost")


def _passed(number: int) -> dict[str, Any]:
    payload = {"testId": f"t{number}", "status": "passed"}
    return {"id": f"p{number}", "type": "test/end", "timestamp": 1, "payload": payload}


async def test_a_store_that_names_no_duplicates_is_a_failure_and_no_endless_loop(
    autojump_clock: trio.testing.MockClock,
):
    class Vague(MemoryStore):
        async def append(self, commit: Commit) -> None:
            raise DuplicatesError([])

    async with opened(Vague("m", None), Path()) as store, nodes(store, 1) as [node]:
        with pytest.raises(RefusedError, match="does not say which"):
            await node.start_run("p", {"runId": "r"}, participant="a", source=NODE)


async def test_a_run_that_is_committed_while_it_is_loaded_keeps_its_newest_state():
    """P4: what was read from the store is older than what a commit has published meanwhile."""
    reading, going_on = trio.Event(), trio.Event()

    class SlowStore:
        async def run(self, project: str, run_id: str) -> object:
            return object()

        async def read(self, project: str, **settings: object) -> list[object]:
            reading.set()
            await going_on.wait()
            return []

    registry = RunRegistry(SlowStore(), finished_kept=10)
    newest = RunState("default", "r")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.ensure, "default", "r")
        await reading.wait()
        registry.publish([(newest, newest.status())])
        going_on.set()
    assert registry.get("default", "r") is newest
    assert await registry.ensure("default", "r") is newest


async def test_who_fills_the_queue_delays_nobody_else_by_more_than_a_commit(autojump_clock: trio.testing.MockClock):
    """P5: a connection with a lane of its own takes its turn in the next commit."""
    tables = {**MEMORY, "server": {"max_queued_events": 500, "max_commit_events": 50, "max_in_flight": 100_000}}
    async with running(tables) as server:
        commits: list[int] = []
        append = server.store.append

        async def slowly(commit: Commit) -> None:
            await trio.sleep(1)
            commits.append(sum(batch.count for part in commit.slices for batch in part.batches))
            await append(commit)

        async with clients(server, 2) as (flooder, light):
            for client, run_id in ((flooder, "flood"), (light, "light")):
                await client.ask("startTestRun", {"runId": run_id})
            server.store.append = slowly
            for _ in range(900):
                flooder.event("test/output", runId="flood", testId="t", text="x")
            await trio.testing.wait_all_tasks_blocked()
            commits.clear()
            began = trio.current_time()
            light.event("test/end", runId="light", testId="t", status="passed")
            status = await light.ask("getRunStatus", {"runId": "light"})
            assert status["counts"]["passed"] == 1
            assert len(commits) <= 3
            assert trio.current_time() - began <= 4
            server.store.append = append
            assert (await flooder.ask("getRunStatus", {"runId": "flood"}))["status"] == "running"


async def test_waiting_for_what_is_queued_waits_for_that_and_not_for_what_comes_later(
    autojump_clock: trio.testing.MockClock,
):
    """Thousands may wait so at once, after a reconnect storm: each is told once, whatever the lanes' turns."""
    tables = {**MEMORY, "server": {"max_commit_events": 2}}
    async with running(tables) as server:
        append = server.store.append

        async def slowly(commit: Commit) -> None:
            await trio.sleep(1)
            await append(commit)

        committer = server.orchestrator._committer
        await committer.settled()
        server.store.append = slowly
        items: list[Decision[None]] = []

        async def note(lane: object) -> None:
            items.append(Decision("p", lambda ledger: ledger.note_presence("p", "x", {}, source=NODE), lane=lane))
            await committer.submit(items[-1])

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(note, number % 3)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(committer.settled)
            for number in range(4):
                nursery.start_soon(note, f"late {number}")
            await committer.settled()
            assert all(item.done.is_set() for item in items[:6])
        await committer.settled()
        assert all(item.done.is_set() for item in items)
        assert not committer._outstanding
        assert not committer._awaited
