"""The options of event validation: types, sizes, required fields and contributed schemas, each refusal a sentence."""

import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from testorch_core.errors import MAX_DETAILS, OpeningError
from testorch_core.options import OptionsError
from testorch_core.testing import plugin_context
from testorch_plugins.security.event_validation.limits import Limits
from testorch_plugins.security.event_validation.options import EventValidationOptions
from testorch_plugins.security.event_validation.plugin import EventValidation

TEST = {"testId": "t", "testName": "T", "errors": [{"message": "m", "stack": "s"}], "extra": {"ticket": "A-1"}}


def validation(**given: Any) -> EventValidation:
    return EventValidation("validation", EventValidationOptions.load(given, folder=Path()))


def said(policy: EventValidation, kind: str, payload: Any) -> list[str]:
    return [str(one) for one in policy.validate({"id": "e", "type": kind, "timestamp": 1, "payload": payload})]


def problems(**given: Any) -> list[str]:
    with pytest.raises(OptionsError) as refused:
        EventValidationOptions.load(given, folder=Path())
    return [one.problem for one in refused.value.problems]


# Types.


@pytest.mark.parametrize(
    ("options", "taken", "refused"),
    [
        ({}, ["test/end", "x/y", "system/client/connect"], []),
        ({"unknown_types": "refuse"}, ["test/end", "system/client/connect"], ["x/y"]),
        ({"types": ["test/*"]}, ["test/end", "system/client/connect"], ["run/plan", "x/y"]),
        ({"types": ["test/end", "x/*"], "unknown_types": "refuse"}, ["test/end", "x/y", "x/y/z"], ["test/start", "x", "xy/z"]),
    ],
)  # fmt: skip
def test_types_are_taken_or_refused(options: dict[str, Any], taken: list[str], refused: list[str]):
    policy = validation(**options)
    assert {kind: said(policy, kind, TEST) for kind in taken} == {kind: [] for kind in taken}
    for kind in refused:
        assert len(said(policy, kind, {"total": 1})) == 1


def test_a_refused_type_is_told_with_the_option_that_refuses_it():
    assert said(validation(types=["test/end"]), "x/y", {}) == [
        "type: `x/y` is not one of the types that the option `types` takes"
    ]
    assert said(validation(unknown_types="refuse"), "x/y", {}) == [
        "type: `x/y` is not a type that testorch knows, and `unknown_types` is `refuse`"
    ]


# Required fields.

REQUIRED = {
    "test/end": ["testName", "extra.ticket", "errors.message"],
    "test/output": ["testId"],
    "x/y": ["list.deep.name"],
}


@pytest.mark.parametrize(
    ("kind", "payload", "words"),
    [
        ("test/end", TEST, []),
        ("test/start", {"testId": "t"}, []),
        ("test/end", {**TEST, "errors": []}, []),
        ("test/end", {**TEST, "testName": None}, ["payload.testName: is required by the option `required` (`testName`)"]),
        ("test/end", {**TEST, "extra": {}}, ["payload.extra.ticket: is required by the option `required` (`extra.ticket`)"]),
        ("test/end", {**TEST, "errors": [{"message": "m"}, {}]}, ["payload.errors.1.message: is required by the option `required` (`errors.message`)"]),
        ("test/end", {"testId": "t"}, [f"payload.{part}: is required by the option `required` (`{path}`)"
                                       for part, path in (("testName", "testName"), ("extra", "extra.ticket"), ("errors", "errors.message"))]),
        ("test/end", {"testId": ""}, ["payload.testId: length must be between 1 and 1024"]),
        ("test/output", {"text": "x"}, ["payload.testId: is required by the option `required` (`testId`)"]),
        ("x/y", {"list": [[{"deep": {"name": 1}}], {"deep": 3}]}, ["payload.list.1.deep.name: is required by the option `required` (`list.deep.name`)"]),
    ],
)  # fmt: skip
def test_required_fields_are_asked_for_by_path(kind: str, payload: Any, words: list[str]):
    assert said(validation(required=REQUIRED), kind, payload) == words


def test_a_long_list_without_a_field_is_told_of_in_a_few_lines():
    assert len(said(validation(required=REQUIRED), "test/end", {**TEST, "errors": [{}] * 100_000})) == MAX_DETAILS


# Sizes.


@pytest.mark.parametrize(
    ("options", "kind", "payload", "words"),
    [
        ({"max_event_bytes": 100}, "x/y", {"a": "\u00e4" * 50}, ["has 156 bytes; at most 100 are taken"]),
        ({"max_event_bytes": 1000}, "x/y", {"a": "\u00e4" * 50}, []),
        ({"max_string_characters": 5}, "test/end", {"testId": "123456", "errors": [{"message": "1234567"}]}, ["payload.testId: has 6 characters; at most 5 are taken"]),
        ({"max_error_characters": 5}, "test/end", {"testId": "123456", "errors": [{"stack": "1234567"}]}, ["payload.errors.0.stack: has 7 characters; at most 5 are taken"]),
        ({"max_error_characters": 5}, "run/error", {"message": "123456", "errors": [{"1234567": 1}]}, ["payload.errors.0: has 7 characters; at most 5 are taken"]),
        ({"max_string_characters": 5}, "test/output", {"text": "123456", "workerId": "123456"}, ["payload.workerId: has 6 characters; at most 5 are taken"]),
        ({"max_string_characters": 5}, "test/attachment", {"body": "123456"}, []),
        ({"max_output_characters": 5}, "test/output", {"text": "123456"}, ["payload.text: has 6 characters; at most 5 are taken"]),
        ({"max_output_characters": 6, "max_string_characters": 1}, "test/output", {"text": "123456"}, []),
        ({"max_keys": 3}, "x/y", {"a": [{"b": 1, "c": {"d": 1}}]}, ["payload: has 4 keys, at all levels; at most 3 are taken"]),
        ({"max_keys": 4}, "x/y", {"a": [{"b": 1, "c": {"d": 1}}]}, []),
    ],
)  # fmt: skip
def test_sizes_have_limits(options: dict[str, Any], kind: str, payload: Any, words: list[str]):
    assert said(validation(**options), kind, payload) == words


def test_many_strings_that_are_too_long_are_told_of_in_a_few_lines():
    assert len(said(validation(max_string_characters=1), "x/y", {"a": ["xx"] * 100_000, "b": "xx"})) == MAX_DETAILS


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4))
def test_limits_are_those_of_a_plain_walk(payload: dict[str, Any]):
    def walk(value: Any) -> tuple[int, int]:
        """(keys, characters of the longest string), keys of the payload itself left out of the latter."""
        parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        keys = len(value) if isinstance(value, dict) else 0
        longest = (
            len(value) if isinstance(value, str) else max(map(len, value), default=0) if isinstance(value, dict) else 0
        )
        for count, most in map(walk, parts):
            keys, longest = keys + count, max(longest, most)
        return keys, longest

    keys = walk(payload)[0]
    longest = max((walk(value)[1] for value in payload.values()), default=0)
    event = {"id": "e", "type": "x/y", "timestamp": 1, "payload": payload}
    assert Limits(keys=keys, string_characters=longest, error_characters=longest).problems(event) == []
    assert keys == 0 or Limits(keys=keys - 1).problems(event) != []
    assert longest == 0 or Limits(string_characters=longest - 1, error_characters=longest - 1).problems(event) != []


# What is wrong with options.


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"types": []}, "`types`: shorter than minimum length 1"),
        ({"types": ["test/ends"]}, "`types`: `test/ends` is not a type of testorch; did you mean `test/end`?"),
        ({"types": ["run/start"]}, "`types`: `run/start` is written by the server alone"),
        ({"types": ["tests/*"]}, None),
        ({"types": ["*/end"]}, "`types`: `*/end` may have a `*` only as its last part, as in `mytool/*`"),
        ({"required": {"test/ends": ["a"]}}, "`required`: `test/ends` is not a type of testorch; did you mean `test/end`?"),
        ({"required": {"test/*": ["a"]}}, "`required`: `test/*` must be one type, without `*`"),
        ({"required": {"test/end": "a"}}, '`required`: `test/end` must be a list of fields of the payload, such as `["testName", "extra.ticket"]`'),
        ({"required": {"test/end": ["a..b"]}}, "`required`: `test/end` has `a..b`, which is not a field of the payload, or a dotted path such as `extra.ticket`"),
        ({"required": {"test/end": ["payload.a"]}}, "`required`: `test/end` has `payload.a`, which begins at the payload already; leave `payload` out"),
        ({"required": ["test/end"]}, "`required`: not a valid mapping type"),
        ({"max_keys": 0}, "`max_keys`: must be greater than or equal to 1"),
        ({"max_keys": True}, "`max_keys`: not a valid integer"),
        ({"schemas": ["none"]}, "`schemas`: no event_schemas plugin is named `none`; installed: none"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_option_has_a_sentence(given: dict[str, Any], words: str | None):
    if words is None:
        EventValidationOptions.load(given, folder=Path())
    else:
        assert problems(**given) == [words]


# Schemas of others.

CONTRIBUTION = """
from marshmallow import INCLUDE, Schema, fields, validate

class Measured(Schema):
    class Meta:
        unknown = INCLUDE
    metric = fields.String(required=True, validate=validate.Length(1, 10))
    unit = fields.String(validate=validate.Regexp(r"^[a-z]+\\Z"))

class Hole(Schema):
    many = fields.List(fields.Nested(lambda: Inner()))

class Inner(Schema):
    unit = fields.String(validate=validate.Regexp("^a$"))

good = {"mytool/measured": Measured}
def called(): return good
again = {"mytool/measured": Measured}
taken = {"test/end": Measured}
odd = {"mytool/odd": Measured()}
number = 3
def failing(): raise RuntimeError("no luck")
hole = {"mytool/hole": Hole}
"""
NAMES = ("good", "called", "again", "taken", "odd", "number", "failing", "hole", "absent")


@pytest.fixture
def contribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A distribution that offers schemas, good ones and bad ones."""
    information = tmp_path / "mytool-1.0.dist-info"
    information.mkdir()
    (tmp_path / "mytool_schemas.py").write_text(CONTRIBUTION)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mytool\nVersion: 1.0\n")
    listed = "".join(f"{name} = mytool_schemas:{name}\n" for name in NAMES)
    (information / "entry_points.txt").write_text(f"[testorch.event_schemas]\n{listed}")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("mytool_schemas", None)


async def started(nursery: trio.Nursery, folder: Path, **given: Any) -> EventValidation:
    policy = validation(**given)
    await policy.start(plugin_context(nursery, folder=folder))
    return policy


@pytest.mark.usefixtures("contribution")
@pytest.mark.parametrize("name", ["good", "called"])
async def test_a_contributed_schema_is_held_against_its_types(name: str, nursery: trio.Nursery, tmp_path: Path):
    policy = await started(
        nursery, tmp_path, schemas=[name], unknown_types="refuse", required={"mytool/measured": ["at"]}
    )
    assert said(policy, "mytool/measured", {"metric": "a", "unit": "ms", "at": 1, "more": 1}) == []
    assert said(policy, "mytool/measured", {}) == ["payload.metric: missing data for required field"]
    assert said(policy, "mytool/measured", {"metric": "a", "unit": "a\n"}) == [
        "payload.unit: string does not match expected pattern"
    ]
    assert said(policy, "mytool/measured", {"metric": "a"}) == [
        "payload.at: is required by the option `required` (`at`)"
    ]
    assert len(said(policy, "mytool/other", {})) == 1
    assert said(policy, "test/end", {"testId": "t"}) == []
    assert said(policy, "test/output", {"text": "t"}) == []


@pytest.mark.usefixtures("contribution")
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["good", "again"], "`again`: the event type `mytool/measured` has a schema of another contribution; name only one"),
        (["taken"], "`taken`: `test/end` is one of testorch's own event types; a contribution can't describe it"),
        (["odd"], "`odd`: must be a table of event types and marshmallow schema classes, or return one"),
        (["number"], "`number`: its schemas can't be made: AttributeError: 'int' object has no attribute 'items'"),
        (["failing"], "`failing`: its schemas can't be made: RuntimeError: no luck"),
        (["hole"], "`hole`: `mytool/hole.many.unit`: the pattern `^a$` takes a line break after its `$`; write `\\Z`"),
        (["absent"], "event_schemas plugin `absent` (mytool 1.0) can't be imported: AttributeError: module 'mytool_schemas' has no attribute 'absent'"),
        (["goood"], "no event_schemas plugin is named `goood`; did you mean `good`?"),
    ],
)  # fmt: skip
async def test_schemas_that_can_not_be_used_are_told_before_anything_starts(names: list[str], words: str, nursery: trio.Nursery, tmp_path: Path):  # fmt: skip
    (found,) = problems(schemas=names)
    assert found.startswith(f"`schemas`: {words}")
    policy = EventValidation("validation", EventValidationOptions(schemas=names))
    with pytest.raises(OpeningError) as refused:
        await policy.start(plugin_context(nursery, folder=tmp_path))
    assert str(refused.value).startswith(f"`schemas`: {words}")


@pytest.mark.usefixtures("contribution")
def test_what_is_installed_and_not_named_is_not_imported():
    validation()
    assert "mytool_schemas" not in sys.modules


# The fast way.


def test_good_events_pass_by_the_compiled_check_alone_where_no_option_asks_for_more(monkeypatch: pytest.MonkeyPatch):
    policy = validation(types=["test/*", "run/plan"], required={"run/plan": ["total"]})
    monkeypatch.setattr(policy, "_problems", lambda event: pytest.fail("the slow way"))
    assert said(policy, "test/end", TEST) == []
    assert said(policy, "test/output", {"text": "x"}) == []
    with pytest.raises(pytest.fail.Exception):
        said(policy, "run/plan", {"total": 1})
