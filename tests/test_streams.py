"""Streams: acknowledged after the commit, resumed where they stood, proved by a receipt. In memory, in virtual time."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from support import MEMORY, Client, clients, running

from testorch_core.errors import StorageFailedError
from testorch_core.verifying import verify_run


def ended(seq: int, **more: Any) -> dict[str, Any]:
    payload = {"testId": f"t{seq}", "status": "passed"}
    return {"id": f"e{seq}", "type": "test/end", "timestamp": 1, "seq": seq, "payload": payload, **more}


def digest_of(ids: Sequence[str]) -> str:
    return hashlib.sha256("".join(f"{seq}:{one}\n" for seq, one in enumerate(ids, 1)).encode()).hexdigest()


async def begin(client: Client, stream: str = "s", run: str = "r", **more: Any) -> Any:
    welcome = await client.ask("hello", {"streamId": stream, **more})
    if "code" not in welcome.get("payload", {}) and not more.get("resume"):
        await client.ask("startTestRun", {"runId": run})
    return welcome


def send(client: Client, *seqs: int) -> None:
    client.send("events", {"events": [ended(seq) for seq in seqs]})


async def test_a_stream_is_welcomed_acknowledged_and_receipted(autojump_clock: trio.testing.MockClock):
    """P1: `welcome` names the durability; counts and digest prove the delivery."""
    async with running(MEMORY) as server, clients(server) as [client]:
        client.send("hello", {"streamId": "s", "client": {"name": "me", "version": "1"}}, id="h")
        welcome = await client.receive()
        assert (welcome["type"], welcome["inReplyTo"]) == ("welcome", "h")
        told = welcome["payload"]
        assert told | {"streamId": "s", "runId": None, "ackedSeq": 0, "heartbeatMs": 2000, "durability": "none"} == told
        assert told["maxMessageBytes"] == 4 * 1024 * 1024
        assert told["epoch"] == server.store.epoch
        started = await client.ask("startTestRun", {"runId": "r"})
        assert started["participants"] == [
            {"id": "s", "state": "active", "stream": True, "accepted": 0, "refused": 0, "complete": None}
        ]
        send(client, 1, 2, 3)
        assert await client.receive() == {"type": "ack", "payload": {"streamId": "s", "seq": 3}}
        client.send("event", ended(4))
        assert (await client.receive())["payload"]["seq"] == 4
        digest = digest_of(["e1", "e2", "e3", "e4"])
        receipt = await client.ask("streamEnd", {"lastSeq": 4, "digest": digest})
        assert receipt == {
            "streamId": "s", "lastSeq": 4, "accepted": 4, "refused": 0, "duplicates": 0, "digest": digest, "complete": True,
        }  # fmt: skip
        assert await client.ask("streamEnd", {"lastSeq": 4, "digest": digest}) == receipt, "however often it is asked"
        status = await client.ask("endTestRun", {"runId": "r"})
        assert (status["status"], status["complete"]) == ("passed", True)
        send(client, 5)
        assert (await client.receive())["payload"]["code"] == "invalid_event", "the stream has ended"


async def test_a_permanent_refusal_takes_its_seq_and_blocks_nothing(autojump_clock: trio.testing.MockClock):
    """P5: one bad event costs only itself."""
    async with running(MEMORY) as server, clients(server) as [client]:
        await begin(client)
        bad = {"id": "bad", "type": "test/end", "timestamp": 1, "seq": 2, "payload": {"status": 7}}
        client.send("events", {"events": [ended(1), bad, {"seq": 3}, ended(4)]})
        refused = [(await client.receive())["payload"] for _ in range(2)]
        assert [(one["code"], one.get("seq"), one.get("eventId")) for one in refused] == [
            ("invalid_event", 2, "bad"), ("invalid_event", 3, None),
        ]  # fmt: skip
        assert await client.receive() == {"type": "ack", "payload": {"streamId": "s", "seq": 4}}
        receipt = await client.ask("streamEnd", {"lastSeq": 4, "digest": digest_of(["e1", "bad", "", "e4"])})
        assert (receipt["accepted"], receipt["refused"], receipt["complete"]) == (2, 2, True)
        status = await client.ask("getRunStatus", {"runId": "r"})
        assert status["refused"] == {"invalid_event": 2}
        assert [(one["seq"], one["eventId"]) for one in status["refusals"]] == [(2, "bad"), (3, "")]
        statistics = await client.ask("getStatistics")
        assert statistics["refusals"] == {"invalid_event": 2}


async def test_a_gap_is_told_once_and_nothing_is_taken_until_it_is_filled(autojump_clock: trio.testing.MockClock):
    """P3: what comes after a gap waits for what is missing."""
    async with running(MEMORY) as server, clients(server) as [client]:
        await begin(client)
        send(client, 1)
        assert (await client.receive())["payload"]["seq"] == 1
        send(client, 3, 4)
        send(client, 5)
        gap = (await client.receive())["payload"]
        assert (gap["code"], gap["seq"], gap["temporary"]) == ("sequence_gap", 2, True)
        send(client, 2, 3, 4)
        assert await client.receive() == {"type": "ack", "payload": {"streamId": "s", "seq": 4}}
        gap = (await client.ask("streamEnd", {"lastSeq": 5}))["payload"]
        assert (gap["code"], gap["seq"]) == ("sequence_gap", 5)
        assert (await client.ask("streamEnd", {"lastSeq": 4}))["complete"]


@pytest.mark.parametrize("digest", ["0" * 64, None])
async def test_a_receipt_tells_whether_the_digests_agree(digest: str | None, autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        await begin(client)
        send(client, 1)
        await client.receive()
        receipt = await client.ask("streamEnd", {"lastSeq": 1, "digest": digest})
        assert receipt["complete"] is (digest is None)
        assert (await client.ask("endTestRun", {"runId": "r"}))["complete"] is (digest is None)


async def test_what_comes_twice_is_counted_acknowledged_and_stored_once(autojump_clock: trio.testing.MockClock):
    """P2: a `seq` that was taken is a duplicate."""
    async with running(MEMORY) as server, clients(server) as [client]:
        await begin(client)
        for seqs in ((1, 2), (1, 2), (2, 3)):
            send(client, *seqs)
            await client.receive()
        send(client, 1)
        assert await client.receive() == {"type": "ack", "payload": {"streamId": "s", "seq": 3}}
        receipt = await client.ask("streamEnd", {"lastSeq": 3})
        assert (receipt["accepted"], receipt["duplicates"]) == (3, 4)
        seqs = [event.wire["seq"] for event in await log_of(server.store) if "seq" in event.wire]
        assert seqs == [1, 2, 3]


async def log_of(store: Any) -> list[Any]:
    return [event for batch in await store.read("default", after=0, limit=10**6) for event in batch.events()]


async def test_an_event_without_a_seq_or_of_another_run_is_refused(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        await begin(client)
        client.send("event", {key: value for key, value in ended(1).items() if key != "seq"})
        refused = (await client.receive())["payload"]
        assert (refused["code"], "seq" in refused, refused["details"][0]["path"]) == ("invalid_event", False, "seq")
        client.send("event", ended(1, runId="other"))
        refused = (await client.receive())["payload"]
        assert (refused["code"], refused["seq"]) == ("invalid_event", 1)
        assert (await client.receive())["payload"]["seq"] == 1
        answer = (await client.ask("startTestRun", {"runId": "other"}))["payload"]
        assert answer["code"] == "stream_conflict"
        assert (await client.ask("startTestRun", {}))["runId"] == "r"


async def test_the_first_event_gives_a_stream_its_run(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        await client.ask("hello", {"streamId": "s"})
        refused = (await client.ask("streamEnd", {"lastSeq": 0}))["payload"]
        assert refused["code"] == "unknown_run"
        client.send("event", ended(1, runId="by-event"))
        await client.receive()
        assert (await client.ask("getRunStatus", {"runId": "by-event"}))["counts"]["passed"] == 1


async def test_a_known_stream_must_be_resumed_and_goes_on_where_it_stood(autojump_clock: trio.testing.MockClock):
    """P2: a process that counts from 1 again is not taken for one that has sent all that."""
    async with running(MEMORY) as server:
        async with clients(server) as [client]:
            await begin(client)
            client.send("event", {**ended(1), "type": "test/start"})
            await client.receive()
        async with clients(server) as [again]:
            refused = (await again.ask("hello", {"streamId": "s"}))["payload"]
            assert (refused["code"], refused["temporary"]) == ("stream_conflict", False)
            refused = (await again.ask("hello", {"streamId": "s", "resume": True, "runId": "x"}))["payload"]
            assert refused["code"] == "stream_conflict"
            assert (await again.ask("getRunStatus", {"runId": "r"}))["participants"][0]["state"] == "lost"
            await trio.sleep(4)
            welcome = await again.ask("hello", {"streamId": "s", "resume": True})
            assert (welcome["ackedSeq"], welcome["runId"]) == (1, "r")
            await heartbeats(again, 60)
            status = await again.ask("getRunStatus", {"runId": "r"})
            assert (status["participants"][0]["state"], status["counts"]["running"]) == ("active", 1)
            again.send("event", {**ended(2), "payload": {"testId": "t1", "status": "passed"}})
            await again.receive()
            assert (await again.ask("streamEnd", {"lastSeq": 2, "digest": digest_of(["e1", "e2"])}))["complete"]
            assert (await again.ask("getRunStatus", {"runId": "r"}))["status"] == "passed"


async def heartbeats(client: Client, seconds: int) -> None:
    for _ in range(seconds // 2):
        await trio.sleep(2)
        client.send("heartbeat")


async def test_exactly_the_open_tests_of_a_stream_that_stays_away_are_interrupted_and_healed(
    autojump_clock: trio.testing.MockClock,
):
    async with running(MEMORY) as server, clients(server) as [watcher]:
        await watcher.ask("startTestRun", {"runId": "r"})
        watcher.event("test/start", testId="another's")
        async with clients(server) as [client]:
            await begin(client)
            send(client, 1)
            client.send("event", {**ended(2), "type": "test/start"})
            await client.receive()
        await trio.sleep(4.9)
        counts = (await watcher.ask("getRunStatus", {"runId": "r"}))["counts"]
        assert (counts["running"], counts["interrupted"]) == (2, 0)
        await trio.sleep(0.2)
        status = await watcher.ask("getRunStatus", {"runId": "r"})
        assert [one["state"] for one in status["participants"]] == ["active", "gone"]
        assert status["counts"] | {"passed": 1, "running": 1, "interrupted": 1} == status["counts"]
        results = (await watcher.ask("getResults", {"runId": "r", "status": "interrupted"}))["results"]
        assert [one["testId"] for one in results] == ["t2"]
        async with clients(server) as [again]:
            assert (await begin(again, resume=True))["ackedSeq"] == 2
            counts = (await again.ask("getRunStatus", {"runId": "r"}))["counts"]
            assert (counts["running"], counts["interrupted"]) == (2, 0)
            again.send("event", {**ended(3), "payload": {"testId": "t2", "status": "passed"}})
            await again.receive()
            await again.ask("streamEnd", {"lastSeq": 3})
        ended_run = await watcher.ask("endTestRun", {"runId": "r", "force": True})
        assert (ended_run["counts"]["passed"], ended_run["status"]) == (2, "failed"), (
            "the watcher's own test was left open"
        )


async def test_late_events_of_a_finished_run_are_counted_and_change_no_verdict(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [watcher]:
        async with clients(server) as [client]:
            await begin(client)
            client.send("event", {**ended(1), "type": "test/start"})
            await client.receive()
        await trio.sleep(6)
        status = await watcher.ask("getRunStatus", {"runId": "r"})
        assert (status["status"], status["endReason"], status["complete"]) == ("interrupted", "lost", False)
        async with clients(server) as [again]:
            await begin(again, resume=True)
            again.send("event", {**ended(2), "payload": {"testId": "t1", "status": "passed"}})
            await again.receive()
            assert (await again.ask("streamEnd", {"lastSeq": 2}))["complete"]
        status = await watcher.ask("getRunStatus", {"runId": "r"})
        assert (status["status"], status["counts"]["passed"], status["counts"]["late"]) == ("interrupted", 1, 1)
        assert status["complete"], "all that was missing has come, and is proved"


async def test_a_newer_connection_takes_the_stream_and_the_older_one_is_told(autojump_clock: trio.testing.MockClock):
    """P3: a stream has one connection at a time."""
    async with running(MEMORY) as server, clients(server, 2) as [old, new]:
        await begin(old)
        send(old, 1)
        await old.receive()
        assert (await begin(new, resume=True))["ackedSeq"] == 1
        told = await old.receive()
        assert (told["type"], told["payload"]["code"]) == ("error", "stream_conflict")
        await trio.testing.wait_all_tasks_blocked()
        assert old.connection.closed == (4409, "the stream was resumed on another connection")
        send(new, 2)
        assert (await new.receive())["payload"]["seq"] == 2
        await heartbeats(new, 30)
        assert (await new.ask("getRunStatus", {"runId": "r"}))["participants"][0]["state"] == "active"


async def test_a_silent_stream_is_closed_and_lost_and_a_plain_client_may_be_silent(
    autojump_clock: trio.testing.MockClock,
):
    async with running(MEMORY) as server, clients(server, 2) as [client, plain]:
        await begin(client)
        await plain.ask("startTestRun", {"runId": "r"})
        await heartbeats(client, 20)
        await trio.sleep(4.5)
        assert client.connection.closed is None
        await trio.sleep(1)
        assert client.connection.closed == (1001, "nothing was heard for 5 s")
        status = await plain.ask("getRunStatus", {"runId": "r"})
        assert [one["state"] for one in status["participants"]] == ["lost", "active"]


async def test_a_temporary_refusal_stops_the_stream_until_it_is_sent_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
):
    """P3, P6: nothing later is taken in the place of what could not be stored."""

    async def fail(commit: Any) -> None:
        raise StorageFailedError("the disk is full")

    async with running(MEMORY) as server, clients(server, 2) as [client, other]:
        await begin(client)
        send(client, 1)
        await client.receive()
        with monkeypatch.context() as broken:
            broken.setattr(server.store, "append", fail)
            send(client, 2, 3)
            refused = (await client.receive())["payload"]
            assert (refused["code"], refused["seq"], refused["temporary"]) == ("storage_failed", 2, True)
            assert refused["retryAfterMs"] > 0
            send(client, 4)  # it follows what was not stored
        assert (await other.ask("getRunStatus", {"runId": "r"}))["counts"]["passed"] == 1, "reading goes on"
        send(client, 2, 3, 4)
        assert await client.receive() == {"type": "ack", "payload": {"streamId": "s", "seq": 4}}
        assert (await client.ask("streamEnd", {"lastSeq": 4, "digest": digest_of(["e1", "e2", "e3", "e4"])}))[
            "complete"
        ]


async def test_what_was_queued_behind_a_failed_commit_is_not_taken(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
):
    """P3: the second message is in the queue already when the first one's commit fails; it must not be taken."""
    async with running({**MEMORY, "server": {"max_commit_events": 2}}) as server, clients(server) as [client]:
        await begin(client)
        real, failures = server.store.append, [StorageFailedError("once")]

        async def fail_once(commit: Any) -> None:
            await trio.sleep(1)
            if failures:
                raise failures.pop()
            await real(commit)

        monkeypatch.setattr(server.store, "append", fail_once)
        send(client, 1, 2)
        send(client, 3, 4)
        refused = (await client.receive())["payload"]
        assert (refused["code"], refused["seq"]) == ("storage_failed", 1)
        send(client, 1, 2)
        send(client, 3, 4)
        assert [(await client.receive())["payload"]["seq"] for _ in range(2)] == [2, 4]
        assert [event.wire["seq"] for event in await log_of(server.store) if "seq" in event.wire] == [1, 2, 3, 4]


async def test_a_stream_survives_a_restart_with_its_counts_and_digest(tmp_path: Path):
    """P1, P2, P8: a stream goes on after a restart, and its receipt covers both halves."""
    tables = {"storage": {"use": "sqlite", "path": "x.db"}, "security": {"events": {"use": "event_validation"}}}
    async with running(tables, tmp_path) as server, clients(server) as [client]:
        await begin(client)
        client.send("events", {"events": [ended(1), {**ended(2), "payload": {}}, ended(3)]})
        await client.receive()
        assert (await client.receive())["payload"]["seq"] == 3
    async with running(tables, tmp_path) as server, clients(server) as [client]:
        assert (await begin(client, resume=True))["ackedSeq"] == 3
        send(client, 3, 4)
        assert (await client.receive())["payload"]["seq"] == 4
        receipt = await client.ask("streamEnd", {"lastSeq": 4, "digest": digest_of(["e1", "e2", "e3", "e4"])})
        assert (receipt["accepted"], receipt["refused"], receipt["duplicates"], receipt["complete"]) == (3, 1, 1, True)


async def test_hello_comes_first_and_once(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server, 2) as [one, other]:
        await begin(one)
        assert (await one.ask("hello", {"streamId": "s2"}))["payload"]["code"] == "invalid_message"
        await other.ask("startTestRun", {"runId": "r"})
        assert (await other.ask("hello", {"streamId": "s2"}))["payload"]["code"] == "invalid_message"


async def test_two_streams_of_one_run_make_it_whole_together(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server, 2) as pair:
        for number, client in enumerate(pair):
            await client.ask("hello", {"streamId": f"s{number}", "project": "web"})
            await client.ask("startTestRun", {"key": "build-1", "expect": 2, "project": "web"})
            client.send("event", {**ended(1), "id": f"e{number}"})
            await client.receive()
        run = (await pair[0].ask("getRuns", {"project": "web"}))["runs"][0]
        assert len(run["participants"]) == 2
        await pair[0].ask("streamEnd", {"lastSeq": 1})
        assert (await pair[1].ask("getRunStatus", {"runId": run["runId"]}))["status"] == "running"
        await pair[1].ask("streamEnd", {"lastSeq": 1})
        status = await pair[1].ask("getRunStatus", {"runId": run["runId"]})
        assert (status["status"], status["complete"]) == ("passed", True)


async def test_open_runs_and_tests_of_a_run_are_bounded(autojump_clock: trio.testing.MockClock):
    """P7: what is over a bound is refused, and room is made again."""
    limits = {"max_open_runs": 1, "max_run_tests": 2}
    async with running({**MEMORY, "server": limits}) as server, clients(server, 3) as [client, other, plain]:
        await begin(client)
        await other.ask("hello", {"streamId": "s2"})
        refused = (await other.ask("startTestRun", {"runId": "r2"}))["payload"]
        assert (refused["code"], refused["temporary"]) == ("overloaded", True)
        other.send("event", ended(1, runId="r2"))
        refused = (await other.receive())["payload"]
        assert (refused["code"], refused["seq"]) == ("overloaded", 1)
        refused = (await plain.ask("event", {"id": "p", "type": "x", "timestamp": 1, "payload": {}}))["payload"]
        assert (refused["code"], refused["eventId"]) == ("overloaded", "p")
        send(client, 1, 2, 3, 4)
        refusals = [(await client.receive())["payload"] for _ in range(2)]
        assert [(one["code"], one["seq"], one["temporary"]) for one in refusals] == [
            ("too_large", 3, False), ("too_large", 4, False),
        ]  # fmt: skip
        assert (await client.receive())["payload"]["seq"] == 4
        starts = [
            {**ended(5), "type": "test/start", "payload": {"testId": "t1"}},
            {**ended(6), "payload": {"testId": "t1"}},
        ]
        client.send("events", {"events": starts})
        assert (await client.receive())["payload"]["seq"] == 6, "of a test that is known, anything may come"
        await client.ask("streamEnd", {"lastSeq": 6})
        other.send("event", ended(1, runId="r2"))
        assert (await other.receive())["payload"]["seq"] == 1


async def test_a_test_that_begins_and_ends_in_one_message_counts_once(autojump_clock: trio.testing.MockClock):
    async with running({**MEMORY, "server": {"max_run_tests": 2}}) as server, clients(server) as [client]:
        await begin(client)
        both = [{**ended(seq), "type": kind, "payload": {"testId": f"t{(seq - 1) // 2}", "status": "passed"}}
                for seq, kind in enumerate(["test/start", "test/end"] * 3, 1)]  # fmt: skip
        client.send("events", {"events": both})
        refused = [(await client.receive())["payload"] for _ in range(2)]
        assert [(one["code"], one["seq"]) for one in refused] == [("too_large", 5), ("too_large", 6)]
        assert (await client.receive())["payload"]["seq"] == 6


async def test_projects_participants_and_attempts_are_bounded(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
):
    """P7: what a client can make as many of as it likes has a bound."""
    monkeypatch.setattr("testorch_core.transaction.MAX_ATTEMPTS", 3)
    limits = {"max_projects": 2, "max_participants": 2}
    async with running({**MEMORY, "server": limits}) as server, clients(server, 3) as [client, other, third]:
        await begin(client)
        attempts = [{**ended(n), "payload": {"testId": "t", "attempt": n, "status": "failed"}} for n in range(1, 6)]
        client.send("events", {"events": attempts})
        refused = [(await client.receive())["payload"] for _ in range(2)]
        assert [(one["code"], one["seq"]) for one in refused] == [("too_large", 4), ("too_large", 5)]
        await other.ask("startTestRun", {"runId": "r"})
        assert (await third.ask("startTestRun", {"runId": "r"}))["payload"]["code"] == "too_large"
        async with clients(server) as [late]:
            await late.ask("hello", {"streamId": "late", "runId": "r"})
            send(late, 1)
            refused_stream = (await late.receive())["payload"]
            assert (refused_stream["code"], refused_stream["temporary"]) == ("too_large", False)
            assert "seq" not in refused_stream, "it was not consumed: the stream has no place in the run"
        await third.ask("startTestRun", {"runId": "r", "project": "second"})
        assert (await third.ask("startTestRun", {"runId": "r", "project": "third"}))["payload"]["code"] == "overloaded"


async def test_nobody_else_may_resume_a_stream(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        await begin(client)
        send(client, 1)
        await client.receive()
        monkey = server.orchestrator.gate.authenticate

        async def somebody(handshake: Any) -> Any:
            return replace(await monkey(handshake), name="somebody")

        server.orchestrator.gate.authenticate = somebody  # type: ignore[method-assign]
        async with clients(server) as [stranger]:
            refused = (await stranger.ask("hello", {"streamId": "s", "resume": True}))["payload"]
            assert refused["code"] == "stream_conflict"
        assert client.connection.closed is None
        send(client, 2)
        assert (await client.receive())["payload"]["seq"] == 2


async def test_a_client_is_written_to_come_before_it_is_written_to_go(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server:
        for _ in range(20):
            async with clients(server):
                pass
        kinds = [event.type for event in await log_of(server.store)]
    assert kinds == ["system/client/connect", "system/client/disconnect"] * 20


async def test_a_test_that_was_cut_off_shows_what_it_said_last(autojump_clock: trio.testing.MockClock):
    """P8 and the product's second promise: the last output of exactly the test that the worker died in."""
    async with running(MEMORY) as server, clients(server) as [watcher]:
        await watcher.ask("startTestRun", {"runId": "r"})
        async with clients(server) as [client]:
            await begin(client)
            said = [
                {
                    **ended(seq),
                    "timestamp": seq,
                    "type": "test/output",
                    "payload": {"testId": "t", "text": f"line {seq}\n"},
                }
                for seq in range(2, 12)
            ]
            client.send("events", {"events": [{**ended(1), "type": "test/start", "payload": {"testId": "t"}}, *said]})
            await client.receive()
            shown = (await watcher.ask("getRunStatus", {"runId": "r"}))["running"]
            assert [one["lastOutput"] for one in shown] == ["line 8\nline 9\nline 10\nline 11\n"]
        await trio.sleep(6)
        status = await watcher.ask("getRunStatus", {"runId": "r"})
        assert status["running"] == []
        [cut_off] = status["interrupted"]
        assert cut_off["testId"] == "t"
        assert cut_off["lastOutput"].endswith("line 11\n")
        [result] = (await watcher.ask("getResults", {"runId": "r", "status": "interrupted"}))["results"]
        assert result["lastOutput"] == cut_off["lastOutput"]
        async with clients(server) as [again]:
            await begin(again, resume=True)
            assert "interrupted" not in await again.ask("getRunStatus", {"runId": "r"})
            again.send("event", {**ended(12), "payload": {"testId": "t", "status": "passed"}})
            await again.receive()
            [result] = (await again.ask("getResults", {"runId": "r"}))["results"]
            assert (result["status"], "lastOutput" in result) == ("passed", False)
            await again.ask("streamEnd", {"lastSeq": 12})
        verdict = await verify_run(server.store, "default", "r")
        assert verdict.differences == []


async def test_who_resumes_while_the_first_events_are_being_committed_is_told_of_them(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
):
    """P2: what the older connection was told of as acknowledged, the newer one is told of, too."""
    async with running(MEMORY) as server, clients(server, 2) as [old, new]:
        real = server.store.append

        async def slow(commit: Any) -> None:
            await trio.sleep(1)
            await real(commit)

        await old.ask("hello", {"streamId": "s", "runId": "r"})
        monkeypatch.setattr(server.store, "append", slow)
        send(old, 1)
        await trio.sleep(0.5)
        welcome = await new.ask("hello", {"streamId": "s", "runId": "r", "resume": True})
        assert (welcome["ackedSeq"], welcome["runId"]) == (1, "r")


async def test_of_participants_that_are_gone_nothing_is_kept_in_memory(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
):
    """P7: not even when the store could not keep the verdict at first."""

    async def fail(commit: Any) -> None:
        raise StorageFailedError("the disk is full")

    async with running(MEMORY) as server, clients(server) as [watcher]:
        async with clients(server) as [client]:
            await begin(client)
            send(client, 1)
            await client.receive()
        with monkeypatch.context() as broken:
            broken.setattr(server.store, "append", fail)
            await trio.sleep(8)
        await trio.sleep(2)
        assert (await watcher.ask("getRunStatus", {"runId": "r"}))["endReason"] == "lost"
        attendance = server.orchestrator.attendance
        assert (attendance._present, attendance._absences, attendance._holders) == ({}, {}, {})
