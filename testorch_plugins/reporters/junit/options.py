"""Options of the JUnit reporter."""

from __future__ import annotations

from dataclasses import dataclass

from marshmallow import fields, validate

from testorch_core.options import Options, option


@dataclass(frozen=True, kw_only=True)
class JunitOptions(Options):
    directory: str = option(
        fields.String(validate=validate.Length(min=1)),
        default="reports",
        help="the folder for the files, one a run, relative to the configuration's folder; made if it is not there",
    )
    start: str = option(
        fields.String(validate=validate.OneOf(["head", "beginning"])),
        default="head",
        help="where a new instance starts to read the log: `head` (only what comes from now on) or `beginning`",
    )
