"""Embedding: the handlers in trio and through the bridge from asyncio, and both example servers as a user starts them."""

import asyncio
import functools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from websockets.sync.client import connect

from testorch_core import ConfigurationError, OpeningError, create_orchestrator_integration
from testorch_core.embedded import handshake_of
from testorch_core.integration import RequestError, WebSocketHandlers

EXAMPLES = Path(__file__).parents[1] / "examples"


def event(event_id: str, kind: str = "test/end", **payload: Any) -> dict[str, Any]:
    return {"id": event_id, "type": kind, "timestamp": 1, "payload": payload}


async def converse(handlers: WebSocketHandlers) -> dict[str, Any]:
    """The whole conversation, the same in trio and in asyncio; returns the run's last status."""
    started = await handlers.on_start_test_run({"name": "embedded"})
    assert await handlers.on_event(event("a", "test/start", testId="t", testName="T")) is None
    (active,) = handlers.on_get_active_runs()
    assert active["running"][0]["testName"] == "T"
    assert (await handlers.on_validate_event(event("b", testId=""))).error is not None
    assert (await handlers.on_validate_event(event("b", testId="t"))).valid
    refused = await handlers.on_event(event("b", testId=3))
    assert refused is not None
    assert (refused["type"], refused["payload"]["code"], refused["payload"]["eventId"]) == (
        "error",
        "invalid_event",
        "b",
    )
    assert (
        await handlers.on_events([event("c", testId="t", status="passed"), event("d", testId="u", status="skipped")])
        == []
    )
    status = handlers.on_get_run_status(started["runId"])
    assert status is not None
    assert status["counts"] | {"passed": 1, "skipped": 1, "total": 2} == status["counts"]
    assert handlers.on_get_run_status("unknown") is None
    with pytest.raises(RequestError) as raised:
        await handlers.on_end_test_run("unknown")
    assert raised.value.message["payload"]["code"] == "unknown_run"
    statistics = await handlers.on_get_statistics()
    assert (statistics["activeRuns"], statistics["refusals"]) == (1, {"invalid_event": 1, "unknown_run": 1})
    return await handlers.on_end_test_run(started["runId"])


async def test_the_handlers_in_trio(tmp_path: Path):
    async with create_orchestrator_integration(db_path=tmp_path / "x.db") as orchestration:
        handlers = orchestration.create_websocket_handlers()
        ended = await converse(handlers)
        assert (ended["status"], ended["complete"]) == ("passed", True)
        assert await handlers.on_query_run(ended["runId"]) == ended
        await orchestration.shutdown()
        await orchestration.shutdown()


def test_the_handlers_in_asyncio(tmp_path: Path):
    async def main() -> dict[str, Any]:
        async with create_orchestrator_integration(db_path=tmp_path / "x.db") as orchestration:
            return await converse(orchestration.create_websocket_handlers(client={"address": "10.0.0.1"}))

    ended = asyncio.run(main())
    assert (ended["status"], ended["complete"]) == ("passed", True)


async def test_started_in_a_nursery_of_the_hosts(tmp_path: Path):
    orchestration = create_orchestrator_integration(db_path=tmp_path / "x.db")
    async with trio.open_nursery() as nursery:
        await orchestration.start(nursery)
        await converse(orchestration.create_websocket_handlers())
        await orchestration.shutdown()


async def test_shutdown_before_the_start_is_nothing():
    await create_orchestrator_integration(config={"storage": {"use": "memory"}}).shutdown()


async def test_what_is_not_json_is_refused_and_never_raises():
    async with create_orchestrator_integration(config={"storage": {"use": "memory"}}) as orchestration:
        handlers = orchestration.create_websocket_handlers()
        hostile: list[Any] = [None, 3, [], {}, event("a", x=object()), event("a", x=2**70), event("a", x="\ud800"),
                              event("a", x={1: 2}), event("a", x=float("nan")), event("a", "run/end")]  # fmt: skip
        for one in hostile:
            refused = await handlers.on_event(one)
            assert refused is not None, one
            assert refused["payload"]["code"] == "invalid_event", one
        assert await handlers.on_event(event("g", testId="t")) is None


async def test_a_host_may_write_presence_itself():
    async with create_orchestrator_integration(config={"storage": {"use": "memory"}}) as orchestration:
        handlers = orchestration.create_websocket_handlers()
        assert await handlers.on_event(event("a", "system/client/connect", clientId="c")) is None
        assert await handlers.on_event(event("b", "system/client/disconnect", clientId="c")) is None
        assert handlers.on_get_active_runs() == [], "presence belongs to no run"


async def test_handlers_of_two_connections_keep_their_runs_apart(autojump_clock: trio.testing.MockClock):
    async with create_orchestrator_integration(config={"storage": {"use": "memory"}}) as orchestration:
        one = orchestration.create_websocket_handlers(client={})
        two = orchestration.create_websocket_handlers(client={})
        assert orchestration.create_websocket_handlers() is orchestration.create_websocket_handlers()
        run = await one.on_start_test_run({"runId": "r"})
        await two.on_event(event("a", testId="t"))
        assert len(two.on_get_active_runs()) == 2
        await two.aclose()
        await two.aclose()
        assert [each["runId"] for each in one.on_get_active_runs()] == [run["runId"]]
        await one.aclose()
        await trio.sleep(6)
        lost = one.on_get_run_status("r")
        assert lost is not None
        assert (lost["status"], lost["endReason"]) == ("interrupted", "lost")


def test_settings_that_are_wrong_are_told_at_once(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="did you mean `unknown_types`"):
        create_orchestrator_integration(
            security_policy={"events": {"use": "event_validation", "unknown_type": "refuse"}}
        )


def test_the_security_policy_replaces_the_configured_one(tmp_path: Path):
    async def main() -> Any:
        policy = {"strict": {"use": "event_validation", "unknown_types": "refuse"}}
        async with create_orchestrator_integration(db_path=tmp_path / "x.db", security_policy=policy) as orchestration:
            return await orchestration.create_websocket_handlers().on_event(event("a", "x/y"))

    assert trio.run(main)["payload"]["policy"] == "strict"


@pytest.mark.parametrize("run", [trio.run, lambda main: asyncio.run(main())], ids=["trio", "asyncio"])
def test_what_cannot_be_opened_raises_from_the_with_statement(run: Callable[[Any], Any], tmp_path: Path):
    async def main() -> None:
        async with create_orchestrator_integration(db_path=tmp_path):
            pytest.fail("entered")

    with pytest.raises(OpeningError, match="is a folder"):
        run(main)


def test_a_start_that_is_given_up_in_asyncio_leaves_no_thread(tmp_path: Path):
    async def main() -> None:
        orchestration = create_orchestrator_integration(db_path=tmp_path / "x.db")
        starting = asyncio.ensure_future(orchestration.__aenter__())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name == "testorch":
            thread.join(5)
            assert not thread.is_alive()


def test_calls_after_the_shutdown_of_the_bridge_say_so(tmp_path: Path):
    async def main() -> None:
        async with create_orchestrator_integration(db_path=tmp_path / "x.db") as orchestration:
            handlers = orchestration.create_websocket_handlers(client={})
            await handlers.on_start_test_run({})
        with pytest.raises(RuntimeError, match="has been shut down"):
            await handlers.on_get_statistics()

    asyncio.run(main())


@contextmanager
def example(name: str, folder: Path) -> Any:
    """An example server as a user starts it; yields its address, and checks that SIGTERM stops it gracefully."""
    command = [sys.executable, str(EXAMPLES / name), "--port", "0", "--db", str(folder / "x.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert process.stdout.read() == "stopped\n"
        finally:
            process.kill()


@pytest.mark.slow(reason="starts a Python process with the whole server in it")
@pytest.mark.parametrize("name", ["orchestrated_server.py", "asyncio_server.py"])
def test_the_example_servers_keep_their_own_messages_and_gain_the_orchestration(name: str, tmp_path: Path):
    with example(name, tmp_path) as address, connect(address) as socket:

        def ask(kind: str, payload: Any = None) -> Any:
            socket.send(json.dumps({"type": kind, "payload": payload}))
            return json.loads(socket.recv(timeout=10))

        assert ask("ping", 7) == {"type": "pong", "payload": 7}
        run = ask("startTestRun", {"name": "n"})
        assert run["type"] == "testRunStarted"
        assert ask("event", {"id": "bad"})["payload"]["code"] == "invalid_event"
        assert ask("startTestRun", [])["payload"]["code"] == "invalid_message"
        for nonsense in ("{", "[]", "3", '{"type": 7}', '{"type": "endTestRun"}'):
            socket.send(nonsense)
            assert json.loads(socket.recv(timeout=10))["type"] == "error", nonsense
        socket.send(json.dumps({"type": "event", "payload": event("a", testId="t", status="passed")}))
        (active,) = ask("getActiveRuns")["payload"]
        assert active["counts"]["passed"] == 1
        run_id = run["payload"]["runId"]
        assert ask("getRunStatus", {"runId": run_id})["payload"] == active
        assert ask("getStatistics")["payload"]["activeRuns"] == 1
        assert ask("endTestRun", {"runId": "unknown"})["payload"]["code"] == "unknown_run"
        ended = ask("endTestRun", {"runId": run_id})
        assert (ended["type"], ended["payload"]["status"]) == ("testRunEnded", "passed")


DEEP: Any = functools.reduce(lambda inner, _: [inner], range(70), 0)
BEYOND_THE_WIRE: list[Any] = [
    float("nan"), float("-inf"), 2**53, 10**4301, 1e16, "\x00", "\ud800", {1: 2}, {"a\x00": 1}, {"a"}, b"a", object(), datetime.now(UTC), Decimal(1),
    DEEP, type("Text", (str,), {})("a"), type("Dict", (dict,), {})(a=1),
]  # fmt: skip


@pytest.mark.parametrize("value", BEYOND_THE_WIRE, ids=lambda value: type(value).__name__)
async def test_what_the_wire_could_not_have_brought_is_refused_at_every_door(value: Any):
    async with create_orchestrator_integration(config={"storage": {"use": "memory"}}) as orchestration:
        handlers = orchestration.create_websocket_handlers()
        bad = event("bad", x={"y": value})
        refused, other = await handlers.on_events([bad, event("bad2", x=value), event("good", testId="t")])
        assert refused["payload"] | {"code": "invalid_event", "eventId": "bad"} == refused["payload"]
        assert refused["payload"]["details"][0]["path"].startswith("payload.x.y")
        assert other["payload"]["eventId"] == "bad2"
        validation = await handlers.on_validate_event(bad)
        assert validation.error == refused["payload"]
        requests = [
            lambda: handlers.on_start_test_run({"metadata": {"a": value}}),
            lambda: handlers.on_start_test_run({"runId": "r", "unknown": value}),
            lambda: handlers.on_start_test_run(value),
            lambda: handlers.on_end_test_run([value]),  # type: ignore[list-item]
            lambda: handlers.on_cancel_test_run("r", reason=[value]),  # type: ignore[arg-type]
            lambda: handlers.on_query_run({"a": value}),  # type: ignore[arg-type]
            lambda: handlers.on_get_statistics({"x": value}),
        ]
        for ask in requests:
            with pytest.raises(RequestError) as raised:
                await ask()
            assert raised.value.message["payload"]["code"] == "invalid_json"
        (run,) = handlers.on_get_active_runs()
        assert run["counts"]["total"] == 1


@pytest.mark.parametrize("strange", [[], {}, object(), {"a"}, None, 3, float("nan")], ids=repr)
async def test_a_host_may_pass_on_whatever_its_client_has_sent(strange: Any):
    async with create_orchestrator_integration(config={"storage": {"use": "memory"}}) as orchestration:
        handlers = orchestration.create_websocket_handlers()
        assert handlers.on_get_run_status(strange) is None
        assert handlers.on_get_run_status("r", strange) is None
        assert handlers.on_get_active_runs(strange) == []
        if strange != []:
            (refused,) = await handlers.on_events(strange)
            assert refused["payload"]["code"] == "invalid_message"
        with pytest.raises(RequestError):
            await handlers.on_query_run(strange)


async def test_a_hosts_messages_are_no_larger_than_those_of_the_wire():
    config = {"storage": {"use": "memory"}, "server": {"max_message_bytes": 2000}}
    async with create_orchestrator_integration(config=config) as orchestration:
        handlers = orchestration.create_websocket_handlers()
        small, large = event("a", testId="t", text="x" * 900), event("a", testId="t", text="x" * 2000)
        for events in ([large], [small] * 3, [{}] * 10_001):
            (refused,) = await handlers.on_events(events)
            assert refused["payload"]["code"] == "too_large"
        assert handlers.on_get_active_runs() == [], "none of them was taken"
        assert await handlers.on_events([small] * 2) == []
        with pytest.raises(RequestError) as raised:
            await handlers.on_start_test_run({"metadata": {"a": "x" * 2000}})
        assert raised.value.message["payload"]["code"] == "too_large"


async def test_an_event_is_as_it_was_when_it_was_given_whatever_the_host_does_to_it_then():
    async with create_orchestrator_integration(config={"storage": {"use": "memory"}}) as orchestration:
        handlers = orchestration.create_websocket_handlers()
        given = event("a", testId="t", status="passed", labels={})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handlers.on_event, given)
            for _ in range(2):  # after the second it has begun, and taken what it was given
                await trio.lowlevel.checkpoint()
            given["payload"] |= {"testId": object(), "labels": {object()}}
        assert handlers.on_get_active_runs()[0]["counts"]["passed"] == 1


@pytest.mark.parametrize(
    ("client", "headers", "token", "address"),
    [
        ({"headers": {"Authorization": "Bearer x", b"X-Bytes": b"caf\xe9"}, "token": "t", "address": "10.0.0.1"},
         {"authorization": "Bearer x", "x-bytes": "café"}, "t", "10.0.0.1"),
        ({"headers": {"a": "\udcff", "b\x00": "c", "d": "e\r\nf", "g": 3, 4: "h", "i": "j" * 20_000, "ok": ""}, "token": "t\x00"}, {"ok": ""}, None, "embedded"),
        ({"headers": None, "token": 3, "address": ("10.0.0.1", 5)}, {}, None, "('10.0.0.1', 5)"),
        ({"headers": ["a"], "token": b"t", "address": "\udcff"}, {}, "t", "unknown"),
    ],
)  # fmt: skip
def test_what_a_host_tells_of_a_connection_is_what_can_have_come_with_a_request(
    client: Any, headers: Any, token: Any, address: Any
):
    found = handshake_of(client)
    assert (dict(found.headers), found.token, found.address) == (headers, token, address)
