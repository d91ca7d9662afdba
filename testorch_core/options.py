"""Options of plugins and of the core: a frozen dataclass, from which the marshmallow schema is made.

@dataclass(frozen=True, kw_only=True)
class SlackOptions(Options):
    webhook_url: Secret = option(fields.Url(), help="the incoming webhook", secret=True)
    channel: str = option(fields.String(), default="#tests", help="where to post")
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from marshmallow import Schema, ValidationError, fields

from testorch_core.errors import Problem

_SPEC: Final = "testorch.option"


class Secret:
    """A value that shows itself only when asked: `reveal()`. Its `repr` and `str` are masked."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """What is known of one option: the marshmallow field that checks it, its help, its default and whether it is secret."""

    name: str
    field: fields.Field[Any]
    help: str
    required: bool
    default: Any
    secret: bool


def option(field: fields.Field[Any], *, help: str, default: Any = dataclasses.MISSING, secret: bool = False) -> Any:
    """Declare an option. Without a `default` it is required; `secret` values arrive as `Secret` and are never printed."""
    if default is None:
        field.allow_none = True
    metadata = {_SPEC: (field, help, secret)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a plugin that has none; the base of those that have."""

    @classmethod
    def specs(cls) -> tuple[OptionSpec, ...]:
        """The declared options in their order."""
        declared = ((one, one.metadata[_SPEC]) for one in dataclasses.fields(cls) if _SPEC in one.metadata)
        return tuple(
            OptionSpec(one.name, field, text, one.default is dataclasses.MISSING, one.default, secret)
            for one, (field, text, secret) in declared
        )

    @classmethod
    def load(cls, given: Mapping[str, Any], *, folder: Path) -> Self:
        """The options from a table of the configuration, references resolved; `folder` is for relative file references.

        Raises `OptionsError` with every problem.
        """
        specs = {spec.name: spec for spec in cls.specs()}
        problems = [_unknown(key, list(specs)) for key in given if key not in specs]
        values: dict[str, Any] = {}
        for name in specs.keys() & given.keys():
            try:
                values[name] = _resolve(given[name], specs[name], folder)
            except ValueError as failure:
                problems.append(Problem(name, f"`{name}`: {failure}"))
        loaded = _check(specs, values, problems)
        if problems:
            raise OptionsError(problems)
        return cls(**loaded)


class _Tables(fields.Raw):
    """Marks an option that is a table of tables, each with options of its own."""

    def __init__(self, kind: type[Options]) -> None:
        self.kind = kind
        super().__init__()

    def read(self, value: Any, folder: Path) -> dict[str, Options]:
        if not isinstance(value, Mapping):
            raise ValueError("must be a table of tables")
        read: dict[str, Options] = {}
        for name, given in value.items():
            if not isinstance(given, Mapping):
                raise ValueError(f"`{name}` must be a table")
            try:
                read[name] = self.kind.load(given, folder=folder)
            except OptionsError as failure:
                raise ValueError("; ".join(f"in `{name}`: {one.problem}" for one in failure.problems)) from None
        return read


def tables(kind: type[Options]) -> fields.Field[Any]:
    """The field of an option that is a table of tables, each of which becomes a `kind`, references resolved."""
    return _Tables(kind)


class OptionsError(Exception):
    """Everything that is wrong with one table of options; becomes part of a `ConfigurationError`."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(one.problem for one in problems))


def _check(specs: Mapping[str, OptionSpec], values: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    missing = [name for name, spec in specs.items() if spec.required and name not in values]
    broken = {problem.path for problem in problems}
    problems += [Problem(name, f"`{name}` is required: {specs[name].help}") for name in missing if name not in broken]
    schema = Schema.from_dict({name: specs[name].field for name in values})()
    try:
        loaded: dict[str, Any] = dict(schema.load(values))
    except ValidationError as failure:
        problems += [Problem(name, f"`{name}`: {words}") for name, words in _words(messages_of(failure))]
        return {}
    return {
        name: Secret(value) if specs[name].secret and value is not None else value for name, value in loaded.items()
    }


def messages_of(failure: ValidationError) -> Mapping[Any, Any]:
    """marshmallow's messages by field; its own method is not typed."""
    messages: Mapping[Any, Any] = failure.normalized_messages()  # type: ignore[no-untyped-call]
    return messages


def _words(messages: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, str]]:
    """marshmallow's nested messages as (place, sentence) pairs in our style: lower case, no full stop."""
    found: list[tuple[str, str]] = []
    for key, value in messages.items():
        place = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            found += _words(value, place)
        else:
            found += [(place, sentence_of(str(text))) for text in value]
    return found


def sentence_of(message: str) -> str:
    """A marshmallow message as one of ours."""
    return (message[:1].lower() + message[1:]).rstrip(".")


def _unknown(key: str, known: list[str]) -> Problem:
    near = difflib.get_close_matches(key, known, n=1)
    listed = ", ".join(f"`{name}`" for name in known) or "it has none"
    hint = f"did you mean `{near[0]}`?" if near else f"its options: {listed}"
    return Problem(key, f"`{key}` is not an option of this plugin; {hint}")


def _resolve(value: Any, spec: OptionSpec, folder: Path) -> Any:
    """The value itself, or what `{ env = "NAME" }` or `{ file = "path" }` refers to. Raises ValueError with a sentence."""
    if isinstance(spec.field, _Tables) and value is not None:
        return spec.field.read(value, folder)
    if not isinstance(value, Mapping) or isinstance(spec.field, fields.Mapping):
        return value
    if len(value) != 1 or next(iter(value)) not in ("env", "file"):
        raise ValueError('a table here must be a reference, `{ env = "NAME" }` or `{ file = "path" }`')
    ((kind, target),) = value.items()
    if not isinstance(target, str):
        raise ValueError(f"`{kind}` must be a string")
    return _from_environment(target, spec) if kind == "env" else _typed(_from_file(target, folder), spec)


def _from_environment(name: str, spec: OptionSpec) -> Any:
    text = os.environ.get(name)
    if text is None:
        raise ValueError(f"the environment variable `{name}` is not set")
    return _typed(text, spec)


def _from_file(target: str, folder: Path) -> str:
    try:
        return (folder / target).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "it is not UTF-8"
        raise ValueError(f"the file `{target}` can't be read: {reason}") from failure


def _typed(text: str, spec: OptionSpec) -> Any:
    """Text from outside TOML has no type of its own; numbers and switches are read as TOML would read them."""
    if isinstance(spec.field, fields.Boolean):
        return {"true": True, "false": False}.get(text, text)
    for kind, convert in ((fields.Integer, int), (fields.Float, float)):
        if isinstance(spec.field, kind):
            try:
                return convert(text)
            except ValueError:
                return text
    return text
