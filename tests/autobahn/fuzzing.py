"""Runs the fuzzing client against an echo server on one transport, and leaves its report in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from autobahn.cases import Case
from autobahn.failures import SuiteError

TESTS: Final = Path(__file__).resolve().parent.parent
LIMIT_SECONDS: Final = 3600.0
"""How long the fuzzing client may take with one transport; many times what it needs."""

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
LIBRARY_LIMITS: Final = {"WEBSOCKETS_MAX_FRAGMENTS": "1000000"}
"""`websockets` has a limit of its own besides our option `max_fragments`, 4096, read when it is imported."""

_WSTEST: Final = "from autobahntestsuite.wstest import run; run()"
_RUNNING: Final = "Running test case ID "


def fuzz(python2: Path, transport: str, cases: Sequence[Case], folder: Path, say: Callable[[str], None]) -> None:
    """Run the cases; the report is in `folder/reports`, the logs beside it.

    Raises `SuiteError` when the server doesn't start or doesn't live to the end, or the client doesn't finish.
    """
    with echo_server(transport, folder / "server.log") as server:
        target = {"agent": transport, "url": server.address}
        wanted = {"outdir": str(folder / "reports"), "servers": [target], "cases": [one.id for one in cases]}
        spec = folder / "spec.json"
        spec.write_text(json.dumps(wanted))
        _client(python2, spec, say)


@dataclass(frozen=True, slots=True)
class EchoServer:
    """An echo server in a process of its own."""

    address: str
    pid: int


@contextmanager
def echo_server(transport: str, log: Path) -> Iterator[EchoServer]:
    """An echo server for as long as the block runs. Raises `SuiteError` unless it is alive to the end."""
    command = [sys.executable, "-m", "autobahn.echo_server", transport, str(log.parent)]
    environment = {**os.environ, **LIBRARY_LIMITS}
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, cwd=TESTS, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        try:
            yield EchoServer(_address(process, transport, log), process.pid)
            _stop(process, transport, log)
        finally:
            process.kill()


def _address(process: subprocess.Popen[bytes], transport: str, log: Path) -> str:
    with _killed_after(START_SECONDS, process):
        address = process.stdout.readline().decode().strip() if process.stdout else ""
    if not address:
        raise SuiteError(f"the echo server on transport `{transport}` does not start:\n{_tail(log)}")
    return address


def _stop(process: subprocess.Popen[bytes], transport: str, log: Path) -> None:
    """End a server that ought to be alive still, by closing its standard input."""
    early = process.poll() is not None
    if process.stdin:
        process.stdin.close()
    with _killed_after(STOP_SECONDS, process):
        code = process.wait()
    if early or code:
        raise SuiteError(f"the echo server on transport `{transport}` ended with {code}:\n{_tail(log)}")


def _client(python2: Path, spec: Path, say: Callable[[str], None]) -> None:
    """Run the fuzzing client to its end, saying which group of cases it is at."""
    command = [str(python2), "-E", "-u", "-c", _WSTEST, "--mode", "fuzzingclient", "--spec", str(spec)]
    log = spec.with_name("client.log")
    with (
        log.open("w") as kept,
        subprocess.Popen(
            command, cwd=spec.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as client,
        _killed_after(LIMIT_SECONDS, client),
    ):
        _follow(client.stdout or (), kept, say)
        client.wait()
    if client.returncode:
        raise SuiteError(f"the fuzzing client ended with {client.returncode}:\n{_tail(log)}")


def _follow(lines: Iterable[str], kept: TextIO, say: Callable[[str], None]) -> None:
    group = ""
    for line in lines:
        kept.write(line)
        if line.startswith(_RUNNING) and (now := line.removeprefix(_RUNNING).partition(".")[0]) != group:
            group = now
            say(f"  {group}.* …")


@contextmanager
def _killed_after(seconds: float, process: subprocess.Popen[Any]) -> Iterator[None]:
    """Kill a process that is at it for too long, and one that is left behind by an exception."""
    alarm = threading.Timer(seconds, process.kill)
    alarm.start()
    try:
        yield
    except BaseException:
        process.kill()
        raise
    finally:
        alarm.cancel()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
