"""Configuration: everything that is wrong comes in one message, before anything is opened."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from marshmallow import fields

from testorch_core.config import construct, defaults, parse_configuration, read_configuration
from testorch_core.errors import ConfigurationError
from testorch_core.options import Options, OptionsError, Secret, option

BROKEN = """
stroage = 1

[server]
drain_second = 3

[storage]
use = "sqlite"
paht = "x"

[transports.main]
use = "websocket"
port = "8765"

[transports.other]
use = "websocket"
port = { env = "TESTORCH_NO_SUCH_VARIABLE" }
host = { file = "no-such-file" }

[security.a]
use = "event_validatoin"

[reporters.team-a]
use = 3

[reporters]
junit = 3
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        construct(parse_configuration(text, source="testorch.toml", folder=Path("/nowhere")))
    assert raised.value.exit_code == 2
    return str(raised.value).splitlines()


def test_every_problem_comes_in_one_message_sorted_by_its_place():
    found = problems(BROKEN.replace("[reporters]\njunit = 3\n", ""))
    expected = [
        "testorch.toml: reporters.team-a: `use` must be a string",
        "testorch.toml: security.a (event_validatoin): no security plugin is named `event_validatoin`; "
        "did you mean `event_validation`?; installed: `acl`, `event_validation`, `oidc_auth`, `rate_limit`, `redaction`, "
        "`token_auth` (testorch 0.1.0)",
        "testorch.toml: server: `drain_second` is not an option of the server; did you mean `drain_seconds`?",
        "testorch.toml: storage (sqlite): `paht` is not an option of this plugin; did you mean `path`?",
        "testorch.toml: stroage: `stroage` is not a table of the configuration; did you mean `[storage]`?",
        "testorch.toml: transports.main (websocket): `port`: not a valid integer",
        "testorch.toml: transports.other (websocket): `host`: the file `no-such-file` can't be read: No such file or directory",
        "testorch.toml: transports.other (websocket): `port`: the environment variable `TESTORCH_NO_SUCH_VARIABLE` is not set",
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("storage = ", "is not TOML"),
        ("", "storage: is missing"),
        ("storage = 3", "storage: must be a table such as `[storage]`"),
        ('[storage]\nuse = "memory"\n[reporters]\njunit = 3', "reporters.junit: must be a table"),
        (
            '[storage]\nuse = "memory"\n[transports.main]\nport = 3',
            "no transport plugin is named `main`; installed: `websocket`",
        ),
        ('transports = 1\n[storage]\nuse = "memory"', "transports: must be tables such as `[transports.main]`"),
        ('server = 1\n[storage]\nuse = "memory"', "server: must be a table"),
        ('[storage]\nuse = "memory"\nx = 1', "`x` is not an option of this plugin; its options: it has none"),
    ],
)
def test_each_mistake_has_a_sentence(text: str, words: str):
    (problem,) = problems(text)
    assert words in problem


def test_the_file_itself_may_be_missing(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="No such file"):
        read_configuration(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["default", "demo", "embedded"])
def test_the_shipped_defaults_are_sound(name: str, tmp_path: Path):
    construct(defaults(name, folder=tmp_path))


@dataclass(frozen=True, kw_only=True)
class Example(Options):
    token: Secret = option(fields.String(), help="a secret", secret=True)
    size: int = option(fields.Integer(strict=True), default=3, help="a number")
    loud: bool = option(fields.Boolean(), default=False, help="a switch")
    maybe: str | None = option(fields.String(), default=None, help="may be absent")
    labels: dict[str, str] = option(fields.Dict(), default=None, help="a table")


def test_references_are_resolved_and_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "token").write_text("s3cret\n")
    monkeypatch.setenv("SIZE", "12")
    monkeypatch.setenv("LOUD", "true")
    loaded = Example.load(
        {"token": {"file": "token"}, "size": {"env": "SIZE"}, "loud": {"env": "LOUD"}, "labels": {"env": "x"}},
        folder=tmp_path,
    )
    assert (loaded.token.reveal(), loaded.size, loaded.loud, loaded.maybe) == ("s3cret", 12, True, None)
    assert loaded.labels == {"env": "x"}, "an option that is a table takes no references"


def test_secrets_are_masked_wherever_they_are_printed(tmp_path: Path):
    loaded = Example.load({"token": "s3cret"}, folder=tmp_path)
    assert "s3cret" not in f"{loaded!r} {loaded.token} {loaded.token!r} {[loaded.token]}"
    with pytest.raises(OptionsError) as raised:
        Example.load({"token": ["s3cret"], "size": "s3cret"}, folder=tmp_path)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "`token` is required: a secret"),
        ({"token": {"env": 3}}, "`token`: `env` must be a string"),
        ({"token": {"url": "x"}}, "`token`: a table here must be a reference"),
        ({"token": "x", "size": {"env": "NOT_A_NUMBER"}}, "`size`: not a valid integer"),
    ],
)
def test_option_mistakes_have_sentences(given: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOT_A_NUMBER", "twelve")
    with pytest.raises(OptionsError) as raised:
        Example.load(given, folder=tmp_path)
    assert [words in one.problem for one in raised.value.problems] == [True]
