"""Options of the redaction policy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from marshmallow import ValidationError, fields, validate

from testorch_core.acceptor import Flag, Whole
from testorch_core.errors import Problem
from testorch_core.options import Options, OptionsError, Secret, option
from testorch_plugins.security.redaction.bounds import MAX_STEPS, UnboundedError, shortest_match, steps_of, word_of
from testorch_plugins.security.redaction.literals import MIN_CHARACTERS, literal
from testorch_plugins.security.redaction.patterns import BUILTIN, MARK, NAME, Pattern
from testorch_plugins.security.redaction.redactor import TOO_LONG

_BUILTIN_NAMES = tuple(one.name for one in BUILTIN)


def _check_patterns(patterns: Mapping[Any, Any]) -> None:
    """What is wrong with the team's expressions, each under its name."""
    wrong = [f"`{name}` {words}" for name, one in patterns.items() if (words := _words_against(name, one)) is not None]
    if wrong:
        raise ValidationError(wrong)


def _words_against(name: Any, expression: Any) -> str | None:
    if not isinstance(expression, str):
        return "must be a regular expression, as a string"
    if not NAME.fullmatch(name):
        return "is not a name: a small letter, and up to 39 small letters, digits, `_` and `-`"
    try:
        regex = re.compile(expression)
        steps = steps_of(expression)
    except re.error as failure:
        return f"is not a regular expression: {failure}"
    except UnboundedError as failure:
        return str(failure)
    except (RecursionError, OverflowError):
        return "is not a regular expression: it is too deep or too large"
    if shortest_match(expression) == 0:
        return "matches the empty string; write what must stand there"
    if steps > MAX_STEPS:
        hint = "lower the bounds, or make repetitions possessive (`{1,200}+`)"
        return f"may take {steps} steps at each place of a text, and {MAX_STEPS} are the most; {hint}"
    if any(regex.search(MARK.format(one)) for one in (name, *_BUILTIN_NAMES)):
        return "matches the mark that it would leave; write what tells a secret from it"
    return None


@dataclass(frozen=True, kw_only=True)
class RedactionOptions(Options):
    builtin: bool = option(
        Flag(),
        default=True,
        help="whether the built-in patterns, for the common kinds of tokens and keys, are looked for",
    )
    without: list[str] | None = option(  # noqa: RUF009 - a declaration
        fields.List(
            fields.String(validate=validate.OneOf(_BUILTIN_NAMES, error="`{input}` is none; they are: {choices}"))
        ),
        default=None,
        help="the names of built-in patterns that are not looked for",
    )
    patterns: Mapping[str, str] | None = option(
        fields.Dict(validate=_check_patterns),
        default=None,
        help="a table of the team's own patterns: a name, and a regular expression of Python in which every repetition has "
        "an upper bound; of a group `secret` only that is replaced",
    )
    literals: Mapping[str, Secret] | None = option(
        fields.Dict(),
        default=None,
        help='a table of secrets: a name, and a reference such as `{ env = "DEPLOY_KEY" }`; replaced as they are and as '
        "base64, URLs and JSON write them",
    )
    max_string_characters: int = option(
        Whole(validate=validate.Range(min=1024)),
        default=16 * 1024 * 1024,
        help="the longest string that is searched; a longer one is replaced as a whole",
    )

    @classmethod
    def load(cls, given: Mapping[str, Any], *, folder: Path) -> Self:
        """The options from a table of the configuration; the references of `literals` are resolved, too."""
        problems: list[Problem] = []
        resolved = dict(given)
        if isinstance(given.get("literals"), Mapping):
            resolved["literals"] = _literals(given["literals"], folder, problems)
        try:
            loaded = super().load(resolved, folder=folder)
        except OptionsError as failure:
            raise OptionsError([*failure.problems, *problems]) from None
        problems += loaded._taken_twice()
        if problems:
            raise OptionsError(problems)
        return loaded

    def chosen(self) -> list[Pattern]:
        """The patterns in the order in which they are tried: secrets, the team's own, built-in ones."""
        secrets = [literal(name, secret.reveal()) for name, secret in (self.literals or {}).items()]
        own = [_own(name, expression) for name, expression in (self.patterns or {}).items()]
        unwanted = self.without or ()
        return [*secrets, *own, *(one for one in BUILTIN if self.builtin and one.name not in unwanted)]

    def _taken_twice(self) -> list[Problem]:
        names = Counter([*_BUILTIN_NAMES, TOO_LONG, *(self.patterns or {}), *(self.literals or {})])
        tables = {"patterns": self.patterns or {}, "literals": self.literals or {}}
        return [
            Problem(
                table, f"`{table}.{name}`: the name is taken, by a built-in pattern or another table; choose another"
            )
            for table, named in tables.items()
            for name in named
            if names[name] > 1
        ]


@dataclass(frozen=True, kw_only=True)
class _Literal(Options):
    """One secret by itself, for the core to resolve."""

    value: Secret = option(  # noqa: RUF009 - a declaration
        fields.String(), help="a secret by reference", secret=True
    )


def _literals(given: Mapping[Any, Any], folder: Path, problems: list[Problem]) -> dict[str, Secret]:
    found: dict[str, Secret] = {}
    for name, reference in given.items():
        try:
            found[name] = _resolved(name, reference, folder)
        except ValueError as failure:
            problems.append(Problem("literals", f"`literals.{name}`: {failure}"))
    return found


def _resolved(name: str, reference: Any, folder: Path) -> Secret:
    """A secret by reference. Raises ValueError with a sentence that holds nothing of it."""
    if not NAME.fullmatch(name):
        raise ValueError("is not a name: a small letter, and up to 39 small letters, digits, `_` and `-`")
    if not isinstance(reference, Mapping):
        raise ValueError('must be a reference, `{ env = "NAME" }` or `{ file = "path" }`, not the secret itself')
    try:
        secret = _Literal.load({"value": reference}, folder=folder).value
    except OptionsError as failure:
        raise ValueError(failure.problems[0].problem.removeprefix("`value`: ")) from None
    text = secret.reveal()
    if len(text.strip()) < MIN_CHARACTERS:
        raise ValueError(f"has fewer than {MIN_CHARACTERS} characters; so short a text is found in ordinary words")
    if text.encode("utf-8", "ignore").decode() != text:
        raise ValueError("is not text in UTF-8")
    return secret


def _own(name: str, expression: str) -> Pattern:
    word = word_of(expression)
    return Pattern(name, re.compile(expression), () if word is None else (word,), least=shortest_match(expression))
