"""Options of the access control list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from marshmallow import Schema, ValidationError, fields

from testorch_core.options import Options, option
from testorch_plugins.security.acl.reading import KEYS, read_rule
from testorch_plugins.security.acl.rules import Rule

MAX_RULES: Final = 1_000
_TABLE: Final[dict[str, fields.Field[Any]]] = {
    key: fields.String() if key == "reason" else fields.List(fields.String()) for key in KEYS
}


class RuleList(fields.List[Any]):
    """The rules of a list, as a tuple of `Rule`. Problems are under the rule's number, from 1, and the key."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(fields.Nested(Schema.from_dict(_TABLE)), **settings)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **settings: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValidationError("must be a list of rules, each a table such as `[[security.NAME.rules]]`")
        if not 0 < len(value) <= MAX_RULES:
            raise ValidationError(
                f"must have 1 to {MAX_RULES:,} rules; without any, nothing would be allowed to anybody"
            )
        rules: list[Rule | None] = []
        wrong: dict[str, list[str]] = {}
        for number, given in enumerate(value, 1):
            rule, complaints = read_rule(number, given)
            rules.append(rule)
            wrong |= {f"{number}.{key}" if key else str(number): words for key, words in complaints.items()}
        if wrong:
            raise ValidationError(wrong)
        return tuple(rules)


@dataclass(frozen=True, kw_only=True)
class AclOptions(Options):
    rules: tuple[Rule, ...] = option(
        RuleList(),
        help="who may do what, in this order: the first rule that matches decides; where none does, nothing may pass",
    )
