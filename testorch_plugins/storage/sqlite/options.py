"""Options of the SQLite store."""

from __future__ import annotations

from dataclasses import dataclass

from marshmallow import fields, validate

from testorch_core.acceptor import Real
from testorch_core.options import Options, option


@dataclass(frozen=True, kw_only=True)
class SqliteOptions(Options):
    path: str = option(
        fields.String(validate=validate.Length(min=1)),
        default="testorch.db",
        help="the database file, relative to the configuration's folder; made if it is not there",
    )
    busy_timeout_seconds: float = option(
        Real(validate=validate.Range(min=0.0, max=60.0)),
        default=5.0,
        help="how long a statement waits for a lock that another process holds; closing may wait as long",
    )
