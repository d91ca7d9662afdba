"""Rules as the configuration writes them -> `Rule`, with everything that is wrong in them. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from testorch_plugins.security.acl import patterns
from testorch_plugins.security.acl.rules import ACTIONS, ALL, ALWAYS, GROUPS, Rule

MAX_NAME_CHARACTERS: Final = 200
"""Longer names of principals, projects and runs don't exist."""

MAX_REASON_CHARACTERS: Final = 300
VERBS: Final = ("allow", "deny")
CONDITIONS: Final = ("principals", "roles", "projects", "runs")
KEYS: Final = (*VERBS, *CONDITIONS, "reason")

Complaints = dict[str, list[str]]
"""Sentences by the key that they are about; those about the rule as a whole are under an empty key."""


def read_rule(number: int, given: Any) -> tuple[Rule | None, Complaints]:
    """A rule, or None and what is wrong with it."""
    if not isinstance(given, Mapping):
        return None, {"": ["must be a table, such as `[[security.NAME.rules]]`"]}
    complaints: Complaints = {}
    for key, wrong in _complaints(given):
        complaints.setdefault(key, []).append(wrong)
    if complaints:
        return None, complaints
    verb = next(one for one in VERBS if one in given)
    conditions = {key: patterns.of(given.get(key)) for key in CONDITIONS}
    rule = Rule(
        number=number, allows=verb == "allow", actions=tuple(given[verb]), reason=given.get("reason"), **conditions
    )
    return rule, {}


def _complaints(given: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    meant = set()
    for key in given:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            meant.update(near)
            hint = f"did you mean `{near[0]}`?" if near else f"its keys: {_listed(KEYS)}"
            yield key, f"is not a key of a rule; {hint}"
    verbs = [one for one in VERBS if one in given]
    if len(verbs) == 2:
        yield "", "has both `allow` and `deny`; write two rules: the first that matches decides"
    elif not verbs and meant.isdisjoint(VERBS):
        yield "", 'says neither `allow` nor `deny`; one is required, such as `allow = ["report"]`'
    for verb in verbs:
        yield from ((verb, wrong) for wrong in _wrong_actions(verb, given[verb]))
    for key in CONDITIONS:
        if key in given:
            yield from ((key, wrong) for wrong in _wrong_names(given[key], '["web", "web-*"]'))
    if "reason" in given:
        yield from (("reason", wrong) for wrong in _wrong_reason(given["reason"]))


def _wrong_actions(verb: str, given: Any) -> Iterable[str]:
    wrong = list(_wrong_names(given, '["report"]'))
    if wrong:
        yield from wrong
        return
    for one in given:
        if one == "heartbeat" or (one in ALWAYS and verb == "deny"):
            yield f"`{one}` is always allowed; leave it out"
        elif one not in ACTIONS and one not in GROUPS and one != ALL:
            yield f"`{one}` is not an action; {_hint(one)}"


def _hint(action: str) -> str:
    known = [ALL, *GROUPS, *sorted(ACTIONS)]
    near = difflib.get_close_matches(action, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known: {_listed(known)}"


def _wrong_names(given: Any, example: str) -> Iterable[str]:
    if not isinstance(given, list | tuple):
        yield f"must be a list, such as `{example}`"
    elif not given:
        yield "is an empty list, which matches nothing; leave the key out, or say whom or what it is about"
    elif not all(isinstance(one, str) and 0 < len(one) <= MAX_NAME_CHARACTERS for one in given):
        yield f"must be a list of strings of 1 to {MAX_NAME_CHARACTERS} characters, such as `{example}`"


def _wrong_reason(given: Any) -> Iterable[str]:
    if not isinstance(given, str) or not 0 < len(given.strip()) <= MAX_REASON_CHARACTERS:
        yield f"must be a string of 1 to {MAX_REASON_CHARACTERS} characters"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{one}`" for one in names)
