"""Options of the event validation policy."""

from __future__ import annotations

from dataclasses import dataclass

from marshmallow import fields, validate

from testorch_core.acceptor import Whole
from testorch_core.options import Options, option


@dataclass(frozen=True, kw_only=True)
class EventValidationOptions(Options):
    unknown_types: str = option(
        fields.String(validate=validate.OneOf(["store", "refuse"])),
        default="store",
        help="what becomes of event types that testorch does not know: `store` (a newer client may send them) or `refuse`",
    )
    max_output_characters: int = option(
        Whole(validate=validate.Range(min=1)), default=1024 * 1024, help="the longest `text` of one `test/output`"
    )
