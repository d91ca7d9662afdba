"""Every message, tried by everybody who should not: nothing is answered, stored or revealed that shouldn't be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from support import MEMORY, running
from transports.wire import Wire, message

from testorch_core.errors import ConnectionClosedError, UsageError
from testorch_core.events import Source
from testorch_core.interfaces.transport import Handshake
from testorch_core.router import KNOWN_TYPES
from testorch_core.server import Server
from testorch_core.testing import FakeConnection

SECURITY = {"tokens": {"use": "token_auth"}, "events": {"use": "event_validation"}}
ACL = {
    "use": "acl",
    "rules": [
        {"allow": ["*"], "principals": ["writer", "reader", "foreign", "admin"], "projects": ["web"]},
        {"allow": ["*"], "principals": ["admin"], "projects": ["_audit"]},
        {"allow": ["*"], "principals": ["foreign"], "projects": ["other"]},
    ],
}
TABLES: dict[str, Any] = {**MEMORY, "security": {**SECURITY, "acl": ACL}}

EVENT = {
    "id": "secret-event",
    "type": "test/end",
    "timestamp": 5,
    "payload": {"testId": "secret-test", "status": "passed"},
}
MESSAGES: dict[str, Any] = {
    "event": {**EVENT, "runId": "secret", "project": "web"},
    "events": {"events": [{**EVENT, "runId": "secret", "project": "web"}]},
    "hello": {"streamId": "s", "runId": "secret", "project": "web"},
    "startTestRun": {"runId": "new", "project": "web"},
    "endTestRun": {"runId": "secret", "project": "web", "force": True},
    "cancelTestRun": {"runId": "secret", "project": "web"},
    "getActiveRuns": {"project": "web"},
    "getRunStatus": {"runId": "secret", "project": "web"},
    "getRuns": {"project": "web"},
    "getResults": {"runId": "secret", "project": "web"},
    "getHistory": {"testId": "secret-test", "project": "web"},
    "getStatistics": {"project": "web"},
    "subscribe": {"runId": "secret", "project": "web", "after": 0},
    "unsubscribe": {"subscriptionId": "none"},
    "streamEnd": {"lastSeq": 1},
    "getTicket": {},
    "heartbeat": {},
}
INGEST = {"event", "events", "startTestRun", "endTestRun", "cancelTestRun", "streamEnd"}
OBSERVE = {"getActiveRuns", "getRunStatus", "getRuns", "getResults", "getHistory", "getStatistics", "subscribe"}
WITHOUT_SCOPE = {"hello", "unsubscribe", "getTicket", "heartbeat"}
"""What a principal may say whatever its scopes. `hello` opens a stream, in which it then may or may not report."""


def test_the_table_has_every_message():
    assert set(MESSAGES) == KNOWN_TYPES == INGEST | OBSERVE | WITHOUT_SCOPE


class House:
    """A server with tokens, one run that is nobody's business, and clients with whatever they show."""

    def __init__(self, server: Server, nursery: trio.Nursery) -> None:
        self.server = server
        self._nursery = nursery

    async def token(
        self, name: str, *scopes: str, projects: list[str] | None = None, seconds: float | None = None
    ) -> str:
        arguments = {"name": name, "scopes": list(scopes), "projects": projects, "expiresInSeconds": seconds}
        return str((await self.server.administer("token create", arguments))["token"])

    def client(self, token: str | None = None, **facts: Any) -> FakeConnection:
        known = {"address": "192.0.2.1", **facts}
        connection = FakeConnection(Handshake(transport="fake", token=token, **known))
        self._nursery.start_soon(self.server.serve_connection, connection)
        return connection

    async def secrets(self) -> tuple[Any, ...]:
        """What must not change: the log of the project, its runs, and the secret run."""
        status = await self.server.orchestrator.query_run("web", "secret")
        return self.server.orchestrator.head_of("web"), status.payload()


@asynccontextmanager
async def house(tables: dict[str, Any] = TABLES) -> AsyncIterator[House]:
    async with running(tables) as server, trio.open_nursery() as nursery:
        one = House(server, nursery)
        writer = one.client(await one.token("writer", "ingest", "observe"))
        writer.feed(
            {"type": "startTestRun", "payload": {"runId": "secret", "project": "web"}},
            {
                "type": "event",
                "payload": {**EVENT, "id": "first", "payload": {"testId": "secret-test", "status": "failed"}},
            },
            {"type": "getRunStatus", "payload": {"runId": "secret"}},
        )
        with trio.fail_after(5):
            while writer.sent[-1:] == [] or writer.sent[-1]["type"] != "runStatus":
                await trio.lowlevel.checkpoint()
        yield one
        writer.hang_up()
        nursery.cancel_scope.cancel()


async def answers(connection: FakeConnection, kind: str, payload: Any) -> list[Any]:
    """All that a client gets for one message: the answers, and the close code if it is closed upon."""
    connection.feed({"type": kind, "payload": payload})
    await trio.testing.wait_all_tasks_blocked(0.01)
    return [*connection.sent, *([connection.closed_with] if connection.closed_with else [])]


def reveals(found: list[Any]) -> bool:
    return any(
        word in str(found) for word in ("secret-test", "secret-event", "'counts'", "'runs'", "'results'", "published")
    )


async def strangers(one: House) -> dict[str, str | None]:
    """Whom the server must not know, each with what it shows."""
    expired = await one.token("expired", "ingest", "observe", seconds=0.000001)
    revoked = await one.token("revoked", "ingest", "observe")
    await one.server.administer("token revoke", {"token": "revoked"})
    good = await one.token("good", "ingest", "observe")
    return {
        "nothing": None, "a wrong token": "tot_" + "x" * 49, "an expired token": expired, "a revoked token": revoked,
        "half a token": good[:-1], "an empty token": "", "another case": good.swapcase(), "a longer one": good + " ",
    }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(MESSAGES))
async def test_a_stranger_is_told_nothing_but_that_it_is_one(kind: str):
    """The same answer for all, and nothing stored."""
    async with house() as one:
        shown = await strangers(one)
        before = await one.secrets()
        told = {}
        for number, (who, token) in enumerate(shown.items()):
            told[who] = await answers(one.client(token, address=f"192.0.2.{number}"), kind, MESSAGES[kind])
        assert set(map(str, told.values())) == {str([(4401, "unauthenticated")])}
        assert await one.secrets() == before


@pytest.mark.parametrize("kind", sorted(MESSAGES))
async def test_who_is_of_another_project_learns_nothing_of_this_one(kind: str):
    async with house() as one:
        before = await one.secrets()
        foreign = await one.token("foreign", "ingest", "observe", projects=["other"])
        found = await answers(one.client(foreign), kind, MESSAGES[kind])
        asked_about_nothing = kind in {"unsubscribe", "getTicket", "heartbeat", "streamEnd"}
        if not asked_about_nothing:
            assert [one["payload"]["code"] for one in found] == ["forbidden"]
        assert not reveals(found)
        assert await one.secrets() == before


@pytest.mark.parametrize("kind", sorted(INGEST | OBSERVE))
async def test_the_answer_does_not_tell_whether_a_foreign_run_exists(kind: str):
    async with house() as one:
        told = []
        for run_id in ("secret", "nothing"):
            foreign = await one.token("foreign", "ingest", "observe", projects=["other"])
            payload = {**MESSAGES[kind], **({"runId": run_id} if "runId" in MESSAGES[kind] else {})}
            told.append(str(await answers(one.client(foreign), kind, payload)).replace(run_id, "RUN"))
        assert told[0] == told[1]


@pytest.mark.parametrize("kind", sorted(INGEST))
async def test_who_may_only_look_changes_nothing(kind: str):
    async with house() as one:
        before = await one.secrets()
        reader = await one.token("reader", "observe")
        found = await answers(one.client(reader), kind, MESSAGES[kind])
        codes = [one["payload"]["code"] for one in found]
        assert codes == (["invalid_message"] if kind == "streamEnd" else ["forbidden"])
        assert await one.secrets() == before


@pytest.mark.parametrize("kind", sorted(OBSERVE))
async def test_who_may_only_report_sees_nothing(kind: str):
    async with house() as one:
        blind = await one.token("writer", "ingest")
        found = await answers(one.client(blind), kind, MESSAGES[kind])
        assert [one["payload"]["code"] for one in found] == ["forbidden"]


@pytest.mark.parametrize("kind", sorted(INGEST | OBSERVE))
async def test_whom_no_rule_allows_may_nothing(kind: str):
    """Default deny, once there are rules; the refusal names the policy."""
    async with house() as one:
        before = await one.secrets()
        other = await one.token("nobody-in-particular", "ingest", "observe")
        found = await answers(one.client(other), kind, MESSAGES[kind])
        codes = [(one["payload"]["code"], one["payload"].get("policy")) for one in found]
        assert codes == ([("invalid_message", None)] if kind == "streamEnd" else [("forbidden", "acl")])
        assert await one.secrets() == before


async def test_a_streams_events_are_refused_to_who_may_only_look():
    async with house() as one:
        before = await one.secrets()
        reader = one.client(await one.token("reader", "observe"))
        reader.feed({"type": "hello", "payload": {"streamId": "s", "runId": "secret", "project": "web"}})
        found = await answers(reader, "event", {**EVENT, "runId": "secret", "project": "web", "seq": 1})
        assert [one["payload"]["code"] for one in found] == ["forbidden", "forbidden"]
        assert await one.secrets() == before


async def test_a_stream_that_no_rule_allows_is_closed_and_leaves_nothing():
    """Not even the note that it was refused: its run would have been opened by it."""
    async with house() as one:
        before = await one.secrets()
        stranger = one.client(await one.token("nobody-in-particular", "ingest"))
        stranger.feed({"type": "hello", "payload": {"streamId": "s", "project": "web"}})
        found = await answers(stranger, "event", {**EVENT, "runId": "forged", "seq": 1})
        assert found[-1] in ((4403, "forbidden: the access rules do not allow this"), found[0])
        assert "forged" not in str(one.server.orchestrator.snapshot())
        assert await one.secrets() == before


RUNS = {
    "use": "acl",
    "rules": [{"deny": ["report"], "projects": ["web"], "runs": ["release-*"]}, {"allow": ["*"], "projects": ["web"]}],
}


async def test_a_run_that_is_closed_to_a_client_can_be_reached_by_no_detour():
    """Not by the first event of a stream, not by a key, not by the run in a payload."""
    async with house({**MEMORY, "security": {**SECURITY, "acl": RUNS}}) as one:
        token = await one.token("writer", "ingest", "observe", projects=["web"])
        stream = one.client(token)
        stream.feed({"type": "hello", "payload": {"streamId": "s", "project": "web"}})
        found = await answers(stream, "event", {**EVENT, "runId": "release-1", "seq": 1})
        assert found[-1] == (4403, "forbidden: the access rules do not allow this")
        inner = {**EVENT, "id": "inner", "payload": {**EVENT["payload"], "runId": "release-2"}}
        assert (await answers(one.client(token), "event", inner))[-1]["payload"]["code"] == "forbidden"
        request = {"runId": "release-3", "key": "k", "project": "web"}
        await one.server.orchestrator.start_run("web", request, participant="p", source=Source("p"))
        joined = await answers(one.client(token), "startTestRun", {"key": "k", "project": "web"})
        assert [one["payload"]["code"] for one in joined] == ["forbidden"]
        assert {run for _, run in one.server.orchestrator.snapshot()} == {"secret", "release-3"}


async def test_questions_that_name_no_project_tell_of_none_that_is_closed():
    tables = {**MEMORY, "security": {**SECURITY, "acl": {
        "use": "acl", "rules": [{"allow": ["*"], "principals": ["viewer"], "projects": ["default", "other"]},
                                {"allow": ["*"], "principals": ["writer"], "projects": ["*"]}]}}}  # fmt: skip
    async with house(tables) as one:
        viewer = await one.token("viewer", "observe")
        for kind in ("getActiveRuns", "getRuns", "getStatistics"):
            found = await answers(one.client(viewer), kind, {})
            assert not reveals(found) or found[0]["payload"] == [], (kind, found)
            assert "secret" not in str(found)


async def test_events_of_a_batch_are_each_asked_about_by_their_own_project():
    """A project in the envelope must not slip past the rules for the connection's own."""
    async with house() as one:
        before = await one.secrets()
        token = await one.token("foreign", "ingest", "observe")
        events = [
            {**EVENT, "id": "a", "project": "other", "runId": "mine"},
            {**EVENT, "id": "b", "project": "_audit", "runId": "x"},
        ]
        found = await answers(one.client(token), "events", {"events": events})
        assert [one["payload"]["code"] for one in found] == ["forbidden"]
        assert (await one.server.orchestrator.query_run("other", "mine")).payload()["counts"]["passed"] == 1
        assert await one.secrets() == before


# The audit trail.


async def test_the_audit_trail_is_for_admins_and_nobody_writes_to_it(autojump_clock: trio.testing.MockClock):
    async with house() as one:
        reader = one.client(await one.token("reader", "observe"))
        assert (await answers(reader, "subscribe", {"project": "_audit", "after": 0}))[-1]["payload"][
            "code"
        ] == "forbidden"
        await answers(one.client("tot_wrong"), "getRuns", {})
        await trio.sleep(3)
        admin = one.client(await one.token("admin", "admin", "observe", "ingest"))
        assert (await answers(admin, "event", {**EVENT, "project": "_audit"}))[-1]["payload"]["code"] == "forbidden"
        await answers(admin, "subscribe", {"project": "_audit", "after": 0, "epoch": one.server.orchestrator.epoch})
        await trio.sleep(3)
        told = [event for one in admin.sent if one["type"] == "published" for event in one["payload"]["events"]]
        seen = {(event["type"].rsplit("/", 1)[1], event["payload"].get("outcome") or event["payload"].get("code")
                 or event["payload"].get("operation")) for event in told}  # fmt: skip
        assert {
            ("authentication", "let_in"), ("authentication", "unauthenticated"), ("administration", "token create"),
            ("refusal", "forbidden"),
        } <= seen  # fmt: skip
        assert "tot_" not in str(told)


# What lets a client in, and what ends that.


@pytest.mark.parametrize("kind", ["hello", "getRuns"])
async def test_a_browser_shows_its_token_in_its_first_message(kind: str):
    async with house() as one:
        token = await one.token("reader", "observe")
        client = one.client()
        found = await answers(client, kind, {"token": token})
        if kind != "hello":
            assert found == [(4401, "unauthenticated")]
            return
        assert found[0]["type"] == "welcome"
        client.feed({"type": "getRuns", "payload": {"project": "web"}})
        assert (await client.answer())["type"] == "welcome"
        assert (await client.answer())["payload"]["runs"][0]["runId"] == "secret"


async def test_who_shows_nothing_for_too_long_is_let_go(autojump_clock: trio.testing.MockClock):
    async with house() as one:
        client = one.client()
        await trio.sleep(11)
        assert client.closed_with == (4408, "it took too long to learn who this is")


async def test_who_shows_nothing_does_not_hold_up_a_server_that_stops(autojump_clock: trio.testing.MockClock):
    async with house() as one:
        client = one.client()
        await trio.testing.wait_all_tasks_blocked(0.01)
        began = trio.current_time()
        one.server.stop()
        with pytest.raises(ConnectionClosedError):
            await client.answer()
        assert client.closed_with == (1012, "the server is stopping")
        assert trio.current_time() - began < 1


async def test_a_ticket_lets_in_once_and_only_for_a_while(autojump_clock: trio.testing.MockClock):
    async with house() as one:
        reader = one.client(await one.token("reader", "observe"))

        async def ticket() -> str:
            found = await answers(reader, "getTicket", {})
            return str(found[-1]["payload"]["ticket"])

        first, late = await ticket(), await ticket()
        assert (await answers(one.client(ticket=first), "getRuns", {"project": "web"}))[0]["type"] == "runs"
        for spent in (first, "made-up", ""):
            assert await answers(one.client(ticket=spent), "getRuns", {}) == [(4401, "unauthenticated")]
        await trio.sleep(31)
        assert await answers(one.client(ticket=late), "getRuns", {}) == [(4401, "unauthenticated")]


async def test_revocation_ends_what_came_in_with_the_token_within_five_seconds(autojump_clock: trio.testing.MockClock):
    """Idle connections, subscriptions, and who came in by a ticket of it."""
    async with house() as one:
        made = await one.server.administer("token create", {"name": "reader", "scopes": ["observe"]})
        idle, follower = one.client(made["token"]), one.client(made["token"])
        found = await answers(idle, "getTicket", {})
        by_ticket = one.client(ticket=found[0]["payload"]["ticket"])
        await answers(follower, "subscribe", {"runId": "secret", "project": "web"})
        began = trio.current_time()
        await one.server.administer("token revoke", {"token": made["id"]})
        writer = one.client(await one.token("writer", "ingest"))
        writer.feed({"type": "event", "payload": {**EVENT, "id": "after", "runId": "secret", "project": "web"}})
        with trio.fail_after(5):
            for client in (idle, follower, by_ticket):
                while client.closed_with is None:  # noqa: ASYNC110 - the time is virtual
                    await trio.sleep(0.1)
                assert client.closed_with == (4401, "unauthenticated")
        assert trio.current_time() - began < 5
        assert not any(one["type"] == "published" for one in follower.sent), "it may no longer look"


async def test_a_token_that_expires_ends_what_came_in_with_it(autojump_clock: trio.testing.MockClock, monkeypatch: Any):
    async with house() as one:
        client = one.client(await one.token("reader", "observe", seconds=100))
        await answers(client, "getRuns", {"project": "web"})
        (tokens,) = [policy for policy in one.server._policies if policy.name == "tokens"]
        at_start = tokens._clock()
        tokens._clock = lambda: at_start + 99
        await trio.sleep(3)
        assert client.closed_with is None
        tokens._clock = lambda: at_start + 101
        await trio.sleep(3)
        assert client.closed_with == (4401, "unauthenticated")


async def test_a_principal_has_so_many_connections():
    tables = {**TABLES, "server": {"max_connections_per_principal": 2}}
    async with house(tables) as one:
        token = await one.token("reader", "observe")
        held = [one.client(token), one.client(token)]
        for client in held:
            await answers(client, "getRuns", {"project": "web"})
        third = one.client(token)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert third.closed_with == (4429, "too many connections of this principal")
        held[0].hang_up()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await answers(one.client(token), "getRuns", {"project": "web"}))[0]["type"] == "runs"


async def test_failures_are_answered_later_and_later(autojump_clock: trio.testing.MockClock):
    async with house() as one:
        waited = []
        for _ in range(12):
            began = trio.current_time()
            client = one.client("tot_wrong")
            with pytest.raises(ConnectionClosedError):
                await client.answer()
            waited.append(trio.current_time() - began)
        assert waited[:5] == [0] * 5
        assert waited[5:] == sorted(waited[5:])
        assert 2.9 < waited[-1] < 3.1
        good = one.client(await one.token("reader", "observe"))
        began = trio.current_time()
        await answers(good, "getRuns", {"project": "web"})
        assert trio.current_time() - began < 0.1, "who is known doesn't wait"


async def test_what_can_not_be_administered_is_one_sentence():
    async with house() as one:
        for operation, arguments in (
            ("token revoke", {"token": "unknown"}), ("token create", {"name": ""}),
            ("token create", {"name": "x", "scopes": ["root"]}), ("token fly", {}),
        ):  # fmt: skip
            with pytest.raises(UsageError):
                await one.server.administer(operation, arguments)


# Over a socket.


@pytest.mark.parametrize("transport", ["websocket", "websockets"])
async def test_tokens_and_tickets_over_a_socket(transport: str):
    tables = {**TABLES, "transports": {"main": {"use": transport, "port": 0, "close_seconds": 0.2}}}
    async with house(tables) as one:
        host, port = one.server.addresses[0].removeprefix("ws://").rsplit(":", 1)

        async def connect() -> Wire:
            return Wire(await trio.open_tcp_stream(host, int(port)))

        token = await one.token("reader", "observe")
        with trio.fail_after(10):
            known = await (await connect()).upgraded(Authorization=f"Bearer {token}")
            await known.send(message("getTicket"))
            ticket = (await known.answer())["payload"]["ticket"]
            browser = await connect()
            await browser.upgraded(Sec_WebSocket_Protocol=f"testorch.v1.json, testorch.ticket.{ticket}")
            await browser.send(message("getRuns", {"project": "web"}))
            assert (await browser.answer())["payload"]["runs"][0]["runId"] == "secret"
            only_ticket = await connect()
            await only_ticket.upgraded(Sec_WebSocket_Protocol=f"testorch.ticket.{ticket}")
            assert await only_ticket.close_code() == 4401, "it has been used, and is no version of the protocol either"
            stranger = await (await connect()).upgraded(Authorization="Bearer wrong")
            assert await stranger.close_code() == 4401
            for client in (known, browser, only_ticket, stranger):
                await trio.aclose_forcefully(client.stream)
