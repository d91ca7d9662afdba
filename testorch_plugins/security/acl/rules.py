"""Rules, and which of them decides about a message: the first that matches. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from testorch_core.events import DEFAULT_PROJECT
from testorch_core.protocol import SCHEMAS
from testorch_plugins.security.acl.patterns import Patterns

ALWAYS: Final = frozenset({"heartbeat", "unsubscribe"})
"""Never refused: a sign of life, and the end of what the client itself has begun. They tell and change nothing."""

OPENING: Final = frozenset({"hello", "getTicket"})
"""What comes before anything else can be done, and does nothing by itself: see `Rules.decide`."""

ACTIONS: Final = frozenset({"event", "getTicket", *SCHEMAS} - {"heartbeat"})
"""What a rule can be about: the messages of the protocol."""

ALL: Final = "*"
GROUPS: Final[Mapping[str, frozenset[str]]] = {
    "report": frozenset({"event", "events", "startTestRun", "endTestRun", "cancelTestRun", "streamEnd", "hello"}),
    "observe": frozenset({"subscribe", "unsubscribe", *(one for one in ACTIONS if one.startswith("get"))}),
}
"""Words for several actions."""

SAME: Final[Mapping[str, frozenset[str]]] = {
    "event": frozenset({"event", "events"}),
    "events": frozenset({"event", "events"}),
}
"""Two messages for one action: an event that comes alone, and one of several."""

REMEMBERED: Final = 4_096
"""Answers that are remembered, those asked for longest ago forgotten first: at most some 4 MB, whatever clients send."""

REMEMBERED_PRINCIPALS: Final = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule, the `number`th of the file, from 1. What is None is not asked for; all that is given must match.

    `actions` are actions, groups of them, or `*`.
    """

    number: int
    allows: bool
    actions: tuple[str, ...]
    principals: Patterns | None = None
    roles: Patterns | None = None
    projects: Patterns | None = None
    runs: Patterns | None = None
    reason: str | None = None

    def covers(self, action: str) -> bool:
        """Whether the rule is about an action."""
        return ALL in self.actions or self.names(action) or any(action in GROUPS.get(one, ()) for one in self.actions)

    def names(self, action: str) -> bool:
        """Whether the rule calls the action by its own name, not by a group's or `*`."""
        return any(one in self.actions for one in SAME.get(action, (action,)))

    def is_about(self, name: str, roles: Iterable[str]) -> bool:
        """Whether the rule is about a principal."""
        if self.principals is not None and not self.principals.match(name):
            return False
        return self.roles is None or self.roles.match_any(roles)

    def is_within(self, project: str) -> bool:
        """Whether the rule is about a project."""
        return self.projects is None or self.projects.match(project)

    def matches_run(self, run_id: str | None) -> bool:
        """Whether the rule is about a message with this run; one without a run meets only rules without `runs`."""
        return self.runs is None or (run_id is not None and self.runs.match(run_id))


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a message may pass, and the rule that says so; None where no rule does, and by default nothing may.

    `through` is set where the rule is not about the action itself, but lets the principal do something else (`OPENING`).
    """

    allows: bool
    rule: Rule | None = None
    through: str | None = None


Decide = Callable[[str, frozenset[str], str, str, str | None], Decision]


class Rules:
    """All rules in their order. Equal questions have equal answers, so the last ones are remembered."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple((rule, frozenset(filter(rule.covers, ACTIONS))) for rule in rules)
        self._of = lru_cache(REMEMBERED_PRINCIPALS)(self._rules_of)
        self.decide: Decide = lru_cache(REMEMBERED)(self._decide)
        """(principal's name, its roles, action, project, run id or None) -> `Decision`.

        The first rule that matches decides; where none does, the answer is no. Two things are different. What is in
        `ALWAYS` is not held against the rules. And what is in `OPENING` and names no run is allowed to everybody whom
        the rules allow anything in the project, unless the first rule that matches calls it by its name to deny it:
        `deny = ["report"]` for those who only watch must not take their greeting from them. Who says no project is in
        the project `default`; there, anything in any project will do.
        """

    def _rules_of(self, name: str, roles: frozenset[str]) -> tuple[tuple[Rule, frozenset[str]], ...]:
        return tuple(one for one in self._rules if one[0].is_about(name, roles))

    def _decide(self, name: str, roles: frozenset[str], action: str, project: str, run_id: str | None) -> Decision:
        if action in ALWAYS:
            return Decision(allows=True)
        theirs = self._of(name, roles)
        rule = _first(theirs, action, project, run_id)
        if rule is not None and (rule.allows or rule.names(action)):
            return Decision(rule.allows, rule)
        if action in OPENING and run_id is None:
            found = _anything(theirs, project)
            if found is None and project == DEFAULT_PROJECT:
                found = _anything(theirs, None)
            if found is not None:
                return Decision(True, *found)
        return Decision(False, rule)


def _first(rules: Iterable[tuple[Rule, frozenset[str]]], action: str, project: str, run_id: str | None) -> Rule | None:
    for rule, actions in rules:
        about = action in actions or (action not in ACTIONS and ALL in rule.actions)
        if about and rule.is_within(project) and rule.matches_run(run_id):
            return rule
    return None


def _anything(rules: Iterable[tuple[Rule, frozenset[str]]], project: str | None) -> tuple[Rule, str] | None:
    """The first rule that allows an action, and the action: of some run of a project, or of some project (None)."""
    left = ACTIONS - OPENING - ALWAYS
    for rule, actions in rules:
        if project is not None and not rule.is_within(project):
            continue
        found = left & actions
        if found and rule.allows:
            return rule, min(found)
        if rule.runs is None and (project is not None or rule.projects is None):
            left -= found  # denied for every run, so that a later rule can't allow it
    return None
