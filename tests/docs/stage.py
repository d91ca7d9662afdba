"""Where the snippets of one page are run: an empty folder, ports of its own, and the servers that the page starts."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

import pytest
from snippets import ROOT, Snippet, commands_of, is_as_shown
from websockets.sync.client import connect

from testorch_core.config import configuration_of, construct, parse_configuration

UNTIL_QUIET = """
const __log = console.log;
let __timer;
console.log = (...words) => {
  __log(...words);
  clearTimeout(__timer);
  __timer = setTimeout(() => process.exit(0), 500);
};
"""
"""A browser's console stays open; here the process ends when half a second has passed after the last line."""

DEFAULT_PORT = "8765"
WAIT_SECONDS = 60
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+|(?<=--port )\d+|(?<=\bport = )\d+")


class Stage:
    """Runs a page's snippets in their order; an assertion names the snippet that isn't as it says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._site = folder.with_name("site")
        self._ports: dict[str, str] = {}
        self._servers: list[subprocess.Popen[str]] = []
        self._has_server = False
        self._last_output = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in reversed(self._servers):
            server.kill()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()

    def play(self, snippet: Snippet) -> None:
        marker = snippet.marker
        assert marker is not None, snippet.place
        if marker.file is not None:
            file = self._folder / marker.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self._with_own_ports(snippet.text), "utf-8")
        if marker.is_output:
            assert is_as_shown(self._last_output, snippet.text), f"{snippet.place}: it was\n{self._last_output}"
        match marker.run:
            case "server":
                self._need_server()
                self._run_script(snippet) if snippet.language == "python" else self._run_console(snippet)
            case "script":
                self._run_script(snippet)
            case "console":
                self._run_console(snippet)
            case "background":
                self._start(snippet)
            case "browser":
                self._run_in_node(snippet)
            case "message":
                self._send(snippet)
            case "configuration" | "partial configuration":
                self._construct(snippet)

    # Each kind of snippet.

    def _run_script(self, snippet: Snippet) -> None:
        file = self._folder / "snippet.py"
        file.write_text(self._with_own_ports(snippet.text), "utf-8")
        ended = self._run([sys.executable, str(file)])
        assert ended.returncode == 0, f"{snippet.place}:\n{ended.stdout}"
        self._last_output = ended.stdout

    def _run_console(self, snippet: Snippet) -> None:
        assert snippet.marker is not None
        commands = commands_of(snippet.text)
        for number, (command, shown) in enumerate(commands, 1):
            code = snippet.marker.exit_code if number == len(commands) else 0
            deadline = time.monotonic() + snippet.marker.within_seconds
            while True:
                ended = self._run(self._argv(command))
                said = "" if command.startswith("pip ") else ended.stdout  # what pip says is its own business
                is_right = ended.returncode == code and is_as_shown(said, shown)
                if is_right or time.monotonic() >= deadline:
                    break
                time.sleep(0.05)  # another process is being waited for, which tells nobody when it is done
            assert is_right, f"{snippet.place}: `{command}` ended with {ended.returncode}:\n{ended.stdout}"
            self._last_output = ended.stdout

    def _start(self, snippet: Snippet) -> None:
        ((command, shown),) = commands_of(snippet.text)
        output = self._spawn(self._argv(command), lines=len(shown.splitlines()))
        assert is_as_shown(output, shown), f"{snippet.place}: it said\n{output}"
        self._has_server = True

    def _run_in_node(self, snippet: Snippet) -> None:
        file = self._folder / "snippet.mjs"
        file.write_text(UNTIL_QUIET + self._with_own_ports(snippet.text), "utf-8")
        ended = self._run([*_node(), str(file)])
        assert ended.returncode == 0, f"{snippet.place}:\n{ended.stdout}"
        self._last_output = ended.stdout

    def _send(self, snippet: Snippet) -> None:
        self._need_server()
        with connect(f"ws://127.0.0.1:{self._own_port(DEFAULT_PORT)}") as client:
            client.send(json.dumps(json.loads(snippet.text)))
            client.send(json.dumps({"type": "getActiveRuns", "id": "last"}))
            answers: list[Any] = []
            while not answers or answers[-1].get("inReplyTo") != "last":
                answers.append(json.loads(client.recv(timeout=WAIT_SECONDS)))
        assert [one for one in answers if one["type"] == "error"] == [], snippet.place

    def _construct(self, snippet: Snippet) -> None:
        assert snippet.marker is not None
        with mock.patch.dict(os.environ, snippet.marker.environment):
            configuration = parse_configuration(snippet.text, source=snippet.place, folder=self._folder)
            if snippet.marker.run == "partial configuration" and configuration.storage is None:
                tables = {"storage": {"use": "memory"}, **tomllib.loads(snippet.text)}
                configuration = configuration_of(tables, source=snippet.place, folder=self._folder)
            construct(configuration)

    # What they share.

    def _need_server(self) -> None:
        if not self._has_server:
            self._spawn(self._argv("testorch serve"), lines=1)
            self._has_server = True

    def _own_port(self, shown: str) -> str:
        """A free port that stands for one that a page shows."""
        if shown not in self._ports:
            with socket.socket() as one:
                one.bind(("127.0.0.1", 0))
                self._ports[shown] = str(one.getsockname()[1])
        return self._ports[shown]

    def _with_own_ports(self, text: str) -> str:
        return _PORT.sub(lambda found: self._own_port(found[0]), text)

    def _argv(self, command: str) -> list[str]:
        program, *arguments = shlex.split(self._with_own_ports(command), comments=True)
        match program:
            case "testorch":
                if arguments == ["serve"]:
                    arguments += ["--port", self._own_port(DEFAULT_PORT)]
                return [sys.executable, "-m", "testorch_core.cli", *arguments]
            case "python":
                return [sys.executable, *(_in_checkout(one) for one in arguments)]
            case "pytest":
                quiet = ["-p", "no:cacheprovider", "-p", "no:randomly"]
                return [sys.executable, "-m", "pytest", *quiet, *arguments]
            case "pip" if arguments[0] == "install":
                # Into a folder beside the page's, so that the environment of the tests stays as it is.
                options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(self._site)]
                return [sys.executable, "-m", "pip", "install", *options, *arguments[1:]]
            case "ls":
                return [program, *arguments]
        raise AssertionError(f"no test knows how to run `{command}`")

    def _environment(self) -> dict[str, str]:
        # CI makes pytest's summary longer than a terminal's, which is what the pages show.
        kept = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
        return {**kept, "PYTHONPATH": str(self._site), "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}

    def _run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            cwd=self._folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=WAIT_SECONDS,
            check=False,
        )

    def _spawn(self, argv: list[str], *, lines: int) -> str:
        """Start a process that stays; returns its first lines."""
        with ExitStack() as unless_started:
            process = subprocess.Popen(
                argv,
                cwd=self._folder,
                env=self._environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
            )
            unless_started.callback(process.kill)
            assert process.stdout is not None
            output = "".join(process.stdout.readline() for _ in range(lines))
            unless_started.pop_all()
        self._servers.append(process)
        return output


def _in_checkout(argument: str) -> str:
    """Pages name the examples as they are found from the checkout's own folder."""
    return str(ROOT / argument) if argument.startswith("examples/") else argument


def _node() -> list[str]:
    """Node.js with a global `WebSocket`; skips the test where there is none."""
    program = shutil.which("node")
    for flags in ([], ["--experimental-websocket"]):
        if program is None:
            break
        check = [program, *flags, "--eval", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if subprocess.run(check, capture_output=True, timeout=WAIT_SECONDS, check=False).returncode == 0:
            return [program, *flags]
    pytest.skip("needs Node.js with WebSocket (20.10 or newer)")
