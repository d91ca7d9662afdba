"""A secret of the configuration appears nowhere: no log line, no error, no answer, no file but the one it stands in."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

CANARY = "canary-7f3a9e-of-the-configuration"
CONFIGURATION = """\
[storage]
use = "sqlite"
path = "t.db"

[transports.main]
use = "{transport}"
port = 0

[security.tokens]
use = "token_auth"

[security.tokens.static.ci]
token = {token}
{more}

[security.redaction]
literals = {{ deploy = {{ env = "CANARY" }} }}

[security.events]
use = "event_validation"
"""


def printed(folder: Path, *arguments: str, **settings: str) -> str:
    """What a command prints, all of it."""
    text = CONFIGURATION.format(**{"transport": "websocket", "token": '{ env = "CANARY" }', "more": "", **settings})
    (folder / "testorch.toml").write_text(text)
    command = [sys.executable, "-m", "testorch_core.cli", *arguments, "--config", "testorch.toml"]
    ended = subprocess.run(
        command, cwd=folder, env={**os.environ, "CANARY": CANARY}, capture_output=True, text=True, timeout=60
    )
    return ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"token": f'"{CANARY}"'},
        {"token": f'"{CANARY}"', "more": 'scopes = ["root"]'},
        {"token": f'["{CANARY}"]'},
        {"token": f'{{ env = "CANARY", file = "{CANARY}" }}'.replace(CANARY, "x")},
        {"token": f'"{CANARY}"\ntokn = "{CANARY}"'},
        {"token": f'"{CANARY}'},
    ],
    ids=[
        "by reference",
        "in clear",
        "beside a mistake",
        "of the wrong type",
        "two references",
        "a near miss",
        "not TOML",
    ],
)
def test_check_and_its_complaints_do_not_show_it(tmp_path: Path, settings: dict[str, str]):
    shown = printed(tmp_path, "check", **settings)
    assert shown
    assert CANARY not in shown


def say(address: str, *messages: dict[str, object], token: str | None = CANARY) -> str:
    """All that a client hears."""
    heard: list[str] = []
    headers = {"Authorization": f"Bearer {token}"} if token else None
    try:
        with connect(address, additional_headers=headers, proxy=None) as client:
            for one in messages:
                client.send(json.dumps(one))
            while True:
                heard.append(str(client.recv(timeout=1)))
    except (TimeoutError, ConnectionClosed) as ended:
        heard.append(str(ended))
    except InvalidStatus as refused:
        heard.append(refused.response.body.decode())
    return "\n".join(heard)


def event(number: int, **payload: object) -> dict[str, object]:
    return {"type": "event", "payload": {"id": f"e{number}", "type": "test/end", "timestamp": 1, "payload": payload}}


@pytest.mark.slow(reason="runs a server, and waits for what it might say")
@pytest.mark.parametrize("transport", ["websocket", "websockets"])
def test_a_server_at_work_does_not_show_it(tmp_path: Path, transport: str):
    """At the most talkative log level, with good and bad clients, in the store, in the audit trail, and at its end."""
    assert CANARY not in printed(tmp_path, "check", transport=transport)
    environment = {**os.environ, "CANARY": CANARY}
    command = [sys.executable, "-m", "testorch_core.cli", "serve", "--config", "testorch.toml", "--log-level", "debug"]
    log = (tmp_path / "server.txt").open("w+")
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log) as server:
        try:
            while not (found := re.search(r"ws://\S+", (tmp_path / "server.txt").read_text())):
                assert server.poll() is None
            address = found[0]
            heard = say(
                address,
                {"type": "startTestRun", "payload": {"runId": "r", "name": CANARY, "metadata": {"key": CANARY}}},
                event(1, testId="t", status="failed", errors=[{"message": f"could not log in with {CANARY}"}]),
                event(2, testId="t2", status=CANARY),
                {"type": "hello", "payload": {"token": CANARY}},
                {"type": CANARY},
                {"type": "getRunStatus", "payload": {"runId": "r"}},
                {"type": "getStatistics"},
            )
            assert '"runStatus"' in heard
            assert '"policies":{"redaction":{"deploy":' in heard, "what was replaced is counted"
            told_again = [line for line in heard.splitlines() if CANARY in line]
            assert all('"unknown_type"' in line for line in told_again), "a client may hear its own word again, at most"
            for message in (
                {"type": "hello", "payload": {"token": CANARY + "x"}},
                {"type": "hello", "payload": {"token": 5}},
            ):
                assert CANARY not in say(address, message, token=None)
            assert "4401" in say(address, token=CANARY[:-1])
            assert CANARY not in say(address + f"/?token={CANARY}", token=None)
            server.send_signal(signal.SIGHUP)
            listed = printed(tmp_path, "token", "list", transport=transport)
            assert "static:ci" in listed
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
    log.close()
    shown = (tmp_path / "server.txt").read_text()
    assert "connection_refused" in shown, "the log was as talkative as it was asked to be"
    everything = shown + listed + printed(tmp_path, "audit", transport=transport)
    everything += printed(tmp_path, "show", "r", transport=transport)
    assert CANARY not in everything
    for stored in tmp_path.glob("t.db*"):
        assert CANARY.encode() not in stored.read_bytes(), stored.name
