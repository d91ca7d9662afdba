"""The compiled acceptors against their schemas: what an acceptor takes, the schema takes too."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import INCLUDE, RAISE, Schema, fields, post_load, validate

from testorch_core.acceptor import Whole, compile_acceptor
from testorch_core.protocol import EventEnvelope, problems_of
from testorch_plugins.security.event_validation.schemas import SCHEMAS

ALL = {"envelope": EventEnvelope, **SCHEMAS}

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**54)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["stdout", "log"])
)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


def values_for(schema: type[Schema]) -> st.SearchStrategy[Any]:
    names = list(schema().load_fields)
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=2), ANY, max_size=len(names))


@settings(max_examples=150)
@pytest.mark.parametrize("name", sorted(ALL))
@given(data=st.data())
def test_what_the_acceptor_takes_the_schema_takes(name: str, data: st.DataObject):
    schema = ALL[name]()
    value = data.draw(ANY | values_for(ALL[name]))
    if compile_acceptor(schema)(value):
        assert problems_of(schema, value, "") == []


GOOD = {
    "envelope": {"id": "e", "type": "x/y", "timestamp": 1, "payload": {}, "runId": None, "seq": 1, "other": [1]},
    "test/start": {"testId": "t", "testName": "T", "suitePath": ["a"], "line": 3, "shard": {"index": 0, "total": 2}},
    "test/end": {
        "testId": "t",
        "status": "passed",
        "durationMs": 1.5,
        "errors": [{"message": "m"}],
        "ok": True,
        "x": 1,
    },
    "test/output": {"testId": "t", "stream": "stderr", "text": "hello"},
    "run/plan": {"total": 10},
}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_ordinary_events_are_taken_on_the_fast_path(name: str):
    assert compile_acceptor(ALL[name]())(GOOD[name])


def test_a_schema_with_code_of_its_own_is_left_to_itself():
    class Hooked(Schema):
        name = fields.String()

        @post_load
        def more(self, loaded: Any, **_: Any) -> Any:
            return loaded

    assert not compile_acceptor(Hooked())({"name": "x"})


def test_a_field_with_code_of_its_own_is_left_to_itself():
    class Coded(Schema):
        early = fields.String(pre_load=lambda value: 1 / 0)
        late = fields.List(fields.String(post_load=lambda value: 1 / 0))

    accept = compile_acceptor(Coded())
    assert accept({})
    assert accept({"late": []})
    assert not accept({"early": "x"})
    assert not accept({"late": ["x"]})


def test_a_field_that_overrules_its_schema_is_left_to_the_schema():
    class Inner(Schema):
        class Meta:
            unknown = INCLUDE

    class Outer(Schema):
        inner = fields.Nested(Inner(), unknown=RAISE)

    assert problems_of(Outer(), {"inner": {"x": 1}}, "") != []
    assert not compile_acceptor(Outer())({"inner": {"x": 1}})


def test_unknown_keys_are_refused_where_the_schema_refuses_them():
    class Strict(Schema):
        class Meta:
            unknown = RAISE

        name = fields.String(validate=validate.Length(1, 3))
        age = Whole()

    accept = compile_acceptor(Strict())
    assert accept({"name": "abc", "age": 3})
    assert not accept({"name": "abcd"})
    assert not accept({"name": "abc", "other": 1})
    assert not accept({"age": True})


def test_a_loose_acceptor_would_be_caught():
    """The property above bites: an acceptor that forgets a length limit takes what the schema refuses."""

    class Loose(Schema):
        name = fields.String()

    class Strict(Schema):
        name = fields.String(validate=validate.Length(max=1))

    assert compile_acceptor(Loose())({"name": "long"})
    assert problems_of(Strict(), {"name": "long"}, "") != []
