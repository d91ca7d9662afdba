"""Options of the token policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marshmallow import fields, validate

from testorch_core.options import Options, Secret, option, tables
from testorch_plugins.security.token_auth.tokens import SCOPES


def _names() -> fields.List[Any]:
    return fields.List(fields.String(validate=validate.Length(1, 200)))


@dataclass(frozen=True, kw_only=True)
class StaticToken(Options):
    """A token that stands in the configuration, by reference: `token = { env = "CI_TOKEN" }`."""

    token: Secret = option(  # noqa: RUF009 - a declaration
        fields.String(validate=validate.Length(min=20)), help="the token, at least 20 characters", secret=True
    )
    scopes: Sequence[str] = option(
        fields.List(fields.String(validate=validate.OneOf(SCOPES)), validate=validate.Length(min=1)),
        default=("ingest", "observe"),
        help="what it allows: `ingest`, `observe`, `admin`",
    )
    projects: Sequence[str] | None = option(
        _names(), default=None, help="the projects that it is good for; all by default"
    )
    roles: Sequence[str] = option(_names(), default=(), help="roles, for policies that decide by them")


@dataclass(frozen=True, kw_only=True)
class TokenOptions(Options):
    static: Mapping[str, StaticToken] | None = option(
        tables(StaticToken),
        default=None,
        help="tokens of the configuration: a table for each, its name is the principal's",
    )
    refresh_seconds: float = option(
        fields.Float(validate=validate.Range(min=0.1, max=4)),
        default=2.0,
        help="how often tokens that another process has made or revoked are looked for",
    )
