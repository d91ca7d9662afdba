"""The attacker's own process, which gives way to the one that it attacks: `python -m faults.attack_agent`.

It reads orders from standard input, one a line, and writes what came of each to standard output: a JSON object with
`outcomes`, each `[label, answer, allowed, how often]`.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from faults import attack_floods, attack_frames, attack_messages, attack_requests
from faults.attack_kit import Attack, Outcome, Scene

ATTACKS: Final[Mapping[str, Attack]] = {
    attack.name: attack
    for module in (attack_requests, attack_frames, attack_floods, attack_messages)
    for attack in module.ATTACKS
}
LONGEST_SECONDS: Final = 300.0
NICE: Final = 10


class Agent:
    """The process, as a test has it. It attacks one thing at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "faults.attack_agent"]
        folder = Path(__file__).parent.parent
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def attack(self, attack: Attack, scene: Scene) -> Counter[Outcome]:
        """Have it done; how often each outcome came."""
        order = {"attack": attack.name, "port": scene.port, "options": dict(scene.options), "is_full": scene.is_full}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        ready, _, _ = select.select([self._process.stdout], [], [], LONGEST_SECONDS)
        assert ready, f"{attack.name} has not ended within {LONGEST_SECONDS:g} s"
        line = self._process.stdout.readline()
        assert line, f"{attack.name} ended the attacker's process"
        return Counter({
            Outcome(label, answer, tuple(allowed)): times for label, answer, allowed, times in json.loads(line)["outcomes"]
        })  # fmt: skip

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    os.nice(NICE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        attack = ATTACKS[order.pop("attack")]
        print(json.dumps({"outcomes": _done(attack, Scene(**order))}), flush=True)


def _done(attack: Attack, scene: Scene) -> list[tuple[str, str, tuple[str, ...], int]]:
    found: Counter[Outcome] = Counter()
    try:
        found.update(attack.run(scene))
    except OSError as failure:  # the server has gone, or lets nobody in: that is an outcome
        found[Outcome("the attacker", f"{type(failure).__name__}: {failure}", ())] += 1
    return [(*outcome, times) for outcome, times in found.items()]


if __name__ == "__main__":
    main()
