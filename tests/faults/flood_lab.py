"""A flood beside light clients: measures how long these wait, before it and during it, with the limiter on or off.

`python -m faults.flood_lab [SECONDS]` in the folder of the tests prints a table.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from faults import oracle
from faults.broken_variants import configured, install_plugins
from faults.flood_agent import Agent, Count, Order, event_id
from faults.oracle import StreamLedger
from faults.stream_clients import RestartableServer, Wire, started, wait_until

LIGHT_CLIENTS: Final = 10
EVENTS_PER_SECOND: Final = 10
SETTLE_SECONDS: Final = 4.0
"""How long a flood goes on before anything is measured: a burst of the default size is over then, on a slow machine."""

BY_NAME = '''
"""Whoever says a name is believed."""
from testorch_core.interfaces.security import Principal, SecurityPolicy

class ByName(SecurityPolicy):
    summary = "believes what clients call themselves"
    authenticates = True

    async def start(self, context):
        pass

    async def aclose(self):
        pass

    async def authenticate(self, handshake):
        return Principal(name=handshake.token, issuer=self.name) if handshake.token else None
'''


def tables(limits: str | None) -> str:
    """The security of the server; None for one without a limiter."""
    limiter = "" if limits is None else f'[security.limit]\nuse = "rate_limit"\n{limits}\n'
    return f'[security.names]\nuse = "by_name"\n[security.events]\nuse = "event_validation"\n{limiter}'


class Light(threading.Thread):
    """A client that sends ten events a second, each at its time, and notes in seconds how long each acknowledgement took."""

    def __init__(self, address: str, number: int) -> None:
        super().__init__(name=f"light-{number}", daemon=True)
        self.ledger = StreamLedger(self.name, self.name)
        self.failure: BaseException | None = None
        self._waits: list[float] = []
        self._offset = number / LIGHT_CLIENTS / EVENTS_PER_SECOND
        self._ended = threading.Event()
        self._wire = Wire(address, additional_headers={"Authorization": f"Bearer {self.name}"})
        self._wire.ask("hello", {"streamId": self.name, "runId": self.name})

    def run(self) -> None:
        try:
            due = time.monotonic() + self._offset
            while not self._ended.wait(max(0.0, due - time.monotonic())):
                self._send(len(self.ledger.sent) + 1)
                due = max(due + 1 / EVENTS_PER_SECOND, time.monotonic())
            self._wire.close()
        except BaseException as failure:  # whatever it is, the test's own thread raises it
            self.failure = failure

    def waits(self) -> list[float]:
        """Those since it was last asked."""
        waits, self._waits = self._waits, []
        return waits

    def end(self) -> None:
        self._ended.set()
        self.join(10)
        if self.failure is not None:
            raise self.failure

    def _send(self, seq: int) -> None:
        name = event_id(self.name, seq)
        self.ledger.sent[seq] = name
        began = time.perf_counter()
        self._wire.send("event", {"id": name, "type": "test/output", "timestamp": 1, "seq": seq,
                                  "payload": {"testId": "t", "text": "a line"}})  # fmt: skip
        while (message := self._wire.receive())["type"] != "ack":
            assert message["type"] != "error", f"a light client was told {message}"
        self._waits.append(time.perf_counter() - began)
        self.ledger.acked = message["payload"]["seq"]


@dataclass(frozen=True, slots=True)
class Waits:
    """How long acknowledgements took, in milliseconds."""

    p50: float
    p99: float
    longest: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Waits:
        ordered = sorted(one * 1000 for one in seconds)
        assert ordered, "no light client had anything acknowledged"
        at = len(ordered) - 1
        return cls(ordered[at // 2], ordered[round(at * 0.99)], ordered[-1], len(ordered))


@dataclass(frozen=True, slots=True)
class Measured:
    """What a flood did to the light clients, and what became of it: two counts, between which `seconds` passed."""

    quiet: Waits
    flooded: Waits
    seconds: float
    before: list[Count]
    after: list[Count]

    @property
    def flooder_events_per_second(self) -> float:
        return (sum(one.acked for one in self.after) - sum(one.acked for one in self.before)) / self.seconds

    @property
    def has_progressed(self) -> bool:
        """Whether every connection of the flood had more acknowledged."""
        return all(now.acked > then.acked for then, now in zip(self.before, self.after, strict=True))

    @property
    def refusals(self) -> int:
        return sum(one.refusals for one in self.after)

    def __str__(self) -> str:
        return "  ".join((
            f"light p50/p99/max quiet {_shown(self.quiet)}", f"flooded {_shown(self.flooded)} ms",
            f"flood {self.flooder_events_per_second:,.0f} events/s acknowledged, {self.refusals} refusals",
        ))  # fmt: skip


def _shown(waits: Waits) -> str:
    return f"{waits.p50:.1f}/{waits.p99:.1f}/{waits.longest:.0f}"


def measure(
    folder: Path,
    limits: str | None,
    *,
    seconds: float,
    settle_seconds: float = SETTLE_SECONDS,
    connections: int = 4,
    events_each: int = 100,
) -> Measured:
    """Flood a server. Raises `AssertionError` when anything that was acknowledged is lost, or out of order, or twice."""
    server = RestartableServer(folder, *configured(folder, tables(limits)))
    order = Order(address=server.address, principal="flooder", connections=connections, events_each=events_each)
    with started(server), light_clients(server.address) as light:
        wait_until(lambda: all(one.ledger.acked for one in light), "the light clients are at work")
        _taken(light)
        time.sleep(seconds)
        quiet = _taken(light)
        with Agent(order) as agent:
            wait_until(lambda: sum(one.acked for one in agent.ask()), "the flood has begun")
            time.sleep(settle_seconds)
            _taken(light)
            began, before = time.monotonic(), agent.ask()
            time.sleep(seconds)
            flooded, after, lasted = _taken(light), agent.ask(), time.monotonic() - began
            last = agent.ask("stop")
    check_log(server, [*(one.ledger for one in light), *map(ledger_of, last)])
    return Measured(quiet, flooded, lasted, before, after)


@contextmanager
def light_clients(address: str) -> Iterator[list[Light]]:
    """Ten of them, at work within the block; what fails in one is raised at its end."""
    light = [Light(address, number) for number in range(LIGHT_CLIENTS)]
    for one in light:
        one.start()
    yield light
    for one in light:
        one.end()


def _taken(light: Sequence[Light]) -> Waits:
    return Waits.of([wait for one in light for wait in one.waits()])


def ledger_of(count: Count) -> StreamLedger:
    """What one connection of the flood knows, for the oracle."""
    sent = {seq: event_id(count.name, seq) for seq in range(1, count.sent + 1)}
    return StreamLedger(count.name, count.name, sent, count.acked)


def check_log(server: RestartableServer, ledgers: Sequence[StreamLedger]) -> None:
    """The oracle, for a server that has been killed."""
    log = oracle.stored_log(server.database)
    by_stream: dict[str, list[oracle.Stored]] = {}
    for one in log:
        by_stream.setdefault(one.stream or "", []).append(one)
    violations = oracle.database_violations(server.database)
    for ledger in ledgers:
        violations += oracle.stream_violations(ledger, by_stream.get(ledger.stream_id, ()))
    assert not violations, "\n".join(violations)
    assert "Traceback" not in server.log


def main(seconds: float) -> None:
    variants = {"no limiter": None, "20,000 events/s": "", "2,000 events/s": "events_per_second = 2000"}
    for each in (100, 1):
        for name, limits in variants.items():
            with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
                install_plugins(Path(folder), patch, BY_NAME, {"security": {"by_name": "ByName"}})
                print(f"{each:4} a message, {name}: {measure(Path(folder), limits, seconds=seconds, events_each=each)}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
