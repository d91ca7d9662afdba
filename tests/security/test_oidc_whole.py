"""A job with a signed token is let in by `testorch serve`, and reports to the project that its rule opens."""

import json
import time

import pytest
from security.oidc_issuer import GIVEN, RULE, jwks, token
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from whole_support import serving

pytestmark = pytest.mark.slow(reason="starts `testorch serve`")

CONFIGURATION = f"""
[storage]
use = "sqlite"
[transports.main]
use = "websocket"
port = 0
[security.github]
use = "oidc_auth"
issuer = "{GIVEN["issuer"]}"
audience = "testorch"
jwks_file = "keys.json"
name = "github:{{repository}}"
[[security.github.rules]]
claims = {{ repository = "acme/*", ref = "refs/heads/*" }}
projects = {json.dumps(RULE["projects"])}
"""


@pytest.fixture
def server(tmp_path):
    (tmp_path / "keys.json").write_bytes(jwks())
    (tmp_path / "testorch.toml").write_text(CONFIGURATION)
    with serving(tmp_path, "--config", "testorch.toml", "--log-level", "info") as server:
        yield server


def fresh(**claims: object) -> str:
    now = int(time.time())
    return token({"iat": now, "nbf": now - 300, "exp": now + 300, **claims})


def ask(ws: object, kind: str, **payload: object) -> tuple[str, dict]:
    ws.send(json.dumps({"type": kind, "payload": payload}))  # type: ignore[attr-defined]
    answer = json.loads(ws.recv(timeout=10))  # type: ignore[attr-defined]
    return answer["type"], answer["payload"]


def test_a_job_is_let_in_by_header_or_by_hello_and_only_to_its_project(server):
    with connect(server.address, additional_headers={"Authorization": f"Bearer {fresh()}"}) as ws:
        kind, started = ask(ws, "startTestRun", runId="one")
        assert (kind, started.get("project")) == ("testRunStarted", "acme/web")
        kind, refused = ask(ws, "startTestRun", runId="two", project="acme/other")
        assert (kind, refused["code"]) == ("error", "forbidden")
    with connect(server.address) as ws:
        kind, _ = ask(ws, "hello", token=fresh())
        assert kind == "welcome"


def test_a_job_that_no_rule_matches_is_turned_away_and_the_log_says_why_without_the_token(server):
    stranger = fresh(repository="evil/web", sub="repo:evil/web")
    forged = fresh()[:-8] + "AAAAAAAA"
    for text in (stranger, forged):
        with connect(server.address) as ws, pytest.raises(ConnectionClosed) as closed:
            ask(ws, "hello", token=text)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
    rest = server.stop()
    assert "event=token_refused" in rest
    assert 'reason="no rule matches its claims"' in rest
    assert "subject=repo:evil/web" in rest
    assert 'reason="its signature is not right"' in rest
    assert stranger not in rest
    assert not any(part in rest for part in (*stranger.split("."), *forged.split(".")))
