"""What the harnesses found, reduced: connections that end while the server drains, is cancelled, or gives their stream away."""

import pytest
import trio
import trio.testing
from support import MEMORY, Client, clients, configured, running

from testorch_core.logs import library_log
from testorch_core.server import Server

STEPS_OF_AN_END = 12
"""In how many steps of the scheduler a connection's end is tried to be met."""


async def begin(client: Client, *, resume: bool = False) -> None:
    answer = await client.ask("hello", {"streamId": "s", "runId": "r", "resume": resume})
    assert "code" not in answer.get("payload", {}), answer


async def test_a_client_that_never_falls_silent_is_told_to_come_back_after_half_the_drain(
    autojump_clock: trio.testing.MockClock,
):
    """P8: a stopping server ends within its bound, whoever goes on talking; and says 1012, not that it has failed."""

    async def talk(client: Client) -> None:
        while client.connection.closed is None:
            client.send("heartbeat", {})
            await trio.sleep(0.1)

    async with running({**MEMORY, "server": {"drain_seconds": 10.0}}) as server, trio.open_nursery() as nursery:
        client = Client(server)
        nursery.start_soon(client.serve)
        await begin(client)
        nursery.start_soon(talk, client)
        began = trio.current_time()
        server.stop()
        async for _ in client.connection.sent:
            pass
        assert client.connection.closed == (1012, "the server is stopping")
        assert 4 < trio.current_time() - began < 6


@pytest.mark.parametrize("steps", range(STEPS_OF_AN_END))
async def test_a_stream_is_taken_over_at_any_moment_of_its_connections_end(
    steps: int, autojump_clock: trio.testing.MockClock
):
    """P5: the newer connection isn't told of an internal error because the older one was just going."""
    async with running(MEMORY) as server:
        for attempt in range(10):
            async with clients(server, 2) as [former, newer]:
                await begin(former, resume=attempt > 0)
                former.leave()
                newer.send("hello", {"streamId": "s", "runId": "r", "resume": True})
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                assert (await newer.receive())["type"] == "welcome"


@pytest.mark.parametrize("steps", range(STEPS_OF_AN_END))
async def test_a_server_is_drained_at_any_moment_of_a_connections_end(
    steps: int, autojump_clock: trio.testing.MockClock
):
    """P8: nor does the server fail that is stopped then."""
    for _ in range(10):
        async with running(MEMORY) as server, clients(server) as [client]:
            await begin(client)
            client.leave()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            server.stop()


@pytest.mark.parametrize("steps", range(STEPS_OF_AN_END))
async def test_a_server_that_is_cancelled_ends_quietly_whatever_its_clients_do(
    steps: int, autojump_clock: trio.testing.MockClock
):
    """P8: an embedding program that cancels gets no failure of the server's for it."""
    for _ in range(10):
        server = Server(configured(MEMORY), log=library_log())
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            made = [Client(server) for _ in range(5)]
            for number, client in enumerate(made):
                nursery.start_soon(client.serve)
                await client.ask("hello", {"streamId": f"s{number}"})
                await client.ask("startTestRun", {"runId": "r"})
            made[0].leave()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
