"""Options of the console reporter."""

from __future__ import annotations

from dataclasses import dataclass

from marshmallow import fields, validate

from testorch_core.options import Options, option


@dataclass(frozen=True, kw_only=True)
class ConsoleOptions(Options):
    stream: str = option(
        fields.String(validate=validate.OneOf(["stdout", "stderr"])),
        default="stdout",
        help="where to write: `stdout` or `stderr`",
    )
    live: str = option(
        fields.String(validate=validate.OneOf(["auto", "always", "never"])),
        default="auto",
        help="a live region with the active runs: `auto` in a terminal, `always`, or `never` (plain lines only)",
    )
    show: str = option(
        fields.String(validate=validate.OneOf(["failures", "all"])),
        default="failures",
        help="which finished tests get a line: those that are not ok or flaky (`failures`), or every attempt (`all`)",
    )
    start: str = option(
        fields.String(validate=validate.OneOf(["head", "beginning"])),
        default="head",
        help="where a new instance starts to read the log: `head` (only what comes from now on) or `beginning`",
    )
