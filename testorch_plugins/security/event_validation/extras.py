"""Schemas that other distributions contribute for event types of their own, by entry points `testorch.event_schemas`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from marshmallow import Schema, fields, validate

from testorch_core import events as ev
from testorch_core.errors import PluginBrokenError, PluginNotFoundError
from testorch_core.loading import load_extra
from testorch_plugins.security.event_validation.schemas import SCHEMAS

FAMILY: Final = "event_schemas"

_TAKEN: Final = frozenset(SCHEMAS) | ev.SERVER_TYPES | ev.PRESENCE_TYPES


class SchemasError(Exception):
    """Schemas that can't be used; the message is a sentence."""


def load_schemas(names: Sequence[str]) -> dict[str, Schema]:
    """The schemas of all named contributions, by event type. Raises `SchemasError`."""
    found: dict[str, Schema] = {}
    for name in names:
        for kind, schema in _contributed(name).items():
            if kind in found:
                raise SchemasError(
                    f"`{name}`: the event type `{kind}` has a schema of another contribution; name only one"
                )
            found[kind] = schema
    return found


def _contributed(name: str) -> dict[str, Schema]:
    try:
        offered = load_extra(FAMILY, name)
    except (PluginNotFoundError, PluginBrokenError) as failure:
        raise SchemasError(str(failure)) from failure
    try:
        schemas = offered() if callable(offered) else offered
        return {kind: _instance(name, kind, one) for kind, one in schemas.items()}
    except SchemasError:
        raise
    except Exception as failure:  # a contribution's own code may raise anything; here it is one line for the user
        raise SchemasError(f"`{name}`: its schemas can't be made: {type(failure).__name__}: {failure}") from failure


def _instance(name: str, kind: Any, schema: Any) -> Schema:
    if not (isinstance(kind, str) and isinstance(schema, type) and issubclass(schema, Schema)):
        raise SchemasError(f"`{name}`: must be a table of event types and marshmallow schema classes, or return one")
    if kind in _TAKEN or not kind:
        raise SchemasError(f"`{name}`: `{kind}` is one of testorch's own event types; a contribution can't describe it")
    made = schema()
    for path, pattern in _open_ended(made, kind):
        raise SchemasError(f"`{name}`: `{path}`: the pattern `{pattern}` takes a line break after its `$`; write `\\Z`")
    return made


def _open_ended(schema: Schema, path: str, seen: frozenset[type] = frozenset()) -> Iterator[tuple[str, str]]:
    """Patterns that end in `$`, which marshmallow lets stand before a last line break: `^a$` takes `"a\\n"`."""
    if type(schema) in seen:
        return
    for name, field in schema.load_fields.items():
        for inner in _fields_of(field):
            for one in inner.validators:
                if isinstance(one, validate.Regexp) and _ends_open(one.regex.pattern):
                    yield f"{path}.{name}", str(one.regex.pattern)
            if isinstance(inner, fields.Nested):
                yield from _open_ended(inner.schema, f"{path}.{name}", seen | {type(schema)})


def _ends_open(pattern: Any) -> bool:
    return isinstance(pattern, str) and pattern.endswith("$") and not pattern.endswith("\\$")


def _fields_of(field: Any) -> Iterator[Any]:
    """A field, and the fields of what it holds."""
    yield field
    for inner in (
        getattr(field, "inner", None),
        *(getattr(field, part, None) for part in ("key_field", "value_field")),
    ):
        if inner is not None:
            yield from _fields_of(inner)
