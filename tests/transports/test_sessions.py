"""Whole sessions over streams in memory, with virtual time: whatever a client writes, it is let go, and nothing is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from transports.wire import BINARY, CLOSE, PING, PONG, TEXT, Wire, frame, upgrade

from testorch_core.errors import ConnectionClosedError
from testorch_core.interfaces.transport import Connection
from testorch_core.loading import load_plugin
from testorch_core.testing import plugin_context
from testorch_plugins.transports.listening.listener import ListeningTransport

TRANSPORTS = ["websocket", "websockets"]
LIMITS: dict[str, Any] = {"max_message_bytes": 2048, "max_fragments": 10, "max_control_frames": 20, "port": 0}


class Log:
    """Counts what is written to the log of a transport."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        if level == "bind":
            return lambda **facts: self
        return lambda event, **facts: self.lines.append((event, facts)) if level != "debug" else None


class Hall:
    """A transport without a socket: the test brings the streams, and serves what comes with an echo."""

    def __init__(self, transport: ListeningTransport, nursery: trio.Nursery, log: Log) -> None:
        self.transport = transport
        self.log = log
        self.taken: list[str] = []
        self._nursery = nursery
        transport.serve = self._echo

    def enter(self) -> Wire:
        theirs, ours = trio.testing.memory_stream_pair()
        newcomer = self.transport.places.take()
        self._nursery.start_soon(self.transport.serve_stream, ours, "memory", newcomer, 1)
        return Wire(theirs)

    def is_empty(self) -> bool:
        places = self.transport.places
        return not (places.open or places._newcomers or places._by_address or self.transport._partial_bytes.used)

    async def _echo(self, connection: Connection) -> None:
        connection.admitted()
        try:
            while True:
                message = await connection.receive()
                assert isinstance(message, str)
                self.taken.append(message)
                await connection.send(message.encode())
        except ConnectionClosedError:
            pass
        finally:
            await connection.aclose(1000)


def in_hall(name: str, visit: Callable[[Hall], Awaitable[None]], **options: Any) -> None:
    """Run a visit with a clock that jumps, and see that the hall is empty when it is over."""

    async def main() -> None:
        plugin = load_plugin("transport", name)
        log = Log()
        transport = plugin("main", plugin.options_type.load({**LIMITS, **options}, folder=Path()))
        assert isinstance(transport, ListeningTransport)
        async with trio.open_nursery() as nursery:
            await transport.prepare(plugin_context(nursery, folder=Path(), log=log))
            async with trio.open_nursery() as visitors:
                hall = Hall(transport, visitors, log)
                await visit(hall)
            assert hall.is_empty()
            assert len(log.lines) <= 1 or visit.__name__ != "alone", log.lines
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)


GOOD = st.text(alphabet="aé😀", max_size=40).map(lambda text: frame(text.encode()))
FRAMES = st.one_of(
    GOOD,
    GOOD,
    st.builds(
        frame,
        st.binary(max_size=8) | st.binary(min_size=120, max_size=135) | st.just(b"x" * 3000),
        st.sampled_from([TEXT, BINARY, 0x0, PING, PONG, CLOSE, 0x3]),
        fin=st.booleans(),
        masked=st.sampled_from([True, True, True, True, False]),
        reserved=st.sampled_from([0, 0, 0, 0, 2]),
    ),
    st.binary(max_size=10),
)
REQUESTS = st.one_of(
    st.just(upgrade()), st.just(upgrade()), st.just(upgrade()), st.binary(max_size=30), st.just(upgrade("/x")),
    st.just(upgrade(Host="\xff")), st.just(upgrade()[:40]),
)  # fmt: skip
ENDINGS = st.sampled_from(["stays", "half-closes", "goes"])


@pytest.mark.parametrize("name", TRANSPORTS)
@settings(max_examples=40)  # each takes about 10 ms
@given(request=REQUESTS, frames=st.lists(FRAMES, max_size=6), cuts=st.lists(st.integers(1, 60), max_size=8), ending=ENDINGS,
       reads=st.booleans(), pauses=st.booleans())  # fmt: skip
def test_every_visitor_is_let_go_and_leaves_nothing(
    name: str, request: bytes, frames: list[bytes], cuts: list[int], ending: str, reads: bool, pauses: bool
):
    """P5, P7: at most one line of the log, no exception, every place given back."""
    data = request + b"".join(frames)

    async def alone(hall: Hall) -> None:
        client = hall.enter()
        place = 0
        for size in [*cuts, len(data)]:
            if data[place : place + size]:
                try:
                    await client.send(data[place : place + size])
                except trio.BrokenResourceError:
                    break
            place += size
            await trio.sleep(0.1 if pauses else 0)
        if ending == "half-closes":
            await client.stream.send_eof()
        elif ending == "goes":
            await trio.aclose_forcefully(client.stream)
        else:
            with trio.fail_after(4000):  # pings, handshakes and messages all have their time
                while reads and await client.stream.receive_some():
                    pass
                while not hall.is_empty():  # noqa: ASYNC110 - the time is virtual
                    await trio.sleep(1)

    in_hall(name, alone)


@pytest.mark.parametrize("name", TRANSPORTS)
@settings(max_examples=40)  # each takes about 10 ms
@given(messages=st.lists(st.text(alphabet="ab é😀", max_size=30), max_size=8), fragments=st.lists(st.integers(1, 5)),
       cuts=st.lists(st.integers(1, 40)), pings=st.lists(st.integers(0, 20), max_size=3))  # fmt: skip
def test_messages_arrive_whole_however_they_are_cut(
    name: str, messages: list[str], fragments: list[int], cuts: list[int], pings: list[int]
):
    pieces: list[bytes] = []
    for number, text in enumerate(messages):
        raw = text.encode()
        size = fragments[number % len(fragments)] if fragments else len(raw)
        parts = [raw[at : at + size] for at in range(0, len(raw), max(size, len(raw) // 9 + 1))] or [b""]
        parts = [raw] if b"".join(parts) != raw or len(parts) > 9 else parts
        last = len(parts) - 1
        pieces += [frame(part, TEXT if at == 0 else 0x0, fin=at == last) for at, part in enumerate(parts)]
    for place in pings:
        pieces.insert(min(place, len(pieces)), frame(b"ping", PING))
    data = b"".join(pieces)

    async def sound(hall: Hall) -> None:
        client = hall.enter()
        await client.upgraded()
        place = 0
        for size in [*cuts, len(data)]:
            if data[place : place + size]:
                await client.send(data[place : place + size])
            place += size
        echoed = []
        while len(echoed) < len(messages) and (found := await client.frame()) is not None:
            if found.opcode == TEXT:
                echoed.append(found.payload.decode())
        await client.send(frame(b"\x03\xe8", CLOSE))
        assert await client.close_code() == 1000
        assert hall.taken == messages
        assert echoed == messages
        assert hall.log.lines == []

    in_hall(name, sound)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_an_idle_client_that_answers_pings_may_stay_and_one_that_does_not_may_not(name: str):
    async def both(hall: Hall) -> None:
        lively, dead = await hall.enter().upgraded(), await hall.enter().upgraded()
        pinged = 0
        while pinged < 20:
            found = await lively.frame()
            assert found is not None
            assert found.opcode == PING
            await lively.send(frame(found.payload, PONG))
            pinged += 1
        assert hall.transport.places.open == 1
        assert await dead.ended()
        await lively.send(frame(b"still here"))
        assert (await lively.frame()).payload == b"still here"
        await trio.aclose_forcefully(lively.stream)

    in_hall(name, both)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_half_a_request_is_given_its_time_and_no_more(name: str):
    async def dribbles(hall: Hall) -> None:
        client = hall.enter()
        began = trio.current_time()
        for one in upgrade():
            try:
                await client.send(bytes([one]))
            except trio.BrokenResourceError:
                break
            await trio.sleep(0.5)
            if hall.is_empty():
                break
        assert 10 <= trio.current_time() - began < 14
        assert (await client.head())[0] == 408

    in_hall(name, dribbles)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_slow_steady_sender_of_messages_is_not_taken_for_one_that_never_finishes(name: str):
    """Pieces that always end in the middle of a message: each message is young, whatever is unfinished."""

    async def steady(hall: Hall) -> None:
        client = await hall.enter().upgraded()
        data = frame(b"x" * 100) * 30
        place = 0
        while place < len(data):
            await client.send(data[place : place + 70])
            place += 70
            await trio.sleep(5)
        while len(hall.taken) < 30:
            await client.frame()
        await trio.aclose_forcefully(client.stream)

    in_hall(name, steady)
