"""A security policy that raises, or answers nonsense, fails closed for what it was asked about, and the server goes on."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from support import MEMORY, Client, clients, running

from testorch_core import create_orchestrator_integration
from testorch_core.errors import PolicyFailedError, Problem
from testorch_core.gate import Gate
from testorch_core.integration import RequestError
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.security import ALLOW, Close, Delay, Principal, Refuse, SecurityPolicy
from testorch_core.interfaces.transport import Handshake
from testorch_core.options import Options
from testorch_core.server import Server

SECRET = "hunter2"


class Policy(SecurityPolicy):
    summary = "for tests"
    authenticates = True

    async def start(self, context: PluginContext) -> None: ...

    async def aclose(self) -> None: ...


def recurse(*args: Any) -> Any:
    return recurse(*args)


def fail(kind: type[BaseException]) -> Callable[..., Any]:
    def raising(*args: Any) -> Any:
        raise kind(SECRET)

    return raising


FAILURES = [
    recurse,
    *(fail(kind) for kind in (RecursionError, MemoryError, OverflowError, KeyError, AttributeError, StopIteration)),
]
NOT_PROBLEMS = [
    None,
    SECRET,
    7,
    {},
    {SECRET},
    [None],
    [SECRET],
    [Problem(SECRET, None)],
    [Problem(3, SECRET)],
    object(),
]  # type: ignore[arg-type]
NOT_ADMISSIONS = [None, SECRET, True, Delay(float("inf")), Delay(float("nan")), Delay(-1), Delay("1"), Refuse(3, ""), Refuse("a", None),
                  Refuse("a", "", 10**400), Refuse("a", "", 1.5), Close(0), Close(1000), Close(1006), Close(3000), Close(4000, None)]  # type: ignore[arg-type]  # fmt: skip
NOT_PRINCIPALS = [SECRET, 7, True, {}, Principal(name=""), Principal(name="a\x00"), Principal(name="\ud800"), Principal(name="a" * 201), Principal(name=3),
                  Principal(name="a", projects="abc"), Principal(name="a", projects=frozenset({3}))]  # type: ignore[arg-type]  # fmt: skip
NOT_EVENTS: list[Callable[[Mapping[str, Any]], Any]] = [
    lambda event: None, lambda event: SECRET, lambda event: [], lambda event: {}, lambda event: dict(event) | {"id": "other"},
    lambda event: dict(event) | {"type": "test/end2"}, lambda event: dict(event) | {"runId": "other"}, lambda event: dict(event) | {"seq": 77},
    lambda event: dict(event) | {"project": "other"}, lambda event: dict(event) | {"payload": None}, lambda event: dict(event) | {"x": {SECRET}},
    lambda event: dict(event) | {"x": float("nan")}, lambda event: dict(event) | {"x": "\x00"}, lambda event: dict(event) | {"x": 10**400},
    lambda event: {key: value for key, value in event.items() if key != "id"},
]  # fmt: skip


class Fake(Policy):
    """Answers by functions, which a test sets; any of them can be left alone."""

    authenticates = False
    says: dict[str, Callable[..., Any]]

    def admit(self, request: Any) -> Any:
        return self.says["admit"](request) if "admit" in self.says else ALLOW

    def validate(self, event: Any) -> Any:
        return self.says["validate"](event) if "validate" in self.says else ()

    def amend(self, event: Any) -> Any:
        return self.says["amend"](event) if "amend" in self.says else event


class Doorkeeper(Fake):
    authenticates = True

    async def authenticate(self, handshake: Handshake) -> Any:
        return self.says["authenticate"](handshake)


def policy(kind: type[Fake] = Fake, **says: Callable[..., Any]) -> Fake:
    made = kind("fake", Options())
    made.says = says
    return made


@asynccontextmanager
async def guarded_by(one: SecurityPolicy) -> AsyncIterator[Server]:
    async with running(MEMORY) as server:
        server.orchestrator.gate = Gate((one,))
        yield server


def only_bad(failure: Callable[..., Any], good: Any) -> Callable[[Any], Any]:
    """Trips over the event `bad` alone."""
    return lambda event: failure(event) if event["id"] == "bad" else good(event)


def always(answer: Any) -> Callable[..., Any]:
    return lambda *args: answer


BAD_VALIDATIONS = [*FAILURES, *map(always, NOT_PROBLEMS)]
BAD_AMENDMENTS = [*FAILURES, *NOT_EVENTS]
EVENT_FAILURES = [*(("validate", one) for one in BAD_VALIDATIONS), *(("amend", one) for one in BAD_AMENDMENTS)]
GOOD = {"validate": always(()), "amend": lambda event: {**event, "seen": True}}


@pytest.mark.parametrize(("method", "failure"), EVENT_FAILURES)
async def test_an_event_that_a_policy_fails_on_is_refused_and_the_next_is_taken(method: str, failure: Any, caplog: Any):
    caplog.set_level(logging.ERROR, "testorch")
    async with guarded_by(policy(**{method: only_bad(failure, GOOD[method])})) as server, clients(server) as [client]:
        client.event("test/end", id="bad", testId=SECRET)
        error = await client.receive()
        assert (error["type"], error["payload"]["code"], error["payload"]["eventId"]) == (
            "error",
            "invalid_event",
            "bad",
        )
        assert (error["payload"]["policy"], error["payload"]["temporary"]) == ("fake", False)
        client.event("test/end", id="good", testId="t", status="passed")
        (run,) = await client.ask("getActiveRuns")
        assert run["counts"]["passed"] == 1
    assert SECRET not in str(error)
    lines = [record.getMessage() for record in caplog.records if "policy_failed" in record.getMessage()]
    assert len(lines) == 1
    assert f"method={method}" in lines[0]
    assert SECRET not in caplog.text


@pytest.mark.parametrize("method", ["validate", "amend"])
async def test_in_a_stream_it_takes_its_seq_and_blocks_nothing(method: str):
    async with guarded_by(policy(**{method: only_bad(recurse, GOOD[method])})) as server, clients(server) as [client]:
        await client.ask("hello", {"streamId": "s"})
        events = [{"id": name, "seq": seq, "type": "test/end", "timestamp": 1, "payload": {"testId": name, "status": "passed"}}
                  for seq, name in enumerate(("a", "bad", "c"), 1)]  # fmt: skip
        client.send("events", {"events": events})
        error, ack = await client.receive(), await client.receive()
        assert (error["payload"]["code"], error["payload"]["seq"]) == ("invalid_event", 2)
        assert ack["payload"]["seq"] == 3
        receipt = await client.ask("streamEnd", {"lastSeq": 3})
        assert (receipt["accepted"], receipt["refused"], receipt["complete"]) == (2, 1, True)


@pytest.mark.parametrize("failure", [*FAILURES, *map(always, NOT_ADMISSIONS)])
async def test_a_message_that_a_policy_fails_to_decide_about_is_refused_for_a_while(failure: Any, caplog: Any):
    one = policy(admit=lambda request: failure(request) if request.run_id == "bad" else ALLOW)
    async with guarded_by(one) as server, clients(server) as [client]:
        error = await client.ask("startTestRun", {"runId": "bad"})
        assert (
            error["payload"] | {"code": "internal", "policy": "fake", "temporary": True, "retryAfterMs": 1000}
            == error["payload"]
        )
        assert SECRET not in str(error)
        assert (await client.ask("startTestRun", {"runId": "good"}))["status"] == "running"
    assert len([record for record in caplog.records if "policy_failed" in record.getMessage()]) == 1
    assert SECRET not in caplog.text


async def test_a_stream_loses_nothing_to_a_policy_that_fails_to_admit_it_for_a_while():
    one = policy()
    async with guarded_by(one) as server, clients(server) as [client]:
        await client.ask("hello", {"streamId": "s"})
        one.says = {"admit": lambda request: recurse() if request.action == "event" else ALLOW}

        def send(seq: int) -> None:
            client.send(
                "event", {"id": f"e{seq}", "seq": seq, "type": "test/end", "timestamp": 1, "payload": {"testId": "t"}}
            )

        send(1)
        error = await client.receive()
        assert (error["payload"]["code"], error["payload"]["seq"], error["payload"]["temporary"]) == (
            "internal",
            1,
            True,
        )
        one.says = {}
        send(1)
        assert (await client.receive())["payload"]["seq"] == 1


@pytest.mark.parametrize("failure", [*FAILURES, *map(always, NOT_PRINCIPALS)])
async def test_whoever_a_policy_fails_to_know_is_sent_away_and_learns_nothing(failure: Any, caplog: Any):
    one = policy(Doorkeeper, authenticate=failure)
    async with guarded_by(one) as server:
        client = Client(server)
        await client.serve()
        assert client.connection.closed == (1011, "")
        one.says = {"authenticate": always(Principal(name="somebody"))}
        async with clients(server) as [other]:
            assert await other.ask("getActiveRuns") == []
    assert SECRET not in caplog.text


async def test_no_other_policy_is_asked_who_somebody_is():
    gate = Gate(
        (policy(Doorkeeper, authenticate=recurse), policy(Doorkeeper, authenticate=always(Principal(name="a"))))
    )
    with pytest.raises(PolicyFailedError, match="security policy `fake` failed in `authenticate`"):
        await gate.authenticate(Handshake(address="", transport=""))


async def test_being_cancelled_is_no_failure_of_the_policy():
    class Waits(Policy):
        async def authenticate(self, handshake: Handshake) -> Any:
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        scope.cancel()
        await Gate((Waits("waits", Options()),)).authenticate(Handshake(address="", transport=""))
    assert scope.cancelled_caught


async def test_a_host_is_answered_where_a_connection_would_be_closed():
    async with create_orchestrator_integration(config={"storage": {"use": "memory"}}) as orchestration:
        one = policy(Doorkeeper, authenticate=recurse)
        orchestration._server.orchestrator.gate = Gate((one,))
        event = {"id": "a", "type": "test/end", "timestamp": 1, "payload": {}}
        for code, says in (("internal", recurse), ("unauthenticated", always(None))):
            one.says = {"authenticate": says}
            handlers = orchestration.create_websocket_handlers({})
            refused = await handlers.on_event(event)
            assert refused is not None
            assert refused["payload"]["code"] == code
            assert (await handlers.on_validate_event(event)).valid is False
            with pytest.raises(RequestError) as raised:
                await handlers.on_start_test_run({})
            assert raised.value.message["payload"]["code"] == code
        one.says = {"authenticate": always(Principal(name="a")), "validate": recurse}
        handlers = orchestration.create_websocket_handlers({})
        for _ in range(2):
            refused = await handlers.on_event(event)
            assert refused is not None
            assert (refused["payload"]["code"], refused["payload"]["policy"]) == ("invalid_event", "fake")
