"""The strict decoder: what it refuses, and that its cheap filters let nothing pass that the second look would find."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testorch_core.decoding import MAX_DEPTH, decode, flaw_in
from testorch_core.errors import RefusedError

LARGEST = 2**53 - 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "Infinity",
        "[1e400]",
        "-" + "9" * 4301,
        '"\\ud800"',
        '"\\udc00\\ud800"',
        "'a'",
        "[1,]",
        '{"a":1,}',
        "\x00",
    ],
)
def test_what_is_not_json_is_refused(text: str):
    with pytest.raises(RefusedError) as refused:
        decode(text, max_bytes=100_000)
    assert refused.value.refusal.code == "invalid_json"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": ["x", "y\x00"]}, "a.1"),
        ({"a": {"b\x00": 1}}, "a"),
        ([LARGEST + 1], "0"),
        ([-LARGEST - 1], "0"),
        ([1e30], "0"),
    ],
)
def test_what_no_store_may_see_is_found_with_its_path(value: Any, path: str):
    found = decode(json.dumps(value), max_bytes=1000)
    assert found.suspicious
    flaw = flaw_in(found.value)
    assert flaw is not None
    assert flaw.path == path


def test_nesting_to_the_limit_is_taken_and_one_more_is_not():
    fits = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert flaw_in(decode(fits, max_bytes=1000).value) is None
    deep = decode(f"[{fits}]", max_bytes=1000)
    assert deep.suspicious
    assert flaw_in(deep.value) is not None


def test_sizes_are_in_bytes():
    with pytest.raises(RefusedError) as refused:
        decode('"' + "é" * 10 + '"', max_bytes=21)
    assert refused.value.refusal.message == "the message has 22 bytes; at most 21 are taken"
    assert decode('"' + "é" * 10 + '"', max_bytes=22).value == "é" * 10


def test_ordinary_events_need_no_second_look():
    event = {"id": "3f2e10-17", "type": "test/end", "timestamp": 1766000000000, "payload": {"durationMs": 12.125}}
    assert not decode(
        orjson.dumps({"type": "events", "payload": {"events": [event] * 200}}), max_bytes=10**6
    ).suspicious


NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    NUMBERS | st.text(alphabet='a\x00[]{}e1:,\\" ', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="a\x00[", max_size=2), inner, max_size=3)
    ),
)


@given(
    VALUES, st.sampled_from([json.dumps, lambda value: json.dumps(value, indent=1), orjson.dumps]), st.integers(0, 80)
)
def test_the_filters_never_call_sound_what_the_second_look_refuses(value: Any, encode: Any, depth: int):
    for _ in range(depth):
        value = [value]
    found = decode(encode(value), max_bytes=10**6)
    if flaw_in(found.value) is not None:
        assert found.suspicious
