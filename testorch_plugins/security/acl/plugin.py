"""The access control list: who may do what, by rules in the configuration."""

from __future__ import annotations

from typing import Any, ClassVar

from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.security import (
    ALLOW,
    AccessRequest,
    Admission,
    Explanation,
    Refuse,
    SecurityPolicy,
)  # fmt: skip
from testorch_core.options import Options
from testorch_plugins.security.acl.options import AclOptions
from testorch_plugins.security.acl.rules import Decision, Rules
from testorch_plugins.security.acl.words import explanation_words, refusal_words


class AccessControlList(SecurityPolicy):
    """Holds every message against rules of the configuration. The first rule that matches decides; by default it is refused.

    `testorch acl explain` says which rule decides about what.
    """

    summary = "allows and denies messages by rules: who, what, in which project and run"
    options_type: ClassVar[type[Options]] = AclOptions
    options: AclOptions

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self._rules = Rules(self.options.rules)

    async def start(self, context: PluginContext) -> None:
        """Nothing to acquire. Warns where the rules name people and nobody is known by name."""
        if not context.authenticates and any(one.principals or one.roles for one in self.options.rules):
            context.log.warning("rules_name_principals_but_no_policy_authenticates", principal="anonymous")

    async def aclose(self) -> None:
        """Nothing to release."""

    def admit(self, request: AccessRequest) -> Admission:
        return _admission(self._decide(request))

    def explain(self, request: AccessRequest) -> Explanation:
        decision = self._decide(request)
        place = None if decision.rule is None else f"rules.{decision.rule.number}"
        return Explanation(_admission(decision), explanation_words(decision, request.action), place)

    def _decide(self, request: AccessRequest) -> Decision:
        who = request.principal
        # `frozenset` hands a frozen set back as it is; a policy that made another kind of set must not break this one.
        return self._rules.decide(who.name, frozenset(who.roles), request.action, request.project, request.run_id)


def _admission(decision: Decision) -> Admission:
    return ALLOW if decision.allows else Refuse("forbidden", refusal_words(decision))
