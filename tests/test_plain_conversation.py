"""The plain conversation of the protocol, message by message, over connections in memory and in virtual time."""

import json

import pytest
import trio
from support import MEMORY, clients, running

SMALL = {**MEMORY, "server": {"max_message_bytes": 2000}}


async def test_the_seed_conversation_is_answered_as_it_says(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        started = await client.ask("startTestRun", {"name": "nightly"})
        assert (started["status"], started["name"], started["project"]) == ("running", "nightly", "default")
        client.event("test/suite/start", suiteId="s1")
        client.event("test/start", testId="test-1", testName="Login Test")
        (active,) = await client.ask("getActiveRuns")
        assert active["runId"] == started["runId"]
        assert active["counts"]["running"] == 1
        assert active["running"][0]["testName"] == "Login Test"
        client.event("test/end", testId="test-1", status="passed", durationMs=12)
        client.event("test/suite/end", suiteId="s1")
        status = await client.ask("getRunStatus", {"runId": started["runId"]})
        assert status["counts"] | {"passed": 1, "total": 1} == status["counts"]
        ended = await client.ask("endTestRun", {"runId": started["runId"]})
        assert (ended["status"], ended["complete"]) == ("passed", True)
        assert await client.ask("getActiveRuns") == []
        statistics = await client.ask("getStatistics")
        assert (statistics["runs"], statistics["tests"], statistics["passRate"]) == (1, 1, 1.0)
        assert statistics["connectedClients"] == 1


async def test_a_requests_id_comes_back_as_in_reply_to(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        client.send("getActiveRuns", id=7)
        assert await client.receive() == {"type": "activeRuns", "payload": [], "inReplyTo": 7}
        client.send("getRunStatus", {"runId": "no"}, id="x")
        answer = await client.receive()
        assert (answer["type"], answer["payload"]["code"], answer["inReplyTo"]) == ("error", "unknown_run", "x")


async def test_an_event_without_a_run_opens_an_implicit_one_that_ends_with_the_connection(
    autojump_clock: trio.testing.MockClock,
):
    async with running(MEMORY) as server:
        async with clients(server) as [client]:
            client.event("test/start", testId="t")
            (run,) = await client.ask("getActiveRuns")
        async with clients(server) as [other]:
            ended = await other.ask("getRunStatus", {"runId": run["runId"]})
    assert (ended["status"], ended["complete"], ended["endReason"]) == ("failed", False, "disconnected")
    assert ended["counts"]["interrupted"] == 1


async def test_an_event_that_names_an_unknown_run_opens_it(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        client.event("test/start", testId="t", runId="mine")
        status = await client.ask("getRunStatus", {"runId": "mine"})
        assert status["counts"]["running"] == 1


async def test_the_inner_payloads_run_counts_and_must_agree_with_the_envelopes(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        client.send(
            "event", {"id": "a", "type": "test/start", "timestamp": 1, "payload": {"testId": "t", "runId": "in"}}
        )
        assert (await client.ask("getRunStatus", {"runId": "in"}))["counts"]["total"] == 1
        event = {
            "id": "b",
            "type": "test/start",
            "timestamp": 1,
            "runId": "out",
            "payload": {"testId": "t", "runId": "in"},
        }
        refused = await client.ask("event", event)
        assert (refused["payload"]["code"], refused["payload"]["eventId"]) == ("invalid_event", "b")


async def test_shards_that_name_one_key_become_one_run_that_ends_with_the_last(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server, 2) as [one, two]:
        first = await one.ask("startTestRun", {"key": "build-7", "name": "web"})
        second = await two.ask("startTestRun", {"key": "build-7"})
        assert second["runId"] == first["runId"]
        one.event("test/end", testId="a", status="passed")
        two.event("test/end", id="other", testId="b", status="failed")
        assert (await one.ask("endTestRun", {"runId": first["runId"]}))["status"] == "running"
        ended = await two.ask("endTestRun", {"runId": first["runId"]})
        assert (ended["status"], ended["complete"], ended["counts"]["total"]) == ("failed", True, 2)
        again = await one.ask("startTestRun", {"key": "build-7"})
        assert again["previousRunId"] == first["runId"]
        refused = await one.ask("startTestRun", {"runId": first["runId"]})
        assert refused["payload"]["code"] == "run_finished"


async def test_a_run_that_expects_two_waits_for_the_second_but_not_for_ever(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        run = await client.ask("startTestRun", {"expect": 2})
        assert (await client.ask("endTestRun", {"runId": run["runId"]}))["status"] == "running"
        await trio.sleep(301)
        ended = await client.ask("getRunStatus", {"runId": run["runId"]})
        assert (ended["status"], ended["complete"], ended["endReason"]) == ("passed", False, "joinTimeout")


async def test_a_run_that_is_forced_to_its_end_is_complete_only_if_everybody_had_ended(
    autojump_clock: trio.testing.MockClock,
):
    async with running(MEMORY) as server, clients(server) as [client]:
        run = await client.ask("startTestRun", {"expect": 3})
        ended = await client.ask("endTestRun", {"runId": run["runId"], "force": True})
    assert (ended["status"], ended["complete"], ended["endReason"]) == ("passed", False, "forced")


async def test_a_client_that_vanishes_has_a_grace_and_then_its_run_is_interrupted(
    autojump_clock: trio.testing.MockClock,
):
    async with running(MEMORY) as server:
        async with clients(server) as [client]:
            run = await client.ask("startTestRun", {})
            client.event("test/start", testId="open")
            client.event("test/end", testId="done", status="passed")
        await trio.sleep(4.9)
        async with clients(server) as [other]:
            assert (await other.ask("getRunStatus", {"runId": run["runId"]}))["status"] == "running"
            await trio.sleep(0.2)
            ended = await other.ask("getRunStatus", {"runId": run["runId"]})
    assert (ended["status"], ended["complete"], ended["endReason"]) == ("interrupted", False, "lost")
    assert ended["counts"] | {"interrupted": 1, "passed": 1, "total": 2} == ended["counts"]


async def test_the_same_event_again_changes_nothing_and_other_content_is_a_conflict(
    autojump_clock: trio.testing.MockClock,
):
    """P2: a plain event is known by its run and its id."""
    async with running(MEMORY) as server, clients(server) as [client]:
        run = await client.ask("startTestRun", {})
        for _ in range(3):
            client.event("test/end", id="same", testId="t", status="passed")
        before = await client.ask("getRunStatus", {"runId": run["runId"]})
        assert before["events"] == 2, "the run's start and one event"
        refused = await client.ask(
            "event", {"id": "same", "type": "test/end", "timestamp": 5, "payload": {"testId": "t"}}
        )
        assert (refused["payload"]["code"], refused["payload"]["eventId"]) == ("conflict", "same")
        after = await client.ask("getRunStatus", {"runId": run["runId"]})
        assert after["refused"] == {"conflict": 1}
        assert [(one["eventId"], one["code"]) for one in after["refusals"]] == [("same", "conflict")]
        changed = {"refused", "refusals", "events", "offset"}
        assert {key: after[key] for key in after if key not in changed} == {
            key: before[key] for key in before if key not in changed
        }


async def test_one_bad_event_of_a_batch_is_refused_and_the_others_are_taken(autojump_clock: trio.testing.MockClock):
    """P5: one bad event costs only itself."""
    good = {"id": "g", "type": "test/end", "timestamp": 1, "payload": {"testId": "t", "status": "passed"}}
    async with running(MEMORY) as server, clients(server) as [client]:
        run = await client.ask("startTestRun", {})
        nul = {"id": "n", "type": "test/output", "timestamp": 1, "payload": {"testId": "t", "text": "a\x00b"}}
        client.send("events", {"events": [good, 3, {**good, "id": "b", "payload": {"status": "passed"}}, nul]})
        refused = [(await client.receive())["payload"] for _ in range(3)]
        assert [one.get("eventId") for one in refused] == [None, "b", "n"]
        assert {one["code"] for one in refused} == {"invalid_event"}
        assert refused[1]["policy"] == "events"
        assert "NUL" in refused[2]["message"]
        assert (await client.ask("getRunStatus", {"runId": run["runId"]}))["counts"]["passed"] == 1


@pytest.mark.parametrize("kind", ["run/end", "stream/lost", "system/client/connect"])
async def test_what_the_server_writes_itself_a_client_may_not(kind: str, autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        client.event(kind)
        assert (await client.receive())["payload"]["message"] == f"type: `{kind}` is written by the server alone"


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        ("{", "invalid_json", "not JSON"),
        ("[]", "invalid_message", "a message is an object with a `type`"),
        ('{"type": 3}', "invalid_message", "a message is an object with a `type`"),
        ('{"type": "startTestrun"}', "unknown_type", "did you mean `startTestRun`?"),
        ('{"type": "nonsense"}', "unknown_type", "known: `cancelTestRun`"),
        ('{"type": "getRunStatus"}', "invalid_message", "payload.runId: missing data for required field"),
        ('{"type": "getRunStatus", "payload": []}', "invalid_message", "payload: invalid input type"),
        ('{"type": "startTestRun", "payload": {"runId": 5}}', "invalid_message", "payload.runId: not a valid string"),
        ('{"type": "endTestRun"}', "invalid_message", "`runId` is required"),
        ('{"type": "event"}', "invalid_event", "invalid input type"),
        ('{"type": "startTestRun", "payload": {"name": "\\u0000"}}', "invalid_json", "NUL"),
        (b"\xff\xfe", "invalid_json", "not JSON"),
        ("\ud800", "invalid_json", "lone surrogate"),
        ('"' + "x" * 2000 + '"', "too_large", "2002 bytes; at most 2000"),
        ('{"type": "event", "payload": ' + "[" * 80 + "]" * 80 + "}", "invalid_event", "invalid input type"),
        (
            '{"type": "getStatistics", "payload": {"x": ' + "[" * 80 + "]" * 80 + "}}",
            "invalid_json",
            "nested deeper than 64",
        ),
    ],
)
async def test_bad_input_gets_a_clear_error_and_the_connection_goes_on(
    raw: str | bytes, code: str, words: str, autojump_clock: trio.testing.MockClock
):
    """P5: bad input costs its sender an answer."""
    async with running(SMALL) as server, clients(server) as [client]:
        client.connection.feed(raw)
        answer = await client.receive()
        assert (answer["type"], answer["payload"]["code"]) == ("error", code)
        assert words in answer["payload"]["message"]
        assert len(json.dumps(answer)) < 4096
        assert await client.ask("getActiveRuns") == []
        assert (await client.ask("getStatistics"))["refusals"] == {code: 1}


async def test_every_client_is_written_to_the_log_when_it_comes_and_when_it_goes(
    autojump_clock: trio.testing.MockClock,
):
    async with running(MEMORY) as server:
        async with clients(server):
            pass
        batches = await server.store.read("default", after=0, limit=100)
        log = [event for batch in batches for event in batch.events()]
    assert [(one.type, one.run_id, one.offset) for one in log] == [
        ("system/client/connect", None, 1),
        ("system/client/disconnect", None, 2),
    ]
    assert log[0].payload["address"] == "memory"
    assert log[0].payload["connection"] == log[1].payload["connection"]


async def test_cancelling_a_run_interrupts_it_at_once(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        run = await client.ask("startTestRun", {})
        ended = await client.ask("cancelTestRun", {"runId": run["runId"], "reason": "enough"})
        assert (ended["status"], ended["complete"], ended["endReason"]) == ("interrupted", False, "enough")


async def test_projects_are_logs_of_their_own(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        web = await client.ask("startTestRun", {"project": "web", "runId": "r"})
        api = await client.ask("startTestRun", {"project": "api", "runId": "r"})
        assert (web["offset"], api["offset"]) == (1, 1)
        client.event("test/end", testId="t", status="failed")
        assert (await client.ask("getRunStatus", {"runId": "r", "project": "web"}))["counts"]["total"] == 0
        assert (await client.ask("getRunStatus", {"runId": "r"}))["counts"]["total"] == 1
        assert [one["project"] for one in await client.ask("getActiveRuns", {"project": "web"})] == ["web"]


async def test_a_draining_server_answers_what_has_arrived_and_closes_with_1012(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server) as [client]:
        await client.ask("startTestRun", {"runId": "r"})
        client.event("test/end", testId="t", status="passed")
        client.send("getRunStatus", {"runId": "r"})
        server.stop()
        answer = await client.receive()
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
    assert answer["payload"]["counts"]["passed"] == 1
    assert client.connection.closed == (1012, "the server is stopping")
