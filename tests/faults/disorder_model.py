"""Disorder of every kind between streams and a server, in memory and in virtual time; and the laws that hold through it.

A `Schedule` says what goes wrong and when; `violations_of` plays it and returns, in words, the laws that were broken.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import trio
import trio.testing
from faults.oracle import Stored, StreamLedger, receipt_violations, stored_event, stream_violations
from support import MEMORY, MemoryConnection, configured

from testorch_core import server as serving
from testorch_core.errors import StorageFailedError
from testorch_core.events import RecordBatch
from testorch_core.interfaces.storage import Commit
from testorch_core.logs import library_log
from testorch_core.options import Options
from testorch_core.results import RunRow
from testorch_core.streams import StreamRow
from testorch_core.verifying import run_ids, verify_project, verify_run
from testorch_plugins.storage.memory.plugin import MemoryStore

PROJECT = "default"
PATIENCE_SECONDS = 600.0
"""How much virtual time the streams have to come to their end once nothing goes wrong any more."""

REFUSED_EVERY = 5
"""One event in so many is refused for good."""


# What goes wrong. Every step is about one stream, or about the server.


@dataclass(frozen=True)
class Send:
    """Events in the order of their seqs, from `shift` after (or before) the next one on, in one message or in several."""

    count: int
    shift: int = 0
    split: bool = False


@dataclass(frozen=True)
class Shuffle:
    """The next events in this order, some of them perhaps twice; in one message or in several."""

    order: Sequence[int]
    split: bool = False


@dataclass(frozen=True)
class Leave:
    """The connection is cut."""


@dataclass(frozen=True)
class TakeOver:
    """The stream is resumed on a second connection, while the first one goes on for one more message."""


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class StoreDown:
    """From now on, and for so long, the store fails."""

    seconds: float


@dataclass(frozen=True)
class Restart:
    """The server is stopped, or killed, and started again on the same store."""

    killed: bool


Step = Send | Shuffle | Leave | TakeOver | Wait | StoreDown | Restart


@dataclass(frozen=True)
class Schedule:
    """Steps with the stream that each is about, how long a commit takes, and how many events each stream has."""

    steps: Sequence[tuple[int, Step]]
    events: Sequence[int]
    commit_seconds: float = 0.01


class FaultyStore(MemoryStore):
    """Takes its time for a commit, and fails while it is down."""

    def __init__(self, commit_seconds: float) -> None:
        super().__init__("faulty", Options())
        self.down_until = 0.0
        self._commit_seconds = commit_seconds

    def _fail_while_down(self) -> None:
        if trio.current_time() < self.down_until:
            raise StorageFailedError("down for a while")

    async def append(self, commit: Commit) -> None:
        await trio.sleep(self._commit_seconds)
        self._fail_while_down()
        await super().append(commit)

    async def read(self, project: str, *, after: int, limit: int, run_id: str | None = None) -> Sequence[RecordBatch]:
        self._fail_while_down()
        return await super().read(project, after=after, limit=limit, run_id=run_id)

    async def run(self, project: str, run_id: str) -> RunRow | None:
        self._fail_while_down()
        return await super().run(project, run_id)

    async def stream(self, project: str, stream_id: str) -> StreamRow | None:
        self._fail_while_down()
        return await super().stream(project, stream_id)

    def log(self) -> list[Stored]:
        """What is committed at this moment, as the oracle sees it."""
        project, found = self._projects.get(PROJECT), []
        for batch in project.batches if project is not None else ():
            for offset, wire in enumerate(batch.wires(), batch.first_offset):
                found.append(stored_event(offset, batch.run_id, batch.source.stream, wire))
        return [one for one in found if one is not None]


class World:
    """One store, the server that is on it at the time, and the laws that were broken."""

    def __init__(self, store: FaultyStore, nursery: trio.Nursery) -> None:
        self.store = store
        self.violations: list[str] = []
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._server: serving.Server
        self._connections: trio.Nursery

    async def start(self) -> None:
        real = serving.construct
        with mock.patch.object(serving, "construct", lambda chosen: replace(real(chosen), storage=self.store)):
            self._server = serving.Server(configured(MEMORY), log=library_log())
        self._scope, self._over = trio.CancelScope(), trio.Event()
        await self._nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        with self._scope:
            async with trio.open_nursery() as self._connections:
                await self._connections.start(self._server.run)
                task_status.started()
        self._over.set()

    async def end(self, *, killed: bool) -> None:
        if killed:
            self._scope.cancel()
        else:
            self._server.stop()
        await self._over.wait()

    def serve(self, connection: MemoryConnection) -> None:
        self._connections.start_soon(self._server.serve_connection, connection)


class Link(MemoryConnection):
    """One connection of a stream. What the server says on it is held against the store as it is at that moment."""

    def __init__(self, world: World, ledger: StreamLedger) -> None:
        super().__init__()
        self.cursor = 0
        """The last seq that was sent on this connection."""
        self.back_to: int | None = None
        """The seq from which the server wants to be sent again, and when."""
        self.back_at = 0.0
        self.answers, self._answer = _mailbox()
        self._world = world
        self._ledger = ledger
        self._acked = 0

    async def send(self, message: bytes) -> None:
        self._judge(json.loads(message))
        await super().send(message)

    def say(self, kind: str, payload: Any) -> None:
        self.feed(json.dumps({"type": kind, "payload": payload}))

    def _judge(self, message: Any) -> None:
        payload, name = message["payload"], f"stream `{self._ledger.stream_id}`"
        if message["type"] != "ack":
            return
        seq = payload["seq"]
        if seq < self._acked:
            self._world.violations.append(f"{name}: the ack of {seq} follows that of {self._acked}")
        stored = {one.seq for one in self._world.store.log() if one.stream == self._ledger.stream_id}
        missing = set(range(1, seq + 1)) - stored
        if missing:
            self._world.violations.append(f"{name}: the ack of {seq} leaves while {sorted(missing)} is not committed")
        self._acked = seq

    async def listen(self) -> None:
        """Take in what the server says, until the connection is closed."""
        async for raw in self.sent:
            message = json.loads(raw)
            payload = message["payload"]
            if message["type"] == "ack":
                self._ledger.acked = max(self._ledger.acked, payload["seq"])
            elif message["type"] == "error" and payload.get("seq") is not None:
                self._hear_refusal(payload)
            else:
                self._answer.send_nowait(message)
        self._answer.close()

    def _hear_refusal(self, payload: Any) -> None:
        if payload["temporary"]:
            self.back_to = payload["seq"]
            self.back_at = trio.current_time() + payload.get("retryAfterMs", 0) / 1000
        elif payload["seq"] % REFUSED_EVERY:
            self._world.violations.append(f"stream `{self._ledger.stream_id}`: {payload} is not deserved")


def _mailbox() -> tuple[trio.MemoryReceiveChannel[Any], trio.MemorySendChannel[Any]]:
    sending, receiving = trio.open_memory_channel[Any](1000)
    return receiving, sending


class Producer:
    """A stream's client: follows the protocol, except where the schedule has it do otherwise."""

    def __init__(self, world: World, nursery: trio.Nursery, number: int, events: int) -> None:
        self.ledger = StreamLedger(f"s{number}", f"r{number % 2}")
        self.events = events
        self._world = world
        self._nursery = nursery
        self._link: Link | None = None
        self._greeted = False

    async def play(self, step: Step) -> None:
        if isinstance(step, Leave):
            self._hang_up()
        elif isinstance(step, TakeOver):
            former = await self._connected()
            self._link = None
            link = await self._connected()
            if former is not None and link is not None:
                self._send(former, range(former.cursor + 1, former.cursor + 3), split=False)
        elif isinstance(step, Send | Shuffle) and (link := await self._connected()) is not None:
            self._misbehave(link, step)

    def _misbehave(self, link: Link, step: Send | Shuffle) -> None:
        first = link.cursor + 1
        if isinstance(step, Shuffle):
            self._send(link, [first + place for place in step.order], split=step.split)
            return
        seqs = range(first + step.shift, first + step.shift + step.count)
        self._send(link, seqs, split=step.split)
        if step.shift <= 0:
            link.cursor = max(link.cursor, min(seqs[-1], self.events))

    async def finish(self) -> None:
        """Nothing goes wrong any more: bring everything to the server, and get the receipt."""
        while self.ledger.receipt is None:
            link = await self._connected()
            if link is None:
                await trio.sleep(1)
            elif self.ledger.acked >= self.events:
                await self._end(link)
            else:
                await self._go_on(link)

    async def _go_on(self, link: Link) -> None:
        if link.back_to is not None:
            await trio.sleep(max(0.0, link.back_at - trio.current_time()))
            link.cursor, link.back_to = link.back_to - 1, None
        self._send(link, range(link.cursor + 1, self.events + 1), split=False)
        link.cursor = self.events
        await trio.sleep(1)

    async def _end(self, link: Link) -> None:
        link.say("streamEnd", {"lastSeq": self.events, "digest": self.ledger.digest})
        answer = await self._answer_of(link)
        if answer is not None and answer["type"] == "receipt":
            self.ledger.receipt = answer["payload"]
        else:
            await trio.sleep(1)

    async def _connected(self) -> Link | None:
        """The connection, made anew where there is none; None where the server can't have it now."""
        if self._link is not None and self._link.closed is None:
            return self._link
        link = self._link = Link(self._world, self.ledger)
        self._world.serve(link)
        self._nursery.start_soon(link.listen)
        asked = {"streamId": self.ledger.stream_id, "runId": self.ledger.run_id, "resume": self._greeted}
        link.say("hello", asked)
        answer = await self._answer_of(link)
        if answer is None or answer["type"] != "welcome":
            self._hang_up()
            return None
        self._greeted = True
        told = answer["payload"]["ackedSeq"]
        if told < self.ledger.acked:
            self._world.violations.append(
                f"stream `{self.ledger.stream_id}`: {self.ledger.acked} was acknowledged, and the server has {told}"
            )
        link.cursor = told
        self.ledger.acked = max(self.ledger.acked, told)
        return link

    async def _answer_of(self, link: Link) -> Any:
        with trio.move_on_after(30):
            try:
                return await link.answers.receive()
            except trio.EndOfChannel:
                pass
        return None

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.hang_up()
            self._link = None

    def _send(self, link: Link, seqs: Sequence[int], *, split: bool) -> None:
        events = [self._event(seq) for seq in seqs if 1 <= seq <= self.events]
        self.ledger.sent.update((one["seq"], one["id"]) for one in events)
        if split:
            for one in events:
                link.say("event", one)
        elif events:
            link.say("events", {"events": events})

    def _event(self, seq: int) -> dict[str, Any]:
        name = self.ledger.stream_id
        payload: dict[str, Any] = {"testId": f"{name}-{seq // 2}", "status": "passed"}
        if seq % REFUSED_EVERY == 0:
            payload = {"testId": seq}
        kind = "test/end" if seq % 2 else "test/start"
        return {"id": f"{name}-{seq}", "type": kind, "timestamp": seq, "seq": seq, "payload": payload}


@dataclass
class _Play:
    """One schedule under way."""

    schedule: Schedule
    violations: list[str] = field(default_factory=list)

    async def run(self) -> None:
        store = FaultyStore(self.schedule.commit_seconds)
        async with trio.open_nursery() as nursery:
            world = World(store, nursery)
            world.violations = self.violations
            await world.start()
            streams = [Producer(world, nursery, number, events) for number, events in enumerate(self.schedule.events)]
            for number, step in self.schedule.steps:
                await self._play(world, streams[number % len(streams)], step)
            await self._end(world, streams)
            await world.end(killed=False)
            nursery.cancel_scope.cancel()

    async def _play(self, world: World, stream: Producer, step: Step) -> None:
        if isinstance(step, Wait):
            await trio.sleep(step.seconds)
        elif isinstance(step, StoreDown):
            world.store.down_until = trio.current_time() + step.seconds
        elif isinstance(step, Restart):
            await world.end(killed=step.killed)
            await world.start()
        else:
            await stream.play(step)

    async def _end(self, world: World, streams: Sequence[Producer]) -> None:
        world.store.down_until = 0.0
        with trio.move_on_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as finishing:
                for one in streams:
                    finishing.start_soon(one.finish)
        log = world.store.log()
        for one in streams:
            self.violations += stream_violations(one.ledger, log) + receipt_violations(one.ledger, log)
        verdicts = [await verify_project(world.store, PROJECT)]
        verdicts += [await verify_run(world.store, *address) for address in await run_ids(world.store, PROJECT)]
        self.violations += [words for verdict in verdicts for words in verdict.differences]


def violations_of(schedule: Schedule) -> list[str]:
    """Play a schedule, and say which laws were broken; empty for a server that keeps its promises."""
    play = _Play(schedule)
    trio.run(play.run, clock=trio.testing.MockClock(autojump_threshold=0))
    return play.violations
