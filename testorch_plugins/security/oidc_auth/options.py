"""Options of the OIDC policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Self

from marshmallow import Schema, ValidationError, fields, post_load, validate

from testorch_core.acceptor import Real
from testorch_core.errors import Problem
from testorch_core.options import Options, OptionsError, option
from testorch_plugins.security.oidc_auth.claims import ALGORITHMS, MAX_NAME_CHARACTERS, Pattern, Rule, Template
from testorch_plugins.security.oidc_auth.fetching import url_problem

SCOPES: Final = ("ingest", "observe", "admin")
LIBRARIES_MISSING: Final = "needs PyJWT with cryptography, which is not installed: `pip install 'testorch[oidc]'`"
_RULE_KEYS: Final = "`claims`, `projects`, `scopes`, `roles`"


def libraries_problem() -> str | None:
    """Why tokens can't be verified here, or None. Imports what verifies them, which takes a tenth of a second."""
    try:
        import_module("testorch_plugins.security.oidc_auth.tokens")
    except ImportError:
        return LIBRARIES_MISSING
    return None


def _must_be_template(text: str) -> None:
    try:
        Template.parse(text)
    except ValueError as problem:
        raise ValidationError(f"`{text}` {problem}") from None


def _must_be_name(text: str) -> None:
    _must_be_template(text)
    if Template.parse(text).begins_with_claim:
        raise ValidationError(
            f"`{text}` begins with a claim; begin with a word, such as `ci:{text}`, "
            "so that no token gives somebody else's name"
        )


def _must_be_url(text: str) -> None:
    problem = url_problem(text)
    if problem is not None:
        raise ValidationError(f"`{text}` {problem}")


def _must_be_patterns(given: Mapping[Any, Any]) -> None:
    strange = [name for name, pattern in given.items() if not isinstance(pattern, str) or not pattern]
    if strange:
        raise ValidationError([f"`{name}` must be a pattern, such as `acme/*`" for name in strange])
    if all(Pattern(pattern).is_open for pattern in given.values()):
        raise ValidationError("would let in every token of the issuer; say of at least one claim what must be in it")


class _Fixed(fields.List[Any]):
    """A list that arrives as a tuple: what is given is of the same kind as a default, which nobody may change."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **settings: Any) -> Any:
        return tuple(super()._deserialize(value, attr, data, **settings))


class RuleSchema(Schema):
    """One of the `rules`."""

    error_messages = {  # noqa: RUF012 - marshmallow's way
        "unknown": f"is not a key of a rule; its keys: {_RULE_KEYS}",
        "type": f"must be a table with {_RULE_KEYS}",
    }

    claims = fields.Dict(
        required=True,
        validate=_must_be_patterns,
        error_messages={"required": 'is required, such as `{{ repository = "acme/*" }}`'},
    )
    projects = fields.List(
        fields.String(validate=_must_be_template),
        required=True,
        validate=validate.Length(min=1),
        error_messages={"required": 'is required, such as `["{{repository}}"]`'},
    )
    scopes = fields.List(
        fields.String(validate=validate.OneOf(SCOPES)),
        load_default=lambda: ["ingest"],
        validate=validate.Length(min=1),
    )
    roles = fields.List(fields.String(validate=validate.Length(1, MAX_NAME_CHARACTERS)), load_default=list)

    @post_load
    def _rule(self, given: dict[str, Any], **_: Any) -> Rule:
        return Rule(
            claims={name: Pattern(pattern) for name, pattern in given["claims"].items()},
            projects=tuple(Template.parse(one) for one in given["projects"]),
            scopes=frozenset(given["scopes"]),
            roles=frozenset(given["roles"]),
        )


@dataclass(frozen=True, kw_only=True)
class OidcOptions(Options):
    issuer: str = option(
        fields.String(validate=validate.Length(min=1)),
        help="who signs the tokens, exactly as in their `iss`, such as `https://token.actions.githubusercontent.com`",
    )
    audience: str = option(
        fields.String(validate=validate.Length(min=1)),
        help="what must be in their `aud`: a name of your own for this server, which jobs ask for",
    )
    jwks_url: str | None = option(
        fields.String(validate=_must_be_url),
        default=None,
        help="where the issuer shows its public keys (JWKS), with https; this or `jwks_file` is needed",
    )
    jwks_file: str | None = option(
        fields.String(validate=validate.Length(min=1)),
        default=None,
        help="a file with the issuer's public keys instead, relative to the configuration's folder; read again on SIGHUP",
    )
    name: str = option(
        fields.String(validate=_must_be_name),
        help="who a client with such a token is, with claims in braces, such as `github:{repository}`",
    )
    rules: Sequence[Rule] = option(
        _Fixed(fields.Nested(RuleSchema), validate=validate.Length(min=1)),
        help="who is let in, and to which projects; the first rule that matches counts",
    )
    algorithms: Sequence[str] = option(
        _Fixed(fields.String(validate=validate.OneOf(ALGORITHMS)), validate=validate.Length(min=1)),
        default=("RS256", "ES256"),
        help="the algorithms that tokens may be signed with",
    )
    leeway_seconds: float = option(
        Real(validate=validate.Range(0, 300)), default=60.0, help="how much the issuer's clock may differ from this one"
    )
    session_seconds: float = option(
        Real(validate=validate.Range(0, 7 * 86400)),
        default=6 * 3600.0,
        help="how long a connection may stay once it was let in, even if its token expires sooner; 0: as long as the token",
    )
    jwks_seconds: float = option(
        Real(validate=validate.Range(30, 86400)),
        default=600.0,
        help="how long fetched keys are good; older ones are used only while the issuer can't be reached",
    )

    @classmethod
    def load(cls, given: Mapping[str, Any], *, folder: Path) -> Self:
        """Raises `OptionsError`, also for what only two options together, or missing libraries, make wrong."""
        problems: list[Problem] = []
        missing = libraries_problem()
        if missing is not None:
            problems.append(Problem("", missing))
        if (given.get("jwks_url") is None) == (given.get("jwks_file") is None):
            problems.append(Problem("jwks_url", "one of `jwks_url` and `jwks_file` is needed, and not both"))
        try:
            loaded = super().load(given, folder=folder)
        except OptionsError as failure:
            raise OptionsError([*problems, *failure.problems]) from None
        if problems:
            raise OptionsError(problems)
        return loaded
