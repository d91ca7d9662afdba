"""The schemas in use against what marshmallow is known to let pass, or to trip over; and the words found in bounded time."""

import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import INCLUDE, Schema, fields, validate

from testorch_core.acceptor import Real, Whole, compile_acceptor
from testorch_core.errors import MAX_DETAILS
from testorch_core.narrowing import LONG
from testorch_core.protocol import ENVELOPE, SCHEMAS, envelope_problems, problems_of
from testorch_core.testing.hostile import BEYOND_THE_DECODER, VALUES
from testorch_plugins.security.event_validation.schemas import SCHEMAS as EVENT_SCHEMAS

ALL = {**SCHEMAS, "envelope": ENVELOPE, **{kind: schema() for kind, schema in EVENT_SCHEMAS.items()}}
STRANGE: list[Any] = [
    *VALUES,
    *BEYOND_THE_DECODER,
    10**5000,
    -math.inf,
    b"a",
    {"a"},
    object(),
    1.5,
    -1,
    0,
    True,
    "1",
    "a\n",
    [1] * 100,
    {"a.b": 1, "a": 2},
]
NUMBERS = [
    (kind, name)
    for kind, schema in ALL.items()
    for name, one in schema.fields.items()
    if isinstance(one, fields.Number)
]
GOOD = {"id": "i", "type": "t", "timestamp": 1, "payload": {}, "testId": "t", "text": "x", "suiteId": "s", "runId": "r", "streamId": "s", "lastSeq": 1,
        "events": [], "subscriptionId": "s"}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(ALL))
def test_no_value_in_any_field_makes_checking_raise_or_the_acceptor_differ(kind: str):
    schema = ALL[kind]
    accepts = compile_acceptor(schema)
    for name in schema.fields:
        for value in STRANGE:
            whole = {**GOOD, name: value}
            problems = problems_of(schema, whole, "payload")
            assert not (accepts(whole) and problems), (name, value)
            assert all(one.problem for one in problems)


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 10**400, -(10**400), True, "1", "NaN", 1.5j, [1]], ids=repr
)
def test_no_number_is_nan_endless_a_boolean_or_a_string(kind: str, name: str, value: Any):
    field = ALL[kind].fields[name]
    is_open = isinstance(field, Whole) and not any(
        isinstance(one, validate.Range) and one.max is not None for one in field.validators
    )
    if isinstance(value, int) and value > 1 and is_open:
        pytest.skip("the decoder bounds it")
    assert isinstance(field, Whole | Real), "marshmallow's own numbers take strings and booleans"
    assert problems_of(ALL[kind], {**GOOD, name: value}, "") != []


def test_a_pattern_ends_where_the_text_does():
    """`$` stands before a last newline, too. No schema of a message has a pattern."""
    found = [
        one
        for schema in ALL.values()
        for field in schema.fields.values()
        for one in field.validators
        if isinstance(one, validate.Regexp)
    ]
    assert found == []


@pytest.mark.parametrize("key", ["runId.x", "runId", "a.b", "", ".", "a..b", "__class__", "project.name"])
def test_unknown_keys_are_taken_whatever_they_are_called(key: str):
    """marshmallow takes `runId.x` for a field inside `runId`, and trips over a `runId` that is text."""
    assert problems_of(SCHEMAS["getRunStatus"], {key: 1, "a": 1, "runId": "r"}, "") == []
    assert (
        envelope_problems(
            {key: "k", "id": "i", "type": "t", "timestamp": 1, "payload": {}, "seq": None, "project": None}
        )
        == []
    )


class Listing(Schema):
    class Meta:
        unknown = INCLUDE

    names = fields.List(fields.String(validate=validate.Length(max=3)), required=True, data_key="theNames")
    few = fields.List(fields.Integer(), validate=validate.Length(max=LONG + 10), allow_none=True)
    things = fields.List(fields.Dict())
    inner = fields.Nested(lambda: Inner())


class Inner(Schema):
    class Meta:
        unknown = INCLUDE

    tags = fields.List(fields.String(), required=True)


def plain_words(schema: Schema, value: Any) -> set[tuple[str, str]]:
    """(path, words) as marshmallow itself finds them."""
    found = set()

    def walk(messages: Any, path: str) -> None:
        if isinstance(messages, dict):
            for key, inner in messages.items():
                walk(inner, path if key == "_schema" else f"{path}.{key}" if path else str(key))
        else:
            found.update((path, (text[:1].lower() + text[1:]).rstrip(".")) for text in messages)

    walk(schema.validate(value), "")
    return found


ITEMS = st.sampled_from(["a", "abcd", 1, None, {}, [], "b"])
LISTS = st.builds(lambda items, times: items * times, st.lists(ITEMS, max_size=8), st.integers(0, 12))
LISTINGS = st.fixed_dictionaries(
    {},
    optional={
        "theNames": LISTS,
        "few": LISTS,
        "things": LISTS,
        "x.y": ITEMS,
        "inner": st.fixed_dictionaries({}, optional={"tags": LISTS, "tags.x": ITEMS}),
    },
)


@given(LISTINGS)
def test_narrowing_finds_what_marshmallow_finds_or_the_first_of_it(value: Any):
    pruned = {key: inner for key, inner in value.items() if key != "x.y"}
    if "inner" in pruned:
        pruned["inner"] = {key: inner for key, inner in pruned["inner"].items() if key != "tags.x"}
    expected = plain_words(Listing(), pruned)
    found = {(one.path, one.problem) for one in problems_of(Listing(), value, "")}
    assert bool(found) == bool(expected)
    is_too_long = (
        "few",
        f"longer than maximum length {LONG + 10}",
    ) in found  # marshmallow looks at all items before that
    assert {one for one in found if not (is_too_long and one[0] == "few")} <= expected
    for path in {path.split(".")[0] for path, _ in expected} - ({"few"} if is_too_long else set()):
        ours = {one for one in found if one[0].split(".")[0] == path}
        assert ours, path
        assert len(ours) > MAX_DETAILS or ours == {one for one in expected if one[0].split(".")[0] == path}


def test_the_words_are_found_in_a_bounded_time():
    payload = {
        "testId": "t",
        "errors": [7] * 1_000_000,
        "tags": ["t"] * 200_000 + [7],
        **{f"k{n}": n for n in range(100_000)},
    }
    began = time.process_time()
    problems = problems_of(ALL["test/end"], payload, "payload")
    assert time.process_time() - began < 1.0
    assert (problems[0].path, problems[0].problem) == ("payload.errors.0", "not a valid mapping type")
    assert problems[-1].path == "payload.tags.200000"
