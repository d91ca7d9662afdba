"""`testorch acl explain`: which rule decides, in words, as JSON and by the exit code."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from whole_support import run_testorch

from testorch_core import config as core_config
from testorch_core.cli import explaining, main
from testorch_core.config import PluginTable
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.security import (
    ALLOW,
    AccessRequest,
    Admission,
    Close,
    Delay,
    Explanation,
    SecurityPolicy,
)
from testorch_core.loading import load_plugin
from testorch_core.options import Options

HEAD = '[storage]\nuse = "memory"\n'
RULES = """
[security.access]
use = "acl"

[[security.access.rules]]
deny = ["startTestRun"]
projects = ["payroll"]
reason = "pay day"

  [[ security . "access" . rules ]]
allow = ["report"]
principals = ["ci-*"]
roles = ["runner"]
runs = ["nightly-*"]
"""
CI = ("--as", "ci-1", "--role", "other", "--role", "runner")

Explain = Callable[..., tuple[int, str, str]]


@pytest.fixture
def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Explain:
    """Runs the command in this process with a configuration; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, toml: str = HEAD + RULES) -> tuple[int, str, str]:
        Path("c.toml").write_text(toml, "utf-8")
        with pytest.raises(SystemExit) as ended:
            main(["acl", "explain", "--config", "c.toml", *arguments])
        told = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, told.out, told.err

    return run


def test_the_rule_that_allows_is_named_with_its_line(explain: Explain):
    assert explain(*CI, "--do", "event", "--project", "web", "--run", "nightly-1") == (
        0,
        'security.access (acl): rule 2 allows it: allow = ["report"], principals = ["ci-*"], roles = ["runner"], runs = ["nightly-*"] '
        "(c.toml:12)\nallow\n",
        "",
    )


def test_the_rule_that_denies_is_named_with_what_the_client_is_told(explain: Explain):
    assert explain(*CI, "--do", "startTestRun", "--project", "payroll") == (
        1,
        'security.access (acl): rule 1 denies it: deny = ["startTestRun"], projects = ["payroll"], reason = "pay day" (c.toml:7)\n'
        "deny: forbidden: the access rules do not allow this: pay day\n",
        "",
    )


def test_where_no_rule_matches_it_says_so(explain: Explain):
    assert explain("--as", "bob", "--do", "event", "--project", "web") == (
        1,
        "security.access (acl): no rule matches, and by default nothing is allowed\n"
        "deny: forbidden: the access rules do not allow this\n",
        "",
    )


def test_what_is_allowed_by_more_than_a_rule_about_it_says_why(explain: Explain):
    _, greeting, _ = explain(*CI, "--do", "hello", "--project", "api")
    assert greeting.startswith(
        "security.access (acl): rule 2 allows `cancelTestRun`, and who may do anything may say `hello`: allow = "
    )
    assert explain("--as", "bob", "--do", "unsubscribe", "--project", "web")[:2] == (
        0,
        "security.access (acl): `unsubscribe` is always allowed\nallow\n",
    )


def test_as_json(explain: Explain):
    code, out, _ = explain(*CI, "--do", "event", "--project", "web", "--run", "r", "--json")
    assert (code, json.loads(out)) == (
        1,
        {
            "principal": "ci-1", "roles": ["other", "runner"], "action": "event", "project": "web", "runId": "r",
            "outcome": "deny", "policy": "access",
            "answers": [{"policy": "access", "plugin": "acl", "verdict": "deny", "place": None, "line": None,
                         "words": "no rule matches, and by default nothing is allowed",
                         "told": "forbidden: the access rules do not allow this"}],
        },
    )  # fmt: skip
    code, out, _ = explain(*CI, "--do", "event", "--project", "web", "--run", "nightly-1", "--json")
    (answer,) = json.loads(out)["answers"]
    assert (code, answer["verdict"], answer["place"], answer["line"], answer["told"]) == (
        0,
        "allow",
        "rules.2",
        12,
        None,
    )


def test_rules_on_one_line_have_no_line_of_their_own(explain: Explain):
    inline = HEAD + '[security.acl]\nrules = [{ deny = ["event"] }, { allow = ["*"] }]\n'
    assert (
        explain("--as", "a", "--do", "getRuns", "--project", "p", toml=inline)[1]
        == 'security.acl: rule 2 allows it: allow = ["*"]\nallow\n'
    )


def test_headers_in_a_text_do_not_mislead(explain: Explain):
    tricky = RULES.replace('"pay day"', '"""\n[[security.access.rules]]\n"""')
    out = explain(*CI, "--do", "event", "--project", "web", "--run", "nightly-1", toml=HEAD + tricky)[1]
    assert "(c.toml" not in out


@pytest.mark.parametrize(
    ("arguments", "toml", "words"),
    [
        (["--do", "starttestrun"], HEAD + RULES, "`starttestrun` is not an action; did you mean `startTestRun`?"),
        (["--do", "heartbeat"], HEAD + RULES, "`heartbeat` is not an action"),
        (["--do", "x\x1b[31m"], HEAD + RULES, r"`x\x1b[31m` is not an action"),
        (["--do", "event", "--instance", "acl"], HEAD + RULES, "c.toml: security: no instance is named `acl`; there are: `access`"),
        (["--do", "event"], HEAD + RULES.replace("deny", "dney"), "c.toml: security.access (acl): `rules.1.dney`: is not a key of a rule; did you mean `deny`?"),
        (["--do", "event"], HEAD + RULES + "[nonsense]\n", "`nonsense` is not a table of the configuration"),
        (["--do", "event"], HEAD + RULES.replace('"acl"', '"acll"'), "no security plugin is named `acll`; did you mean `acl`?"),
        (["--do", "event"], HEAD, "c.toml: security: no configured policy can explain what it decides"),
        (["--do", "event"], "[storage", "is not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_question_or_configuration_ends_with_2(explain: Explain, arguments: list[str], toml: str, words: str):
    code, out, err = explain("--as", "a", "--project", "p", *arguments, toml=toml)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


# More than one policy.


class Fake(SecurityPolicy):
    summary = "for tests"
    options_type = Options
    made: list[str]
    said: Any = None

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self.made.append(name)

    async def start(self, context: PluginContext) -> None: ...

    async def aclose(self) -> None: ...


class Silent(Fake):
    def admit(self, request: AccessRequest) -> Admission:
        return ALLOW


class Telling(Silent):
    def explain(self, request: AccessRequest) -> Explanation | None:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Fake]]:
    """Security plugins by name, beside those that are installed."""
    found: dict[str, type[Fake]] = {}

    def load(family: str, name: str) -> Any:
        return found.get(name) or load_plugin(family, name)

    monkeypatch.setattr(explaining, "load_plugin", load)
    monkeypatch.setattr(core_config, "load_plugin", load)
    monkeypatch.setattr(Fake, "made", [], raising=False)
    return found


MORE = (
    HEAD
    + RULES
    + '[security.quiet]\nuse = "quiet"\nsecret = { env = "NOT_SET_HERE" }\n[security.other]\nuse = "telling"\n'
)
ASKED = (*CI, "--do", "event", "--project", "web", "--run", "nightly-1")


def test_every_policy_that_can_is_asked_and_the_first_refusal_counts(explain: Explain, policies: dict[str, Any]):
    policies |= {
        "quiet": Silent,
        "telling": type("T", (Telling,), {"said": Explanation(Close(4429, "go"), "on a\nwhim")}),
    }
    code, out, _ = explain(*ASKED, toml=MORE)
    assert code == 1
    assert out.splitlines()[1:] == [
        "security.quiet: decides about messages, too, and can't explain it",
        r"security.other (telling): on a\nwhim",
        "deny: closed with 4429: go",
    ]
    assert Fake.made == ["other"], "who can't explain needs no secrets here"
    assert [one["verdict"] for one in json.loads(explain(*ASKED, "--json", toml=MORE)[1])["answers"]] == [
        "allow",
        "unknown",
        "deny",
    ]
    assert explain(*ASKED, "--instance", "access", toml=MORE)[0] == 0
    assert explain(*ASKED, "--instance", "quiet", toml=MORE)[0] == 2


def test_a_delay_is_no_refusal(explain: Explain, policies: dict[str, Any]):
    policies |= {
        "quiet": Silent,
        "telling": type("T", (Telling,), {"said": Explanation(Delay(3.0), "slowly", "limits")}),
    }
    assert explain(*ASKED, toml=MORE)[0] == 0


def test_a_policy_that_raises_has_not_allowed_anything(explain: Explain, policies: dict[str, Any]):
    policies |= {"quiet": Silent, "telling": type("T", (Telling,), {"said": RuntimeError("hunter2")})}
    code, out, err = explain(*ASKED, toml=MORE)
    assert (code, out, err) == (1, "", "testorch: security policy `other` failed in `explain`\n")


@pytest.mark.parametrize("place", ["", "rules", "rules.0", "rules.3", "rules.x", "other.1", "rules.1.allow", "rules.²"])
def test_a_place_that_is_not_in_the_file_has_no_line(place: str):
    given = {"rules": [{}, {}], "other": 3}
    assert (
        explaining.line_of(RULES, PluginTable(family="security", name="access", use="acl", given=given), place) is None
    )


@pytest.mark.slow(reason="starts a Python process, a quarter of a second")
def test_from_a_shell(tmp_path: Path):
    (tmp_path / "c.toml").write_text(HEAD + RULES)
    ended = run_testorch("acl", "explain", *ASKED, "--config", "c.toml", cwd=tmp_path)
    assert (ended.returncode, ended.stdout.splitlines()[-1], ended.stderr) == (0, "allow", "")


def test_the_commands_of_the_readme_print_what_it_shows(tmp_path: Path, monkeypatch: Any, capsys: Any):
    folder = Path(__file__).parents[2] / "testorch_plugins/security/acl"
    shown = (folder / "README.md").read_text("utf-8").split("```console\n")[1].split("```")[0]
    (tmp_path / "testorch.toml").write_text(HEAD + (folder / "sample.toml").read_text("utf-8"))
    monkeypatch.chdir(tmp_path)
    for part in shown.split("$ testorch ")[1:]:
        command, output = part.split("\n", 1)
        with pytest.raises(SystemExit):
            main(shlex.split(command))
        assert capsys.readouterr().out == output
