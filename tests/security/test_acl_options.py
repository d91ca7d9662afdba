"""What is wrong in a rule is said with its place, all of it at once; and what stands beside the plugin is true."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from testorch_core.config import construct, parse_configuration
from testorch_core.errors import ConfigurationError
from testorch_core.options import OptionsError
from testorch_plugins.security.acl.options import AclOptions
from testorch_plugins.security.acl.plugin import AccessControlList
from testorch_plugins.security.acl.words import rule_words

FOLDER = Path(__file__).parents[2] / "testorch_plugins/security/acl"
GOOD = {"allow": ["report"]}


def problems(given: Any) -> list[str]:
    with pytest.raises(OptionsError) as refused:
        AclOptions.load({"rules": given}, folder=FOLDER)
    return [one.problem for one in refused.value.problems]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([GOOD, {"alow": ["report"]}], "`rules.2.alow`: is not a key of a rule; did you mean `allow`?"),
        ([GOOD | {"xyz": 1}], "`rules.1.xyz`: is not a key of a rule; its keys: `allow`, `deny`, `principals`, `roles`, `projects`, `runs`, `reason`"),
        ([{"projects": ["web"]}], '`rules.1`: says neither `allow` nor `deny`; one is required, such as `allow = ["report"]`'),
        ([GOOD | {"deny": ["observe"]}], "`rules.1`: has both `allow` and `deny`; write two rules: the first that matches decides"),
        ([{"allow": "report"}], '`rules.1.allow`: must be a list, such as `["report"]`'),
        ([{"allow": []}], "`rules.1.allow`: is an empty list, which matches nothing; leave the key out, or say whom or what it is about"),
        ([{"allow": ["evnt"]}], "`rules.1.allow`: `evnt` is not an action; did you mean `event`?"),
        ([{"deny": ["starttestrun"]}], "`rules.1.deny`: `starttestrun` is not an action; did you mean `startTestRun`?"),
        ([{"allow": ["get*"]}], "`rules.1.allow`: `get*` is not an action; known: `*`, `report`, `observe`, "),
        ([{"allow": ["heartbeat"]}], "`rules.1.allow`: `heartbeat` is always allowed; leave it out"),
        ([{"deny": ["unsubscribe"]}], "`rules.1.deny`: `unsubscribe` is always allowed; leave it out"),
        ([GOOD | {"projects": "web"}], '`rules.1.projects`: must be a list, such as `["web", "web-*"]`'),
        ([GOOD | {"runs": []}], "`rules.1.runs`: is an empty list"),
        ([GOOD | {"roles": [3]}], "`rules.1.roles`: must be a list of strings of 1 to 200 characters"),
        ([GOOD | {"principals": [""]}], "`rules.1.principals`: must be a list of strings of 1 to 200 characters"),
        ([GOOD | {"principals": ["a" * 201]}], "`rules.1.principals`: must be a list of strings of 1 to 200 characters"),
        ([GOOD | {"reason": " "}], "`rules.1.reason`: must be a string of 1 to 300 characters"),
        ([GOOD | {"reason": 3}], "`rules.1.reason`: must be a string of 1 to 300 characters"),
        (["allow"], "`rules.1`: must be a table, such as `[[security.NAME.rules]]`"),
        ("allow", "`rules`: must be a list of rules, each a table such as `[[security.NAME.rules]]`"),
        (7, "`rules`: must be a list of rules"),
        ([], "`rules`: must have 1 to 1,000 rules; without any, nothing would be allowed to anybody"),
        ([GOOD] * 1_001, "`rules`: must have 1 to 1,000 rules"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_rule_is_said_with_its_place(given: Any, words: str):
    (said,) = problems(given)
    assert said.startswith(words)


def test_all_mistakes_are_said_at_once():
    said = problems([{"projects": []}, GOOD, {"alow": ["x"], "runs": 3}, {"deny": ["evnt", "hallo"], "reason": ""}])
    places = [one.split("`")[1] for one in said]
    assert places == [
        "rules.1",
        "rules.1.projects",
        "rules.3.alow",
        "rules.3.runs",
        "rules.4.deny",
        "rules.4.deny",
        "rules.4.reason",
    ]


def test_a_mistake_names_the_file_and_the_instance():
    text = '[storage]\nuse = "memory"\n[security.access]\nuse = "acl"\n[[security.access.rules]]\nalow = ["report"]\n'
    with pytest.raises(ConfigurationError) as refused:
        construct(parse_configuration(text, source="testorch.toml", folder=FOLDER))
    assert (
        str(refused.value)
        == "testorch.toml: security.access (acl): `rules.1.alow`: is not a key of a rule; did you mean `allow`?"
    )


def test_the_rules_are_required():
    with pytest.raises(OptionsError, match="`rules` is required: who may do what"):
        AclOptions.load({}, folder=FOLDER)


def test_a_rule_is_shown_as_the_file_has_it():
    given = {
        "deny": ["event", "getRuns"],
        "principals": ["ci-*"],
        "roles": ["a"],
        "projects": ['q"'],
        "runs": ["é"],
        "reason": "a\nb",
    }
    (rule,) = AclOptions.load({"rules": [given]}, folder=FOLDER).rules
    shown = rule_words(rule)
    assert (
        shown
        == r'deny = ["event", "getRuns"], principals = ["ci-*"], roles = ["a"], projects = ["q\""], runs = ["é"], reason = "a\nb"'
    )
    assert tomllib.loads(f"rule = {{ {shown} }}")["rule"] == given


# What stands beside the plugin.


def test_the_sample_works_and_shows_every_option_and_every_key_of_a_rule():
    given = tomllib.loads((FOLDER / "sample.toml").read_text("utf-8"))["security"]["acl"]
    assert given.pop("use") == "acl"
    assert list(given) == [spec.name for spec in AclOptions.specs()]
    AccessControlList("acl", AclOptions.load(given, folder=FOLDER))
    assert {key for rule in given["rules"] for key in rule} == {
        "allow",
        "deny",
        "principals",
        "roles",
        "projects",
        "runs",
        "reason",
    }


def test_the_readme_has_the_sample_and_the_option():
    text = (FOLDER / "README.md").read_text("utf-8")
    assert f"```toml\n{(FOLDER / 'sample.toml').read_text('utf-8')}```" in text
    rows = [f"| `{spec.name}` | required | {spec.help} |" for spec in AclOptions.specs()]
    assert "\n".join(("| option | default | what it does |", "| --- | --- | --- |", *rows)) in text
