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


@pytest.mark.parametrize("number", ["9007199254740992", "-9007199254740992", "1e16", "-1E+16", "9007199254740992.5"])
@pytest.mark.parametrize("place", ["{}", " {}", "[{}]", "[0,{}]", "[\t{}]", '{{"a":{}}}', '{{"a": {}}}'])
def test_a_number_beyond_the_limit_is_found_wherever_one_can_stand(number: str, place: str):
    found = decode(place.format(number), max_bytes=1000)
    assert flaw_in(found.value) is not None
    assert found.suspicious


@pytest.mark.parametrize("inside", ["1", "[]", "{}", '"]"'])
def test_brackets_in_strings_hide_no_depth(inside: str):
    """The closing ones pair with real opening ones in the text, and the opening ones with real closing ones."""
    text = '["]",' * MAX_DEPTH + f"[{inside}]" + ',"["]' * MAX_DEPTH
    deep = decode(text, max_bytes=10_000)
    assert flaw_in(deep.value) is not None
    assert deep.suspicious


@pytest.mark.parametrize("bytes_around", [0, 100_000])
@pytest.mark.parametrize("innermost", ["", "1", "{}", '"x"', '{"a":1}'])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("[0,", ",0]"), (" [ ", "\t]\n")])
def test_depth_is_found_at_the_limit_in_short_and_long_messages(
    opening: str, closing: str, innermost: str, bytes_around: int
):
    for levels in range(MAX_DEPTH - 3, MAX_DEPTH + 3):
        nested = opening * levels + (innermost or "0") + closing * levels
        found = decode(f'["{"x" * bytes_around}",{nested}]', max_bytes=10**6)
        assert found.suspicious or flaw_in(found.value) is None


def test_what_only_looks_like_a_flaw_costs_no_second_look():
    strings = ["3f2e10-17", "1e5", "x12e3", "1766000000000000000", "-9007199254740993", "[" * 70, "{[" * 70, "u0000"]
    numbers = [0.1234567890123456789, 123456789012345.123456789, 1e-7, -2.5e-30, 9007199254740.0, -123456789012345]
    assert not decode(orjson.dumps([strings, numbers] * 20), max_bytes=10**6).suspicious


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


DIGITS = st.text(alphabet="0123456789", min_size=1, max_size=18)
WHOLE_PARTS = st.just("0") | st.builds(str.__add__, st.sampled_from("123456789"), DIGITS)
EXPONENTS = st.builds(
    lambda *parts: "".join(parts), st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.sampled_from(["", "0", "00"]),
    st.integers(0, 290).map(str),
)  # fmt: skip
NUMBER_TEXTS = st.builds(
    lambda *parts: "".join(parts), st.sampled_from(["", "-"]), WHOLE_PARTS, st.just("") | DIGITS.map(".{}".format),
    st.just("") | EXPONENTS,
)  # fmt: skip
SPACES = st.sampled_from(["", "", " ", "\n", "\t", "\r\n  "])
STRING_PIECES = [*"ae1[]{}:, -.", "0e0", "u0000", "\\u0000", "\\\\", '\\"', "\\n"]
STRING_TEXTS = st.lists(st.sampled_from(STRING_PIECES), max_size=5).map(lambda pieces: f'"{"".join(pieces)}"')


def _array_text(items: list[str], spaces: list[str]) -> str:
    before, after = spaces
    return "[" + ",".join(f"{before}{item}{after}" for item in items) + (before if not items else "") + "]"


def _object_text(items: list[tuple[str, str]], spaces: list[str]) -> str:
    before, after = spaces
    return "{" + ",".join(f"{before}{key}{after}:{before}{item}{after}" for key, item in items) + "}"


TWO_SPACES = st.lists(SPACES, min_size=2, max_size=2)
JSON_TEXTS = st.recursive(
    NUMBER_TEXTS | STRING_TEXTS | st.sampled_from(["null", "true", "false"]),
    lambda inner: (
        st.builds(_array_text, st.lists(inner, max_size=3), TWO_SPACES)
        | st.builds(_object_text, st.lists(st.tuples(STRING_TEXTS, inner), max_size=3), TWO_SPACES)
    ),
    max_leaves=8,
)
SHELLS = st.sampled_from(
    [("[", "]"), ('{"a":', "}"), ('["]",', ',"["]'), ('{"}":1,"a": ', ',"{":0}'), ("[[],", ",[]]"), ("\n[ ", "\t] ")]
)


@given(JSON_TEXTS, st.lists(st.tuples(SHELLS, st.integers(1, 40)), max_size=3), SPACES, st.sampled_from([0, 5000]))
def test_no_spelling_of_a_flaw_gets_past_the_filters(text: str, shells: Any, space: str, padding: int):
    for (opening, closing), times in shells:
        text = opening * times + text + closing * times
    if padding:
        text = f'["{"x" * padding}",{text}]'
    try:
        found = decode(space + text + space, max_bytes=10**6)
    except RefusedError:
        return  # a number beyond what orjson reads at all
    if flaw_in(found.value) is not None:
        assert found.suspicious
