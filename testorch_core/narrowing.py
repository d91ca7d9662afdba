"""A value cut down to what a schema can have anything against, so that finding the words takes a bounded time.

marshmallow walks through every unknown field and every item of a list, and has words for each bad one: some 10 µs each,
where a message of 4 MiB may hold a million. Unknown fields, which our schemas take along, are left out here (marshmallow
also takes `a.b` for a field `b` inside `a`, and trips over it); long lists are gone through by the compiled acceptor.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from marshmallow import INCLUDE, Schema, ValidationError, fields

from testorch_core.acceptor import Acceptor, compile_acceptor
from testorch_core.errors import MAX_DETAILS, Problem
from testorch_core.options import messages_of, sentence_of

LONG: Final = 50
"""Lists with more items than this are not given to marshmallow."""


@dataclass(slots=True)
class Narrowed:
    """What is left to check; what was found in long lists, which are no longer in it; the names of their fields."""

    value: Any
    problems: list[Problem] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)


def narrowed(schema: Schema, value: Any, place: str = "", prefix: str = "") -> Narrowed:
    """A value with nothing but a schema's own fields, and without long lists, which are checked here.

    `prefix` is what marshmallow calls the object within the outermost one, such as `shard.`.
    """
    if type(value) is not dict or schema.unknown != INCLUDE or any(type(schema)._hooks.values()):
        return Narrowed(value)
    found = Narrowed({})
    for name, one in schema.load_fields.items():
        key = one.data_key or name
        if key not in value:
            continue
        inner, path = value[key], f"{place}.{key}" if place else key
        if type(one) is fields.List and type(inner) is list and len(inner) > LONG:
            found.checked.append(prefix + name)
            found.problems += _problems_of_list(one, inner, path)
        elif type(one) is fields.Nested and not one.many and not one.unknown:
            deeper = narrowed(one.schema, inner, path, f"{prefix}{name}.")
            found.value[key] = deeper.value
            found.problems += deeper.problems
            found.checked += deeper.checked
        else:
            found.value[key] = inner
    return found


def _problems_of_list(listed: fields.List[Any], items: Sequence[Any], path: str) -> list[Problem]:
    """The first problems of a long list: of the list as a whole, else of its items."""
    for check in listed.validators:
        try:
            check(items)
        except ValidationError as failure:
            return _worded(failure, path)
    found: list[Problem] = []
    is_fine = _acceptor_of(listed.inner)
    for at, item in enumerate(items):
        if not is_fine({"item": item}):
            try:
                listed.inner.deserialize(item)
            except ValidationError as failure:
                found += _worded(failure, f"{path}.{at}")
        if len(found) > MAX_DETAILS:
            break
    return found


@functools.lru_cache(maxsize=256)
def _acceptor_of(inner: fields.Field[Any]) -> Acceptor:
    return compile_acceptor(Schema.from_dict({"item": inner})())


def _worded(failure: ValidationError, path: str) -> list[Problem]:
    messages = messages_of(failure)
    whole = messages.get("_schema", messages)
    first = next(iter(whole if isinstance(whole, list) else ["is not valid"]))
    return [Problem(path, sentence_of(str(first)))]
