"""What an embedding host passes in is held against the same decoder as what comes over the wire."""

import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testorch_core.decoding import MAX_DEPTH, decode, flaw_in
from testorch_core.errors import RefusedError
from testorch_core.host_values import admitted

LARGEST = 2**53 - 1


class Text(str):
    """Shows one thing, and may be another."""


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    LARGE = 3


@dataclasses.dataclass
class Point:
    x: int = 1


def nested(levels: int, value: Any = 0) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def cyclic() -> Any:
    value: dict[str, Any] = {}
    value["a"] = [value]
    return value


def refusal(value: Any, max_bytes: int = 10_000) -> tuple[str, str]:
    with pytest.raises(RefusedError) as refused:
        admitted(value, max_bytes=max_bytes)
    found = refused.value.refusal
    return found.code, found.details[0].path if found.details else ""


@pytest.mark.parametrize(
    "value",
    [
        math.nan, math.inf, -math.inf, 1e16, -1e300, LARGEST + 1, -LARGEST - 1, 2**64, 10**400, 10**4301, "\x00", "a\ud800", "\udc00\ud800",
        {1: 2}, {None: 1}, {("a",): 1}, {"a\x00": 1}, {"\ud800": 1}, {True: 1}, {Text("a"): 1},
        {"a"}, frozenset(), b"a", bytearray(), datetime.datetime(2020, 1, 1), datetime.date(2020, 1, 1), decimal.Decimal(1), Point(), Point, object(),
        uuid.UUID(int=1), Colour.RED, Size.LARGE, Text("a"), OrderedDict(a=1), range(3), iter([]), len, 1j,
        nested(MAX_DEPTH), cyclic(), nested(10_000),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_the_wire_could_not_have_brought_is_refused_with_its_path(value: Any):
    code, path = refusal({"x": ["y", {"a.b": value}]})
    assert code == "invalid_json"
    assert path.startswith("x.1.a.b")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -LARGEST,
        LARGEST,
        -0.0,
        5e-324,
        0.1,
        "",
        "é\U0001f9ea\x01",
        [],
        {},
        {"": [None]},
        nested(MAX_DEPTH - 1),
    ],
)
def test_what_the_wire_brings_comes_out_as_it_went_in(value: Any):
    found = admitted([value], max_bytes=10_000)
    assert json.dumps(found.value) == json.dumps([value])
    assert found.value is not value
    assert found.size_bytes == len(
        json.dumps([value], ensure_ascii=False, separators=(",", ":")).replace("\\u0001", "......").encode()
    )


def test_tuples_become_lists_and_the_copy_is_nobody_elses():
    inner = ["a"]
    found = admitted({"a": (1, inner)}, max_bytes=100)
    inner.append("b")
    assert found.value == {"a": [1, ["a"]]}


def test_the_size_is_that_of_the_message_on_the_wire():
    assert admitted("é" * 10, max_bytes=22).size_bytes == 22
    assert refusal("é" * 10, 21) == ("too_large", "")
    assert refusal([0] * 1000, 2000) == ("too_large", "")
    assert refusal({"a" * 3000: 0}, 2000) == ("too_large", "")


def test_what_is_small_in_memory_and_endless_as_json_is_refused_at_once():
    laughs: Any = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs, laughs]
    assert refusal(laughs)[0] == "too_large"
    circle: list[Any] = []
    circle += [circle] * 3
    assert refusal(circle)[0] == "too_large"
    assert refusal(["x" * 1000] * 1000) == ("too_large", "")
    assert refusal([{"x" * 1000: 0}] * 1000) == ("too_large", "")


def test_objects_that_do_harm_when_they_are_looked_at_are_not_looked_at():
    class Trap:
        def __eq__(self, other: object) -> bool:
            raise RecursionError

        __hash__ = object.__hash__

        def __repr__(self) -> str:
            raise MemoryError

        __str__ = __repr__

    assert refusal({"a": Trap()}) == ("invalid_json", "a")
    assert refusal({Trap(): 1})[0] == "invalid_json"


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.integers(LARGEST - 1, LARGEST + 2) | st.floats() | st.text(max_size=3)
    | st.text(alphabet="a\x00\ud800", max_size=2)
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda one: (
        st.lists(one, max_size=3) | st.dictionaries(st.text(alphabet="a\x00\ud800b", max_size=2), one, max_size=3)
    ),
)


def taken_from_the_wire(text: str) -> Any:
    """What a session takes of a message with this text, or the code of its refusal."""
    found = decode(text, max_bytes=1000)
    if found.suspicious and flaw_in(found.value) is not None:
        raise RefusedError.__new__(RefusedError)
    return found.value


@given(VALUES, st.integers(0, 70))
def test_a_host_and_the_wire_agree_about_every_value(value: Any, depth: int):
    value = nested(depth, value)
    try:
        expected = taken_from_the_wire(json.dumps(value))
    except RefusedError:
        with pytest.raises(RefusedError):
            admitted(value, max_bytes=1000)
    else:
        assert admitted(value, max_bytes=1000).value == expected
