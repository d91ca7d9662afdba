"""Which rule decides: patterns and rules against a naive reading of their documentation."""

import itertools
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from testorch_plugins.security.acl.options import AclOptions
from testorch_plugins.security.acl.patterns import Patterns
from testorch_plugins.security.acl.rules import ACTIONS, ALWAYS, GROUPS, OPENING, Rules

HERE = Path(__file__).parent
NOBODY: frozenset[str] = frozenset()


def rules(*tables: Mapping[str, Any]) -> Rules:
    return Rules(AclOptions.load({"rules": list(tables)}, folder=HERE).rules)


def allows(
    one: Rules,
    action: str,
    *,
    who: str = "ann",
    roles: Iterable[str] = (),
    project: str = "web",
    run: str | None = None,
) -> bool:
    return one.decide(who, frozenset(roles), action, project, run).allows


# Patterns.


def naive_match(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(naive_match(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and naive_match(pattern[1:], name[1:])


@given(st.lists(st.text("ab*?[.\n", min_size=1, max_size=8), min_size=1, max_size=3), st.text("ab*?[.\n", max_size=10))
@example(["*a*b*"], "ba")
@example(["a*a"], "a")
@example(["**", "?"], "")
def test_a_name_matches_as_the_naive_matcher_says(patterns: list[str], name: str):
    assert Patterns(patterns).match(name) is any(naive_match(one, name) for one in patterns)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("web", ["web"], ["Web", "web\n", "web-1", " web", ""]),
        ("web-*", ["web-", "web-1", "web-a\nb", "web-*"], ["web", "xweb-1", "WEB-1"]),
        ("v?", ["v1", "vé", "v\n", "v\U0001f9ea"], ["v", "v12", "ve\u0301"]),
        ("[ab]", ["[ab]"], ["a", "b"]),
        ("a.c|^d$", ["a.c|^d$"], ["abc", "d"]),
        ("*", ["", "anything", "\n"], []),
    ],
)
def test_only_a_star_and_a_question_mark_are_special_and_the_whole_name_must_match(
    pattern: str, matching: list[str], others: list[str]
):
    one = Patterns([pattern])
    assert [name for name in (*matching, *others) if one.match(name)] == matching


def test_no_name_keeps_a_pattern_busy():
    one = Patterns(["*a" * 60 + "*b", "?*" * 80 + "b"])
    begun = time.perf_counter()
    assert not one.match("a" * 200)
    assert time.perf_counter() - begun < 0.5, "a search that comes back would take longer than the sun will shine"


# Rules.


def test_the_first_rule_that_matches_decides_and_where_none_does_nothing_may_pass():
    one = rules(
        {"deny": ["cancelTestRun"]}, {"allow": ["report"], "projects": ["web"]}, {"deny": ["*"]}, {"allow": ["*"]}
    )
    assert not allows(one, "cancelTestRun")
    assert allows(one, "startTestRun")
    assert not allows(one, "startTestRun", project="api")
    assert not allows(rules({"allow": ["observe"]}), "startTestRun")


@pytest.mark.parametrize("named", ["event", "events"])
def test_an_event_alone_and_several_are_the_same_action(named: str):
    for action in ("event", "events"):
        assert allows(rules({"allow": [named]}), action)
        assert not allows(rules({"deny": [named]}, {"allow": ["*"]}), action)


def test_all_that_a_rule_gives_must_match():
    one = rules({"allow": ["*"], "principals": ["ci-*"], "roles": ["runner"], "projects": ["web"], "runs": ["n-*"]})
    full = {"who": "ci-1", "roles": ["x", "runner"], "project": "web", "run": "n-1"}
    assert allows(one, "event", **full)
    for other in ({"who": "bob"}, {"roles": ["x"]}, {"roles": []}, {"project": "api"}, {"run": "r"}, {"run": None}):
        assert not allows(one, "event", **(full | other))


def test_a_message_that_names_no_run_meets_only_rules_without_runs():
    assert not allows(rules({"allow": ["*"], "runs": ["*"]}), "startTestRun")
    assert allows(rules({"deny": ["*"], "runs": ["*"]}, {"allow": ["*"]}), "startTestRun")


def test_every_message_is_in_a_group_or_known_by_its_name_alone():
    assert GROUPS["report"] | GROUPS["observe"] == ACTIONS, "a new message: which group is it in, if any?"
    assert GROUPS["report"].isdisjoint(GROUPS["observe"])


# What everybody needs who may do anything.


def test_signs_of_life_and_the_end_of_ones_own_subscription_are_never_refused():
    for action in ALWAYS:
        assert allows(rules({"deny": ["*"]}), action)


@pytest.mark.parametrize("action", sorted(OPENING))
def test_who_may_do_anything_in_a_project_may_open_a_conversation_about_it(action: str):
    viewers = rules(
        {"deny": ["report"], "principals": ["ann"]}, {"allow": ["observe"], "projects": ["web"]}, {"deny": ["*"]}
    )
    assert allows(viewers, action, project="web")
    assert not allows(viewers, action, project="api")
    nightly = rules({"allow": ["report"], "runs": ["nightly-*"]})
    assert allows(nightly, action), "the run is named by a later message"
    assert not allows(rules({"allow": ["*"], "principals": ["bob"]}), action)
    assert not allows(rules({"deny": ["*"]}, {"allow": ["*"]}), action)


def test_a_greeting_that_names_no_project_is_for_everybody_who_may_do_anything_anywhere():
    one = rules({"deny": ["*"], "projects": ["api"]}, {"allow": ["observe"], "projects": ["web"]})
    assert allows(one, "hello", project="default")
    assert not allows(one, "hello", project="api")
    assert not allows(one, "getRuns", project="default")


def test_a_rule_that_denies_the_greeting_by_its_name_does():
    one = rules({"deny": ["hello"], "principals": ["ann"]}, {"allow": ["*"]})
    assert not allows(one, "hello")
    assert allows(one, "hello", who="bob")
    assert allows(one, "event")


def test_a_greeting_that_names_a_run_is_held_against_the_rules_as_everything_else():
    one = rules({"allow": ["observe"]}, {"allow": ["report"], "runs": ["nightly-*"]})
    assert allows(one, "hello", run="nightly-1")
    assert not allows(one, "hello", run="release-1")


def test_a_decision_says_which_rule_it_is_and_through_what():
    one = rules({"deny": ["report"]}, {"allow": ["getRuns"]})
    said = one.decide("ann", NOBODY, "hello", "web", None)
    assert (said.allows, said.rule.number, said.through) == (True, 2, "getRuns")
    said = one.decide("ann", NOBODY, "event", "web", None)
    assert (said.allows, said.rule.number, said.through) == (False, 1, None)
    assert one.decide("ann", NOBODY, "subscribe", "web", None).rule is None


# Against a naive reading.

NAMES = st.sampled_from(["a", "b", "ab", "default"])
PATTERNS = st.lists(st.sampled_from(["a", "b", "a*", "*b", "?", "*", "default"]), min_size=1, max_size=2)
WORDS = st.sampled_from(["*", "report", "observe", "hello", "event", "events", "getRuns", "startTestRun", "getTicket"])


@st.composite
def tables(draw: Any) -> dict[str, Any]:
    made = {draw(st.sampled_from(["allow", "deny"])): draw(st.lists(WORDS, min_size=1, max_size=2))}
    for key in ("principals", "roles", "projects", "runs"):
        if draw(st.booleans()):
            made[key] = draw(PATTERNS)
    return made


def naive_decision(
    listed: list[dict[str, Any]], who: str, roles: set[str], action: str, project: str, run: str | None
) -> bool:
    asked = {"event", "events"} if action in ("event", "events") else {action}
    for one in listed:
        words = one.get("allow") or one["deny"]
        meant = set(words).union(*(GROUPS.get(word, ()) for word in words))
        names = {"principals": {who}, "roles": roles, "projects": {project}, "runs": set() if run is None else {run}}
        if ("*" in words or asked & meant) and all(
            any(naive_match(pattern, name) for pattern in one[key] for name in names[key])
            for key in names
            if key in one
        ):
            return "allow" in one
    return False


QUESTION = (st.lists(tables(), min_size=1, max_size=5), NAMES, st.sets(NAMES, max_size=2), NAMES, st.none() | NAMES)


@given(*QUESTION)
def test_rules_decide_as_their_documentation_says(
    listed: Any, who: str, roles: set[str], project: str, run: str | None
):
    one = rules(*listed)
    for action in sorted(ACTIONS - ALWAYS):
        expected = naive_decision(listed, who, roles, action, project, run)
        if action in OPENING and run is None:
            continue  # below
        for _ in range(2):  # the second answer is the one that was remembered
            assert allows(one, action, who=who, roles=roles, project=project, run=run) is expected


@given(*QUESTION)
def test_nobody_who_may_do_anything_is_locked_out(
    listed: Any, who: str, roles: set[str], project: str, run: str | None
):
    listed = [one for one in listed if {"hello", "getTicket"}.isdisjoint(one.get("deny", ()))]
    if not listed:
        return
    useful = any(
        naive_decision(listed, who, roles, action, project, name)
        for action, name in itertools.product(sorted(ACTIONS - ALWAYS), (None, "a", "b", "ab", "default"))
        if action not in OPENING
    )
    hopeful = any("allow" in one and naive_decision([one | {"allow": ["*"]}], who, roles, "event", project, "a")
                  for one in ({key: value for key, value in given.items() if key != "runs"} for given in listed))  # fmt: skip
    for action in OPENING:
        may = allows(rules(*listed), action, who=who, roles=roles, project=project)
        assert may or not useful
        assert hopeful or not may or project == "default"


def test_a_changing_run_does_not_make_it_remember_without_end():
    one = rules({"allow": ["*"]})
    for number in range(10_000):
        one.decide("ann", NOBODY, "event", "web", f"run-{number}")
    info = one.decide.cache_info()
    assert info.currsize == info.maxsize == 4_096
