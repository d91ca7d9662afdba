"""A server under attack, and the oracle: what must be as it was, during the attack and after it."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from faults.attack_agent import Agent
from faults.attack_canary import Bystander, Canary, Newcomers, Watch
from faults.attack_kit import Attack, Scene
from faults.attack_oracle import forget_peak, kept, peaked, taken, wrong_answers, wrong_lines
from faults.stream_clients import RestartableServer, wait_until

CANARY_SECONDS: Final = 1.0
RECOVERY_SECONDS: Final = 30.0
"""Within what time descriptors and memory must be back."""

WARM_UP: Final = 20
"""How many events of the canary must have been acknowledged before anything is measured."""

ENDING_SECONDS: Final = 10.0
"""How long a server that has lost its canary may take to end, if it does."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "handshake_seconds": 10.0, "hurried_handshake_seconds": 2.0, "max_handshakes": 1000, "max_fragments": 4096,
    "max_connections_per_address": 2000, "max_message_bytes": 8 << 20, "max_partial_bytes": 256 << 20,
    "message_seconds": 60.0, "send_seconds": 30.0, "ping_seconds": 20.0, "missed_pings": 2, "close_seconds": 3.0,
}  # fmt: skip
"""What is documented, and what a server is held to even if its transport has no such option."""

QUICK_OPTIONS: Final[Mapping[str, Any]] = {
    "handshake_seconds": 2.0, "hurried_handshake_seconds": 0.5, "max_handshakes": 150, "max_connections_per_address": 250,
    "message_seconds": 1.5, "max_partial_bytes": 16 << 20, "send_seconds": 1.5, "ping_seconds": 0.8, "close_seconds": 0.5,
}  # fmt: skip
"""Limits so short that a quick version meets them all; the full one has the defaults."""


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    made, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-out", str(made), "-keyout", str(key)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return made, key


class Siege:
    """A `testorch serve` with one transport, a canary and newcomers, that goes through attacks one after the other."""

    def __init__(
        self,
        folder: Path,
        transport: str,
        agent: Agent,
        *,
        is_full: bool = False,
        tls: bool = False,
        has_options: bool = True,
        recovery_seconds: float = RECOVERY_SECONDS,
    ) -> None:
        self._agent = agent
        self._recovery_seconds = recovery_seconds
        self._is_full = is_full
        given: Mapping[str, Any] = {} if is_full else QUICK_OPTIONS
        self._options = {**DEFAULTS, **given}
        self._context: ssl.SSLContext | None = None
        tables = dict(given) if has_options else {}
        if tls:
            made, key = certificate(folder)
            tables |= {"tls_certificate": str(made), "tls_key": str(key)}
            self._context = ssl.create_default_context(cafile=str(made))
        self._server = RestartableServer(
            folder, "--log-level", "info", "--config", str(_configuration(folder, transport, tables))
        )
        scheme = "wss" if tls else "ws"
        self._address = f"{scheme}://127.0.0.1:{self._server.port}"
        self._is_started = False
        self._watches: list[Watch] = []
        self._bystander = Bystander(folder)
        self._bystander.start()

    def attack(self, attack: Attack) -> list[str]:
        """Attack, and say in words what should not have been. A server that did not stand it is made anew the next time."""
        found = ["the attack was not brought to its end"]
        try:
            self._prepare()
            found = [*self._attacked(attack)]
        finally:
            if found:
                self.end()
        return found

    def close(self) -> None:
        self.end()
        self._bystander.stop()

    def end(self) -> None:
        """Kill the server; another attack would begin with a new one."""
        for watch in self._watches:
            watch.stop()
        if self._is_started:
            self._server.kill()
        self._watches, self._is_started = [], False

    def _prepare(self) -> None:
        """A warm server, with canary and newcomers at work."""
        if self._is_started:
            return
        self._is_started = True
        self._server.start()
        self._watches = [Canary(self._address, self._context), Newcomers(self._address, self._context)]
        for watch in self._watches:
            watch.start()
        wait_until(lambda: self._watches[0].failure or self._watches[0].done > WARM_UP, "the canary sings")

    def _attacked(self, attack: Attack) -> Iterator[str]:
        pid = self._server.process.pid
        forget_peak(pid)
        before, said = taken(pid), len(self._server.log)
        for watch in (*self._watches, self._bystander):
            watch.forget()
        outcomes = self._agent.attack(attack, Scene(self._server.port, self._options, self._is_full))
        yield from wrong_answers(outcomes)
        if self._has_ended():
            yield f"the server ended by itself:\n{self._server.log[said:][-3000:]}"
            return
        yield from peaked(pid, before, attack.peak_bytes)
        yield from kept(pid, before, attack.kept_bytes, self._recovery_seconds)
        yield from self._late(attack)  # at last: to let go of many at once takes its time, too
        yield from wrong_lines(self._server.log[said:], attack.lines_each * outcomes.total())

    def _has_ended(self) -> bool:
        """Whether the process is over. Somebody must have been served after the attack to say no: an end takes a while."""
        counts = [watch.done for watch in self._watches]
        wait_until(
            lambda: all(watch.failure or watch.done > done for watch, done in zip(self._watches, counts, strict=True)),
            "canary and newcomers are served or fail",
        )
        with suppress(subprocess.TimeoutExpired):
            self._server.process.wait(ENDING_SECONDS if any(watch.failure for watch in self._watches) else 0)
        return self._server.process.poll() is not None

    def _late(self, attack: Attack) -> Iterator[str]:
        """Who waited too long, or met a failure."""
        machine = self._bystander.longest_seconds()
        for watch, most in zip(self._watches, (CANARY_SECONDS, attack.newcomer_seconds), strict=True):
            longest = watch.longest_seconds()
            if longest > most + machine:
                yield f"{watch.name} waited {longest:.2f} s, and a bystander {machine:.2f} s"
            if watch.failure:
                yield watch.failure


def _configuration(folder: Path, transport: str, options: Mapping[str, Any]) -> Path:
    path = folder / "testorch.toml"
    lines = [f"{name} = {value if isinstance(value, int | float) else repr(value)}" for name, value in options.items()]
    path.write_text("\n".join([
        '[storage]', 'use = "sqlite"', '[security.events]', 'use = "event_validation"',
        '[transports.attacked]', f'use = "{transport}"', *lines, ""
    ]))  # fmt: skip
    return path
