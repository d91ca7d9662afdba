"""Subscriptions: live and history without a hole, filters, laggards. In memory, in virtual time."""

from typing import Any

import pytest
import trio
import trio.testing
from support import MEMORY, SOCKET, Client, clients, hear, running, say, socket_client

from testorch_core import tail


def offsets(message: Any) -> list[int]:
    assert message["type"] == "published"
    return [event["offset"] for event in message["payload"]["events"]]


async def collect(client: Client, until: int) -> list[Any]:
    """All published events, until the cursor has reached an offset."""
    events: list[Any] = []
    while True:
        message = await client.receive()
        events += message["payload"]["events"]
        if message["payload"]["offset"] >= until:
            return events


async def test_a_subscriber_of_a_run_gets_its_history_and_what_comes_live(autojump_clock: trio.testing.MockClock):
    """P4: history and live events are one log."""
    async with running(MEMORY) as server, clients(server, 2) as [client, watcher]:
        await client.ask("startTestRun", {"runId": "r"})
        client.event("test/start", testId="a")
        status = await client.ask("getRunStatus", {"runId": "r"})
        opened = await watcher.ask("subscribe", {"runId": "r", "after": 0})
        assert opened == {
            "subscriptionId": opened["subscriptionId"],
            "offset": 0,
            "recovered": True,
            "epoch": server.store.epoch,
        }
        history = await collect(watcher, status["offset"])
        assert [event["type"] for event in history] == ["run/start", "test/start"]
        client.event("test/start", runId="another", testId="x")
        client.event("test/end", testId="a", status="passed")
        message = await watcher.receive()
        assert message["payload"]["subscriptionId"] == opened["subscriptionId"]
        [live] = message["payload"]["events"]
        assert (live["type"], live["payload"]["testId"], live["runId"]) == ("test/end", "a", "r")
        assert live["id"] == "e3"
        assert live["receivedAt"] > 0
        assert live["source"]["principal"] == "anonymous"


async def test_a_filter_hides_types_and_the_cursor_still_moves(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server, 2) as [client, watcher]:
        await watcher.ask("subscribe", {"types": ["test/end"]})
        await client.ask("startTestRun", {"runId": "r"})
        client.event("test/start", testId="a")
        client.event("test/end", testId="a", status="passed")
        assert [event["type"] for event in (await watcher.receive())["payload"]["events"]] == ["test/end"]
        await trio.sleep(3)
        client.event("test/output", testId="a", text="late")
        moved = (await watcher.receive())["payload"]
        assert moved["events"] == []
        assert moved["offset"] == (await client.ask("getRunStatus", {"runId": "r"}))["offset"]


async def test_a_project_is_recovered_by_its_epoch_and_never_in_part(autojump_clock: trio.testing.MockClock):
    """P4: a cursor of another log is told from one of this."""
    async with running(MEMORY) as server, clients(server, 2) as [client, watcher]:
        await client.ask("startTestRun", {"runId": "r"})
        epoch, head = server.store.epoch, server.orchestrator.head_of("default")
        for asked, recovered, offset in (
            ({}, True, head),
            ({"after": 1, "epoch": epoch}, True, 1),
            ({"after": 1, "epoch": "another"}, False, head),
            ({"after": 1}, False, head),
            ({"after": head + 1, "epoch": epoch}, False, head),
            ({"runId": "r", "after": 1}, True, 1),
            ({"runId": "unknown", "after": 1}, False, head),
        ):
            opened = await watcher.ask("subscribe", asked)
            assert (opened["recovered"], opened["offset"]) == (recovered, offset), asked
            watcher.send("unsubscribe", {"subscriptionId": opened["subscriptionId"]})
            while (answer := await watcher.receive())["type"] == "published":
                pass
            assert answer["payload"]["subscriptionId"] == opened["subscriptionId"]


async def test_an_ended_subscription_says_nothing_more(autojump_clock: trio.testing.MockClock):
    async with running(MEMORY) as server, clients(server, 2) as [client, watcher]:
        opened = await watcher.ask("subscribe", {"runId": "r"})
        await watcher.ask("unsubscribe", {"subscriptionId": opened["subscriptionId"]})
        await client.ask("startTestRun", {"runId": "r"})
        await trio.sleep(10)
        answer = (await watcher.ask("unsubscribe", {"subscriptionId": opened["subscriptionId"]}))["payload"]
        assert answer["code"] == "invalid_message"


async def test_subscriptions_of_a_connection_are_bounded(autojump_clock: trio.testing.MockClock):
    """P7: one more is refused."""
    async with running({**MEMORY, "server": {"max_subscriptions": 2}}) as server, clients(server) as [watcher]:
        for _ in range(2):
            await watcher.ask("subscribe", {"runId": "r"})
        assert (await watcher.ask("subscribe", {"runId": "r"}))["payload"]["code"] == "overloaded"


@pytest.mark.parametrize("kept_bytes", [1, 8 * 1024 * 1024])
async def test_a_slow_subscriber_lags_and_misses_nothing(
    kept_bytes: int, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
):
    """P4: with a tail of one byte every page comes from the store; with the ordinary one, most from memory."""
    monkeypatch.setattr(tail, "TAIL_BYTES", kept_bytes)
    monkeypatch.setattr(tail, "PAGE_EVENTS", 7)
    async with running(MEMORY) as server, clients(server, 3) as [client, slow, quick]:
        for watcher in (slow, quick):
            await watcher.ask("subscribe", {"runId": "r", "after": 0})
        await client.ask("startTestRun", {"runId": "r"})
        for number in range(100):
            client.event("test/start", testId=f"t{number}")
            if number % 10 == 0:
                await client.ask("getRunStatus", {"runId": "r"})
        head = (await client.ask("getRunStatus", {"runId": "r"}))["offset"]
        for watcher in (quick, slow):
            seen = [event["offset"] for event in await collect(watcher, head)]
            assert seen == sorted(set(seen)), "in order, nothing twice"
            assert len(seen) == 101, "the run's start and every event"


async def test_a_subscription_of_a_run_that_does_not_exist_yet_sees_its_first_event(
    autojump_clock: trio.testing.MockClock,
):
    async with running(MEMORY) as server, clients(server, 2) as [client, watcher]:
        assert (await watcher.ask("subscribe", {"runId": "r"}))["recovered"] is False
        await client.ask("startTestRun", {"runId": "r"})
        assert [event["type"] for event in (await watcher.receive())["payload"]["events"]] == ["run/start"]


async def test_over_a_socket_history_and_live_events_join_without_a_hole():
    """P4: the same with a real socket."""
    async with (
        running({**MEMORY, **SOCKET}) as server,
        socket_client(server) as client,
        socket_client(server) as watcher,
    ):
        await say(client, "startTestRun", {"runId": "r"})
        await hear(client)
        seen: list[int] = []
        await say(watcher, "subscribe", {"runId": "r", "after": 0})
        await hear(watcher)
        for number in range(300):
            event = {"id": f"e{number}", "type": "test/start", "timestamp": 1, "payload": {"testId": f"t{number}"}}
            await say(client, "event", event)
        await say(client, "getRunStatus", {"runId": "r"})
        head = (await hear(client))["payload"]["offset"]
        while not seen or seen[-1] < head:
            seen += offsets(await hear(watcher))
        assert len(seen) == 301
        assert seen == sorted(set(seen))
