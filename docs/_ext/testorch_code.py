"""What the reference has to say of the code, read from the code: rows and words. Pure; draws nothing, needs no Sphinx."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import click
from marshmallow import Schema, fields, validate

OUR_DISTRIBUTION: Final = "testorch"
NO_DEFAULT: Final = "required"
SESSION_ANSWERS: Final = {"subscribe": "subscribed", "unsubscribe": "unsubscribed"}
"""Answers that the session gives itself, beside the router."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a reference table: a name in code, and what there is to say of it."""

    name: str
    kind: str
    default: str
    help: str


@dataclass(frozen=True, slots=True)
class CommandPage:
    """What a command takes."""

    name: str
    usage: str
    help: str
    parameters: tuple[Row, ...]


def imported(place: str) -> Any:
    """What `module:name` names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def option_rows(options_type: Any) -> list[Row]:
    """The options of an options class, in their order."""
    return [
        Row(
            spec.name,
            words_of_field(spec.field) + (", secret" if spec.secret else ""),
            NO_DEFAULT if spec.required else as_toml(spec.default),
            spec.help,
        )
        for spec in options_type.specs()
    ]


def our_plugins(family: str) -> list[tuple[str, Any]]:
    """(name, class) of every installed plugin of our own distribution."""
    from testorch_core.loading import installed_plugins, load_plugin

    ours = [one for one in installed_plugins(family) if one.distribution == OUR_DISTRIBUTION]
    return [(one.name, load_plugin(family, one.name)) for one in ours]


def schema_rows(schema: Schema) -> list[Row]:
    """The fields of a schema, in their order."""
    return [
        Row(name, words_of_field(field), "required" if field.required else "", "")
        for name, field in schema.fields.items()
    ]


def words_of_field(field: fields.Field[Any]) -> str:
    """A field's type and bounds in words."""
    parts = [_type_words(field), *(_bound_words(one, field) for one in field.validators)]
    return ", ".join(part for part in parts if part)


_TYPES: Final[Sequence[tuple[type[Any], str]]] = (
    (fields.Url, "URL"),
    (fields.Boolean, "`true` or `false`"),
    (fields.Integer, "integer"),
    (fields.Float, "number"),
    (fields.String, "string"),
    (fields.Mapping, "object"),
    (fields.Raw, "anything"),
)


def _type_words(field: fields.Field[Any]) -> str:
    if isinstance(field, fields.List):
        inner = words_of_field(field.inner)
        return f"list of {inner}s" if inner in ("string", "object", "integer", "number") else f"list of {inner}"
    if isinstance(field, fields.Nested):
        inside = ", ".join(f"`{name}`" for name in field.schema.fields)
        return f"object with {inside}"
    return next((words for kind, words in _TYPES if isinstance(field, kind)), type(field).__name__.lower())


def _bound_words(one: Any, field: fields.Field[Any]) -> str:
    if isinstance(one, validate.OneOf):
        return "one of " + ", ".join(f"`{choice}`" for choice in one.choices)
    if isinstance(one, validate.Length):
        unit = "character" if isinstance(field, fields.String) else "item"
        if one.equal is not None:
            return f"exactly {_count(one.equal, unit)}"
        return _span(one.min or None, one.max, unit)
    if isinstance(one, validate.Range):
        return _span(one.min, one.max, "")
    return ""


def _span(least: Any, most: Any, unit: str) -> str:
    if least is not None and most is not None:
        return f"{_number(least)} to {_count(most, unit)}"
    if least is not None:
        return f"at least {_count(least, unit)}"
    return f"at most {_count(most, unit)}" if most is not None else ""


def _count(number: Any, unit: str) -> str:
    return f"{_number(number)} {unit}{'' if number == 1 else 's'}" if unit else _number(number)


def _number(number: Any) -> str:
    if abs(number) == 2**53 - 1:
        return "2⁵³-1" if number > 0 else "-(2⁵³-1)"
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def as_toml(value: Any) -> str:
    """A default as the configuration file would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, list | tuple):
        return "`[" + ", ".join(as_toml(one).strip("`") for one in value) + "]`"
    return f"`{value}`"


def exception_classes() -> list[Any]:
    """Every exception of the core, in the order of their codes, the root first."""
    from testorch_core.errors import TestorchError

    for module in _core_modules():
        import_module(module)
    found = {TestorchError, *_subclasses(TestorchError)}
    ours = [one for one in found if one.__module__.startswith("testorch_core.")]
    return sorted(ours, key=lambda one: (one is not TestorchError, one.code, one.__name__))


def _core_modules() -> Iterator[str]:
    """The core's modules, but those that run something or need what only tests have."""
    import testorch_core

    for found in pkgutil.walk_packages(testorch_core.__path__, "testorch_core."):
        if not found.name.endswith(".__main__") and ".testing" not in found.name:
            yield found.name


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def close_codes() -> dict[int, str]:
    """The close codes that the core uses, with the names of their constants."""
    protocol = import_module("testorch_core.protocol")
    return {value: name for name, value in vars(protocol).items() if name.startswith("CLOSE_")}


def event_types() -> dict[str, str]:
    """Every event type that testorch knows, with who may send it."""
    events = import_module("testorch_core.events")
    types = [
        value for name, value in vars(events).items() if name.isupper() and isinstance(value, str) and "/" in value
    ]
    return {kind: _sender(kind, events) for kind in types}


def _sender(kind: str, events: Any) -> str:
    if kind in events.SERVER_TYPES:
        return "the server alone"
    return "the server, an embedding host" if kind in events.PRESENCE_TYPES else "clients"


def event_schema(kind: str) -> Schema | None:
    """The schema of an event type's inner payload."""
    found = import_module("testorch_plugins.security.event_validation.schemas").SCHEMAS.get(kind)
    return found() if found is not None else None


def requests() -> dict[str, tuple[str | None, Schema]]:
    """Every message that a client may send beside `event`: the type of its answer, and the schema of its payload."""
    router, protocol = import_module("testorch_core.router"), import_module("testorch_core.protocol")
    answers = {kind: answer for kind, (answer, _) in router.REQUESTS.items()} | SESSION_ANSWERS
    return {kind: (answers.get(kind), schema) for kind, schema in protocol.SCHEMAS.items()}


def command_pages(group: click.Group, program: str = "testorch") -> list[CommandPage]:
    """Every command of a group and of the groups in it, the group itself first."""
    return list(_pages_of(group, click.Context(group, info_name=program)))


def _pages_of(command: click.Command, context: click.Context) -> Iterator[CommandPage]:
    yield _command_page(command, context)
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from _pages_of(one, click.Context(one, info_name=name, parent=context))


def _command_page(command: click.Command, context: click.Context) -> CommandPage:
    pieces = " ".join(command.collect_usage_pieces(context))
    parameters = tuple(_parameter_row(one, context) for one in command.get_params(context))
    return CommandPage(
        context.command_path, f"{context.command_path} {pieces}", inspect.cleandoc(command.help or ""), parameters
    )


def _parameter_row(parameter: click.Parameter, context: click.Context) -> Row:
    if isinstance(parameter, click.Argument):
        return Row(parameter.make_metavar(context), "argument", NO_DEFAULT if parameter.required else "", "")
    assert isinstance(parameter, click.Option)
    names = ", ".join((*parameter.opts, *parameter.secondary_opts))
    value = "" if parameter.is_flag else _value_words(parameter, context)
    default = "" if parameter.is_flag and not parameter.show_default else _default_words(parameter)
    return Row(
        f"{names} {value}".strip(), "option", NO_DEFAULT if parameter.required else default, parameter.help or ""
    )


def _value_words(option: click.Option, context: click.Context) -> str:
    if isinstance(option.type, click.IntRange) and option.metavar is None:
        return f"{option.type.min}…{option.type.max}"
    return option.make_metavar(context)


def _default_words(option: click.Option) -> str:
    value = option.default
    if not isinstance(value, str | int | float):
        return ""
    if isinstance(value, bool):
        return f"`{option.opts[0] if value else (option.secondary_opts or ['off'])[0]}`"
    return f"`{value}`"


def slug(text: str) -> str:
    """A name as part of a label: `startTestRun` -> `start-test-run`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", text)
    return re.sub(r"[^a-z0-9]+", "-", apart.lower()).strip("-")
