"""Options of the event validation policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marshmallow import ValidationError, fields, validate

from testorch_core.acceptor import Whole
from testorch_core.options import Options, option
from testorch_plugins.security.event_validation.extras import SchemasError, load_schemas
from testorch_plugins.security.event_validation.rules import words_against_type


def _at_most(help: str) -> Any:
    field: fields.Field[Any] = Whole(validate=validate.Range(min=1))
    return option(field, default=None, help=f"{help}; no limit where it is not given")


def _check_types(types: Sequence[str]) -> None:
    wrong = [f"`{one}` {words}" for one in types if (words := words_against_type(one, with_star=True))]
    if wrong:
        raise ValidationError(wrong)


def _check_required(required: Mapping[Any, Any]) -> None:
    wrong = [f"`{kind}` {words}" for kind, paths in required.items() if (words := _words_against(kind, paths))]
    if wrong:
        raise ValidationError(wrong)


def _words_against(kind: Any, paths: Any) -> str | None:
    if not isinstance(paths, list) or not paths:
        return 'must be a list of fields of the payload, such as `["testName", "extra.ticket"]`'
    for path in paths:
        if not isinstance(path, str) or not all(path.split(".")):
            return f"has `{path}`, which is not a field of the payload, or a dotted path such as `extra.ticket`"
        if path.split(".")[0] == "payload":
            return f"has `{path}`, which begins at the payload already; leave `payload` out"
    return words_against_type(kind, with_star=False)


def _check_schemas(names: Sequence[str]) -> None:
    try:
        load_schemas(names)
    except SchemasError as failure:
        raise ValidationError(str(failure)) from failure


@dataclass(frozen=True, kw_only=True)
class EventValidationOptions(Options):
    unknown_types: str = option(
        fields.String(validate=validate.OneOf(["store", "refuse"])),
        default="store",
        help="what becomes of event types that neither testorch, `types` nor `schemas` know: `store` (a newer client may "
        "send them) or `refuse`",
    )
    types: list[str] | None = option(  # noqa: RUF009 - a declaration
        fields.List(fields.String(), validate=[validate.Length(min=1), _check_types]),
        default=None,
        help="the only event types that are taken; `mytool/*` stands for all that begin so; any where it is not given",
    )
    required: Mapping[str, list[str]] | None = option(
        fields.Dict(validate=_check_required),
        default=None,
        help="a table: an event type, and the fields that its payload must have, with a dot between levels; null is not "
        "enough, and in a list each item must have the field",
    )
    schemas: list[str] | None = option(  # noqa: RUF009 - a declaration
        fields.List(fields.String(), validate=_check_schemas),
        default=None,
        help="the names of installed schemas (entry points `testorch.event_schemas`) for event types of other tools",
    )
    max_output_characters: int = option(
        Whole(validate=validate.Range(min=1)), default=1024 * 1024, help="the longest `text` of one `test/output`"
    )
    max_event_bytes: int | None = _at_most("the largest event, in bytes of compact JSON")
    max_error_characters: int | None = _at_most("the longest string in `errors`: a message, a stack")
    max_string_characters: int | None = _at_most(
        "the longest other string in a payload, except the `text` of outputs and the `body` of attachments"
    )
    max_keys: int | None = _at_most("the most keys in a payload, at all levels together")
