"""What an attacker would try on a transport that listens: the server goes on, nobody else waits, the answer is documented."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from faults.attack_agent import ATTACKS, Agent
from faults.attack_siege import Siege

pytestmark = [
    pytest.mark.slow(reason="waits for what a server does after a time"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads descriptors and memory of a process from /proc"),
]

NEEDS_OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs `openssl` to make a certificate")


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """The attacker's process."""
    made = Agent()
    yield made
    made.stop()


@pytest.fixture(scope="module", params=["websocket", "websockets"])
def besieged(
    request: pytest.FixtureRequest, agent: Agent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[bool], Siege]]:
    """The server of a transport, without or with TLS; it is started when it is attacked first."""
    is_full = bool(request.config.getoption("--long-faults"))
    made: dict[bool, Siege] = {}

    def siege(tls: bool) -> Siege:
        if tls not in made:
            folder: Path = tmp_path_factory.mktemp(request.param)
            made[tls] = Siege(folder, request.param, agent, is_full=is_full, tls=tls)
        return made[tls]

    yield siege
    with ExitStack() as stack:
        for one in made.values():
            stack.callback(one.close)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[NEEDS_OPENSSL] if attack.tls else []) for name, attack in ATTACKS.items()]
)
def test_an_attack_costs_nobody_else_anything(besieged: Callable[[bool], Siege], name: str):
    """P5, P7: the same process, descriptors and memory back, canary and newcomers served in time, and the documented answers."""
    attack = ATTACKS[name]
    violations = besieged(attack.tls).attack(attack)
    assert not violations, "\n".join(violations)
