"""What the server says and writes, field by field, is in the reference: a conversation is had, and its words looked up."""

import re
from collections.abc import Mapping
from typing import Any

import trio
import trio.testing
from snippets import DOCS
from support import MEMORY, Client, clients, running

from testorch_core.events import AUDIT_PROJECT, PRESENCE_TYPES, RUN_DELETED, SERVER_TYPES
from testorch_core.interfaces.transport import Handshake
from testorch_core.orchestrator import FEATURES
from testorch_core.runs import ACTIVE, ENDED, GONE, LOST
from testorch_core.testing import FakeConnection

AUDIT_TYPES = {kind for kind in SERVER_TYPES if kind.startswith("system/audit/")}


def code_in(page: str) -> set[str]:
    """Every word between backquotes in a page's source; of `{a, b}` each."""
    quoted = re.findall(r"`([^`\n]+)`", (DOCS / page).read_text("utf-8"))
    return {word for one in quoted for word in (one, *re.findall(r"\w+", one))}


async def begin(client: Client, **more: Any) -> Mapping[str, Any]:
    welcome: Mapping[str, Any] = await client.ask("hello", {"streamId": "s", **more})
    return welcome


def event(seq: int, **payload: Any) -> dict[str, Any]:
    return {"id": f"e{seq}", "seq": seq, "type": "test/end", "timestamp": 1, "payload": payload}


async def eventful_run(client: Client, plain: Client, again: Client) -> list[Mapping[str, Any]]:
    """A run in which everything happens once; returns answers, in their order."""
    welcome = await begin(client)
    facts = {"runId": "r", "name": "n", "key": "k", "expect": 2, "metadata": {"a": 1}}
    await client.ask("startTestRun", facts)
    await plain.ask("startTestRun", {"key": "k"})
    await plain.ask("endTestRun", {"runId": "r"})
    client.send("events", {"events": [event(1, testId="t", status="passed"), event(2)]})
    error = (await client.receive())["payload"]
    ack = (await client.receive())["payload"]
    client.leave()
    await trio.sleep(1)
    await begin(again, resume=True)
    results = await again.ask("getResults", {"runId": "r", "limit": 1})
    runs = await again.ask("getRuns", {})
    receipt = await again.ask("streamEnd", {"lastSeq": 2})
    return [
        welcome,
        error,
        ack,
        runs,
        runs["runs"][0],
        *runs["runs"][0]["participants"],
        results,
        results["results"][0],
        receipt,
    ]


async def test_every_field_of_an_answer_and_of_the_servers_own_events_is_in_the_reference(
    autojump_clock: trio.testing.MockClock,
):
    async with running(MEMORY) as server, clients(server, 5) as [client, plain, again, other, watcher]:
        answers = await eventful_run(client, plain, again)
        await other.ask("startTestRun", {"key": "k"})
        await other.ask("cancelTestRun", {"runId": "r"})
        answers.append(await watcher.ask("subscribe", {"after": 0, "epoch": server.store.epoch}))
        published = (await watcher.receive())["payload"]
        answers += [published, *published["events"]]
        watcher.send("unsubscribe", {"subscriptionId": published["subscriptionId"]})
        while (message := await watcher.receive())["type"] == "published":
            pass
        answers.append(message["payload"])
    shown = code_in("reference/protocol.md")
    assert {name for one in answers for name in one} - {"timestamp"} - shown == set()
    assert {ACTIVE, LOST, GONE, ENDED, *FEATURES} - shown == set()
    told = {one["type"]: one["payload"] for one in published["events"] if one["type"] in SERVER_TYPES | PRESENCE_TYPES}
    expected = (SERVER_TYPES | PRESENCE_TYPES) - AUDIT_TYPES - {RUN_DELETED}
    assert told.keys() == expected, "whatever the server can write has happened"
    documented = code_in("reference/events.md")
    assert {name for payload in told.values() for name in payload} - documented == set()


async def test_every_field_of_the_audit_trail_is_in_the_reference():
    tables = {**MEMORY, "security": {"tokens": {"use": "token_auth"}}}
    async with running(tables) as server, trio.open_nursery() as nursery:
        made = await server.administer("token create", {"name": "reader", "scopes": ["observe"]})
        for token in (made["token"], "unknown"):
            connection = FakeConnection(Handshake(address="192.0.2.1", transport="fake", token=token))
            connection.feed({"type": "startTestRun", "payload": {}})
            nursery.start_soon(server.serve_connection, connection)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await server.orchestrator.audit.flush()
        batches = await server.store.read(AUDIT_PROJECT, after=0, limit=100)
        told = [wire for batch in batches for wire in batch.wires()]
        nursery.cancel_scope.cancel()
    assert {one["type"] for one in told} == AUDIT_TYPES
    assert {name for one in told for name in one["payload"]} - code_in("reference/events.md") == set()


def test_only_what_stands_in_backquotes_counts():
    assert "{runs, cursor}" in code_in("reference/protocol.md")
    assert "cumulative" not in code_in("reference/protocol.md")
