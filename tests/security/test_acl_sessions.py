"""What clients see of an access control list: refusals that tell nothing, and nothing stored that should not be."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from support import MEMORY, Client, MemoryConnection, running

from testorch_core.gate import Gate
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.security import Principal, SecurityPolicy
from testorch_core.interfaces.transport import Handshake
from testorch_core.options import Options
from testorch_core.protocol import SCHEMAS
from testorch_core.server import Server
from testorch_plugins.security.acl.options import AclOptions
from testorch_plugins.security.acl.plugin import AccessControlList
from testorch_plugins.security.acl.words import NOT_ALLOWED

RULES: list[dict[str, Any]] = [
    {"deny": ["cancelTestRun"], "roles": ["runner"], "reason": "runners end their runs"},
    {"allow": ["report"], "principals": ["ci-*"], "projects": ["web", "web-*"]},
    {"allow": ["report"], "principals": ["nightly"], "projects": ["web"], "runs": ["nightly-*"]},
    {"deny": ["report"], "principals": ["viewer"]},
    {"allow": ["observe"], "principals": ["viewer", "ci-*"], "projects": ["web"]},
    {"allow": ["*"], "principals": ["owner"]},
]
REQUESTS: dict[str, dict[str, Any]] = {
    "startTestRun": {}, "endTestRun": {"force": True}, "cancelTestRun": {}, "getRunStatus": {}, "getResults": {}, "subscribe": {},
    "getActiveRuns": {}, "getRuns": {}, "getHistory": {"testId": "t"}, "getStatistics": {}, "hello": {},
}  # fmt: skip
ABOUT_RUNS = ("startTestRun", "endTestRun", "cancelTestRun", "getRunStatus", "getResults", "subscribe", "hello")


class Doorkeeper(SecurityPolicy):
    """Takes a client's address for its name; `runner-…` have a role."""

    summary = "for tests"
    authenticates = True

    async def start(self, context: PluginContext) -> None: ...

    async def aclose(self) -> None: ...

    async def authenticate(self, handshake: Handshake) -> Principal | None:
        name = handshake.address
        return Principal(name=name, roles=frozenset({"runner"}) if name.startswith("ci-") else frozenset())


class NamedConnection(MemoryConnection):
    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    @property
    def handshake(self) -> Handshake:
        return Handshake(address=self._name, transport="memory")


@asynccontextmanager
async def guarded(*names: str, rules: list[dict[str, Any]] = RULES) -> AsyncIterator[list[Client]]:
    """A server with an access control list, and clients of these names."""
    acl = AccessControlList("access", AclOptions.load({"rules": rules}, folder=Path.cwd()))
    async with running(MEMORY) as server:
        server.orchestrator.gate = Gate((Doorkeeper("door", Options()), acl))
        async with trio.open_nursery() as nursery:
            made = [_connected(server, name, nursery) for name in names]
            yield made
            for client in made:
                client.leave()


def _connected(server: Server, name: str, nursery: Any) -> Client:
    client = Client(server)
    client.connection = NamedConnection(name)
    nursery.start_soon(client.serve)
    return client


def is_refused(answer: Any) -> bool:
    return isinstance(answer, dict) and answer.get("type") == "error" and answer["payload"]["code"] == "forbidden"


async def test_a_refusal_is_permanent_and_names_the_policy_and_the_reason_of_the_rule():
    async with guarded("ci-1", "stranger") as [ci, stranger]:
        answer = await ci.ask("cancelTestRun", {"project": "web", "runId": "r"})
        assert answer == {
            "type": "error",
            "payload": {"code": "forbidden", "message": f"{NOT_ALLOWED}: runners end their runs", "temporary": False, "details": [],
                        "policy": "access"},
        }  # fmt: skip
        answer = await stranger.ask("getRuns", {"project": "web"})
        assert answer["payload"]["message"] == NOT_ALLOWED


async def test_ci_reports_its_own_project_and_looks_at_nothing_else():
    async with guarded("ci-1") as [ci]:
        assert (await ci.ask("startTestRun", {"project": "web", "runId": "r"}))["status"] == "running"
        ci.event("test/end", testId="t", status="passed")
        assert (await ci.ask("getRunStatus", {"project": "web", "runId": "r"}))["counts"]["passed"] == 1
        assert (await ci.ask("endTestRun", {"project": "web", "runId": "r"}))["status"] == "passed"
        assert is_refused(await ci.ask("startTestRun", {"project": "payroll", "runId": "r"}))
        assert is_refused(await ci.ask("getRunStatus", {"project": "web-2", "runId": "r"}))


@pytest.mark.parametrize("kind", sorted(REQUESTS))
async def test_who_may_do_nothing_is_refused_everything(kind: str):
    async with guarded("stranger") as [stranger]:
        assert is_refused(await stranger.ask(kind, {"project": "web", "runId": "r", **REQUESTS[kind]}))


def test_every_request_is_tried():
    # What isn't: events (below), the end of a stream or a subscription that was never begun, signs of life, tickets.
    assert set(SCHEMAS) - set(REQUESTS) <= {"events", "streamEnd", "unsubscribe", "heartbeat", "getTicket"}


@pytest.mark.parametrize("kind", ABOUT_RUNS)
async def test_an_answer_about_a_project_that_is_not_open_does_not_tell_what_exists(kind: str):
    async with guarded("owner", "ci-1") as [owner, ci]:
        await owner.ask("startTestRun", {"project": "payroll", "runId": "there"})
        asked = [{"project": project, "runId": run, **REQUESTS[kind]} for project, run in
                 (("payroll", "there"), ("payroll", "missing"), ("missing", "missing"))]  # fmt: skip
        answers = [await ci.ask(kind, one) for one in asked]
        assert all(is_refused(one) for one in answers)
        assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("kind", ["event", "events"])
async def test_events_that_are_refused_leave_nothing_behind(kind: str):
    event = {
        "id": "e",
        "type": "test/end",
        "timestamp": 5,
        "runId": "r",
        "payload": {"testId": "t", "status": "passed"},
    }
    async with guarded("stranger", "owner") as [stranger, owner]:
        stranger.send(kind, event if kind == "event" else {"events": [event, {**event, "id": "f"}]})
        assert is_refused(await stranger.receive())
        assert await owner.ask("getActiveRuns") == []
        assert (await owner.ask("getRuns"))["runs"] == []


async def test_a_viewer_is_let_in_and_sees_and_reports_nothing():
    async with guarded("viewer", "owner") as [viewer, owner]:
        await owner.ask("startTestRun", {"project": "web", "runId": "r"})
        welcome = await viewer.ask("hello", {"project": "web"})
        assert "sessionId" in welcome
        assert [one["runId"] for one in await viewer.ask("getActiveRuns", {"project": "web"})] == ["r"]
        subscribed = await viewer.ask("subscribe", {"project": "web"})
        assert is_refused(await viewer.ask("endTestRun", {"project": "web", "runId": "r", "force": True}))
        ended = await viewer.ask("unsubscribe", {"subscriptionId": subscribed["subscriptionId"]})
        assert ended["subscriptionId"] == subscribed["subscriptionId"]


async def test_a_viewer_may_greet_without_naming_a_project():
    async with guarded("viewer", "stranger") as [viewer, stranger]:
        assert "sessionId" in await viewer.ask("hello", {})
        assert is_refused(await viewer.ask("getRuns"))
        assert "runs" in await viewer.ask("getRuns", {"project": "web"})
        assert is_refused(await stranger.ask("hello", {}))


async def test_a_rule_with_runs_is_about_messages_that_name_one():
    async with guarded("nightly") as [nightly]:
        assert "sessionId" in await nightly.ask("hello", {"project": "web", "streamId": "s"})
        assert is_refused(await nightly.ask("startTestRun", {"project": "web"}))
        assert is_refused(await nightly.ask("startTestRun", {"project": "web", "runId": "release-1"}))
        assert (await nightly.ask("startTestRun", {"project": "web", "runId": "nightly-1"}))["status"] == "running"
        nightly.send(
            "event",
            {"id": "e", "seq": 1, "type": "test/end", "timestamp": 5, "payload": {"testId": "t", "status": "passed"}},
        )
        assert (await nightly.receive())["type"] == "ack"
        assert (await nightly.ask("streamEnd", {"lastSeq": 1}))["complete"] is True


async def test_without_a_policy_that_authenticates_everybody_is_anonymous():
    rules = [{"allow": ["observe"], "principals": ["anonymous"]}]
    tables = {**MEMORY, "security": {"access": {"use": "acl", "rules": rules}}}
    async with running(tables) as server, trio.open_nursery() as nursery:
        client = _connected(server, "anybody", nursery)
        assert await client.ask("getActiveRuns") == []
        assert is_refused(await client.ask("startTestRun"))
        client.leave()
