"""Rules and decisions in words: for who is refused, and for who wrote the rules. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from testorch_plugins.security.acl.rules import ALWAYS, Decision, Rule

NOT_ALLOWED: Final = "the access rules do not allow this"
"""Said of everything that is refused, whether a rule denies it or none allows it, and whether it exists or not."""


def refusal_words(decision: Decision) -> str:
    """What a client is told: the rule's reason, and nothing of what the rule or the request is about."""
    reason = decision.rule.reason if decision.rule is not None else None
    return NOT_ALLOWED if reason is None else f"{NOT_ALLOWED}: {reason}"


def explanation_words(decision: Decision, action: str) -> str:
    """What whoever wrote the rules is told."""
    if decision.rule is None:
        return (
            f"`{action}` is always allowed"
            if action in ALWAYS
            else "no rule matches, and by default nothing is allowed"
        )
    shown = f"rule {decision.rule.number}"
    if decision.through is not None:
        shown += f" allows `{decision.through}`, and who may do anything may say `{action}`"
    else:
        shown += " allows it" if decision.allows else " denies it"
    return f"{shown}: {rule_words(decision.rule)}"


def rule_words(rule: Rule) -> str:
    """A rule as the file has it, on one line."""
    parts = [f"{'allow' if rule.allows else 'deny'} = {_listed(rule.actions)}"]
    for key in ("principals", "roles", "projects", "runs"):
        patterns = getattr(rule, key)
        if patterns is not None:
            parts.append(f"{key} = {_listed(patterns.given)}")
    if rule.reason is not None:
        parts.append(f"reason = {_quoted(rule.reason)}")
    return ", ".join(parts)


def _listed(names: Iterable[str]) -> str:
    return f"[{', '.join(map(_quoted, names))}]"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
