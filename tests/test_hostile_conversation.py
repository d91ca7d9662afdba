"""Whatever a client sends, it is answered with a documented code in at most 4 KB, soon, and the next request is answered."""

import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from support import MEMORY, running

from testorch_core.errors import MAX_PAYLOAD_BYTES, Problem, Refusal, within
from testorch_core.protocol import ERROR_CODES, SCHEMAS
from testorch_core.router import EVENT_TYPES, KNOWN_TYPES
from testorch_core.server import Server
from testorch_core.testing import FakeConnection
from testorch_core.testing.hostile import NAMES, VALUES

MAX_ERROR_BYTES = 4096
CPU_SECONDS = 0.5
"""Ten times what each is to take on a machine of its own; the tests may share one."""

SANDBOX = {"storage": {"use": "memory"}}


@asynccontextmanager
async def talking(tables: Mapping[str, Any] = MEMORY) -> AsyncIterator[tuple[Server, FakeConnection]]:
    async with running(tables) as server, trio.open_nursery() as nursery:
        connection = FakeConnection()
        nursery.start_soon(server.serve_connection, connection)
        yield server, connection
        connection.hang_up()


async def answers_to(connection: FakeConnection, *messages: Any) -> list[Any]:
    """Everything that is said until a good request, sent after the messages, is answered."""
    connection.feed(*messages, {"type": "getStatistics", "id": "canary"})
    found: list[Any] = []
    while True:
        with trio.fail_after(20):
            answer = await connection.answer()
        if answer.get("inReplyTo") == "canary":
            assert answer["type"] == "statistics"
            assert connection.closed_with is None
            return found
        found.append(answer)


def assert_is_a_good_error(answer: Any) -> None:
    assert answer["type"] == "error"
    assert answer["payload"]["code"] in ERROR_CODES
    assert len(orjson.dumps(answer)) <= MAX_ERROR_BYTES
    assert answer["payload"]["message"]


# Errors are small.

TEXTS = st.text(max_size=1200) | st.builds(
    str.__mul__, st.sampled_from(["\x01", "\U0001f9ea", '"', "é", "\ud800", "a"]), st.integers(0, 5000)
)
REFUSALS = st.builds(
    Refusal, code=TEXTS, message=TEXTS, temporary=st.booleans(), retry_after_ms=st.none() | st.integers(0, 2**53), event_id=st.none() | TEXTS,
    policy=st.none() | TEXTS, seq=st.none() | st.integers(1, 2**53), details=st.lists(st.builds(Problem, TEXTS, TEXTS), max_size=20).map(tuple),
)  # fmt: skip


@given(REFUSALS, st.text(max_size=200) | st.just("\x01" * 200))
def test_an_error_is_at_most_4_kb_whatever_is_in_it(refusal: Refusal, reply_to: str):
    payload = refusal.payload()
    assert len(orjson.dumps(payload)) <= MAX_PAYLOAD_BYTES
    reply_to = within(reply_to, 200, 1200)
    assert len(orjson.dumps({"type": "error", "payload": payload, "inReplyTo": reply_to})) <= MAX_ERROR_BYTES
    assert len(payload["details"]) + payload.get("moreDetails", 0) == len(refusal.details)
    assert bool(payload["details"]) == bool(refusal.details), "the first is always told"


def test_an_ordinary_error_is_told_whole():
    problems = tuple(Problem(f"payload.field{n}", "must be something else") for n in range(8))
    refusal = Refusal("invalid_event", "words", details=problems, event_id="\x01" * 200, policy="p")
    payload = refusal.payload()
    assert payload["eventId"] == "\x01" * 200, "a client finds its event by its id"
    assert [Problem(**one) for one in payload["details"]] == list(problems)
    assert "moreDetails" not in payload


@given(TEXTS, st.integers(1, 600), st.integers(0, 1500))
def test_a_text_is_cut_to_characters_and_bytes(text: str, characters: int, most_bytes: int):
    cut = within(text, characters, most_bytes)
    assert len(cut) <= characters
    assert len(orjson.dumps(cut)) - 2 <= most_bytes
    fits = len(text) <= characters and "\ud800" not in text and len(orjson.dumps(text)) - 2 <= most_bytes
    assert not fits or cut == text


# Every field of every message.

HOSTILE: list[Any] = [
    *VALUES,
    *(name * 30 for name in NAMES),
    ["x"] * 200,
    {name: name for name in NAMES},
    2**63,
    -(2**63),
    1e300,
    "\x00",
    "a\x00",
    {"\x00": 1},
]
ENVELOPE = {
    "id": "i",
    "type": "test/end",
    "timestamp": 1,
    "payload": {"testId": "t", "attempt": 1, "durationMs": 1, "total": 1},
    "runId": "r",
    "project": "p",
    "seq": 1,
}


def hostile_messages() -> Iterator[dict[str, Any]]:
    for kind in sorted(KNOWN_TYPES - {"hello"}):
        fields = list(ENVELOPE) if kind in EVENT_TYPES else list(SCHEMAS[kind].fields)
        for value in HOSTILE:
            yield {"type": kind, "payload": value}
            for name in fields:
                if kind == "event":
                    yield {"type": kind, "payload": {**ENVELOPE, name: value}}
                elif kind == "events":
                    yield {"type": kind, "payload": {"events": [{**ENVELOPE, name: value}]}}
                else:
                    yield {"type": kind, "payload": {"runId": "r", name: value}}
    for value in HOSTILE:
        yield {"type": value}
        yield {"type": "getRunStatus", "id": value, "payload": {"runId": value}}
        yield {"type": "unknown", "id": value}
        yield {"type": "hello", "payload": {"streamId": value, "runId": value, "client": value, "token": value}}
        for name in ENVELOPE["payload"]:  # type: ignore[attr-defined]
            yield {"type": "event", "payload": {**ENVELOPE, "payload": {**ENVELOPE["payload"], name: value}}}  # type: ignore[dict-item]


@pytest.mark.parametrize("tables", [MEMORY, SANDBOX], ids=["with the policy", "without"])
async def test_hostile_values_in_every_field_of_every_message(tables: Mapping[str, Any]):
    messages = list(hostile_messages())
    async with talking(tables) as (_, connection):
        for start in range(0, len(messages), 100):
            for answer in await answers_to(connection, *map(spelt, messages[start : start + 100])):
                assert len(orjson.dumps(answer)) <= MAX_ERROR_BYTES or answer["type"] != "error"
                if answer["type"] == "error":
                    assert_is_a_good_error(answer)


def spelt(message: Any) -> str:
    return json.dumps(message, ensure_ascii=True)


async def test_a_huge_id_is_not_echoed():
    async with talking() as (_, connection):
        (answer,) = await answers_to(
            connection, {"type": "getRunStatus", "id": "\x01" * 200, "payload": {"runId": "x" * 200}}
        )
        assert answer["inReplyTo"] == "\x01" * 200
        (answer,) = await answers_to(connection, {"type": "getRunStatus", "id": "x" * 201, "payload": {"runId": "x"}})
        assert "inReplyTo" not in answer


# Attacks.


def event(payload: str, more: str = "") -> str:
    return f'{{"type":"event","payload":{{"id":"bad","type":"test/end","timestamp":1,"payload":{payload}{more}}}}}'


def keys(count: int) -> str:
    return ",".join(f'"k{n}.x":{n}' for n in range(count))


MANY = ",".join(["7"] * 100_000)
DEEP = "[" * 1000 + "]" * 1000
ATTACKS: dict[str, tuple[Any, str | None]] = {
    "nested brackets": ("[" * 100_000, "invalid_json"),
    "nested and closed": ("[" * 100_000 + "]" * 100_000, "invalid_json"),
    "nested objects": ('{"a":' * 100_000, "invalid_json"),
    "1,000 levels in an event": (event(f'{{"a":{DEEP}}}'), "invalid_event"),
    "1,000 levels in a request": (f'{{"type":"startTestRun","payload":{{"metadata":{{"a":{DEEP}}}}}}}', "invalid_json"),
    "65 levels in a request": ('{"type":"getRuns","x":' + "[" * 64 + "]" * 64 + "}", "invalid_json"),
    "NaN": (event('{"a":NaN}'), "invalid_json"),
    "Infinity": (event('{"a":-Infinity}'), "invalid_json"),
    "4,301 digits": (event('{"a":' + "9" * 4301 + "}"), "invalid_json"),
    "1E400": (event('{"a":1E400}'), "invalid_json"),
    "1e-400": (event('{"testId":"t","durationMs":1e-400}'), None),
    "-0.0": (event('{"testId":"t","durationMs":-0.0}'), None),
    "1e300": (event('{"durationMs":1e300}'), "invalid_event"),
    "NUL escaped": (event('{"a":"\\u0000"}'), "invalid_event"),
    "NUL in a key": (event('{"a\\u0000":1}'), "invalid_event"),
    "NUL in a request": ('{"type":"getRunStatus","payload":{"runId":"\\u0000"}}', "invalid_json"),
    "NUL itself": (event('{"a":"\x00"}'), "invalid_json"),
    "a lone surrogate, escaped": (event('{"a":"\\ud800"}'), "invalid_json"),
    "a lone surrogate in a key": (event('{"\\udc00":1}'), "invalid_json"),
    "a lone surrogate in the text": (event('{"a":"\ud800"}'), "invalid_json"),
    "a lone surrogate in bytes": (event('{"a":"*"}').encode().replace(b"*", b"\xed\xa0\x80"), "invalid_json"),
    "an overlong NUL": (event('{"a":"*"}').encode().replace(b"*", b"\xc0\x80"), "invalid_json"),
    "not UTF-8": (b"\xff\xfe{}", "invalid_json"),
    "unknown keys in a payload": (event(f'{{"testId":"t",{keys(10_000)}}}'), None),
    "unknown keys in an envelope": (event('{"testId":"t"}', "," + keys(10_000)), None),
    "unknown keys in a bad payload": (event(f'{{"testId":3,{keys(10_000)}}}'), "invalid_event"),
    "unknown keys in a bad envelope": (event('{"testId":"t"}', ',"seq":"x",' + keys(10_000)), "invalid_event"),
    "unknown keys in a shard": (event(f'{{"testId":3,"shard":{{{keys(10_000)}}}}}'), "invalid_event"),
    "unknown keys in a request": (f'{{"type":"getRunStatus","payload":{{"runId":"r",{keys(10_000)}}}}}', "unknown_run"),
    "unknown keys in a bad request": (f'{{"type":"getRunStatus","payload":{{{keys(10_000)}}}}}', "invalid_message"),
    "unknown keys in a message": (f'{{"type":"x",{keys(10_000)}}}', "unknown_type"),
    "a key of 1 MB": (event(f'{{"testId":3,"{"k" * 1_000_000}":1}}'), "invalid_event"),
    "a key of 1 MB that holds NUL": (event(f'{{"{"k" * 1_000_000}\\u0000":[]}}'), "invalid_event"),
    "a path of 1 MB": (event(f'{{"{"k" * 1_000_000}":{{"{"l" * 1_000_000}":"\\u0000"}}}}'), "invalid_event"),
    "a type of 1 MB": (f'{{"type":"{"getRun" * 200_000}"}}', "unknown_type"),
    "an array for a message": (f"[{MANY}]", "invalid_message"),
    "an array for a request": (f'{{"type":"getRuns","payload":[{MANY}]}}', "invalid_message"),
    "an array for an event": (f'{{"type":"event","payload":[{MANY}]}}', "invalid_event"),
    "an array for a payload": (event(f"[{MANY}]"), "invalid_event"),
    "an array for events": (f'{{"type":"events","payload":[{MANY}]}}', "invalid_message"),
    "an array of no events": (f'{{"type":"events","payload":{{"events":[{MANY}]}}}}', "too_large"),
    "an array of no errors": (event(f'{{"testId":"t","errors":[{MANY}]}}'), "invalid_event"),
    "an array of no tags": (event(f'{{"testId":"t","tags":[{MANY}]}}'), "invalid_event"),
    "an array of tags, but the last": (event('{"testId":"t","tags":[' + '"t",' * 100_000 + "7]}"), "invalid_event"),
    "an array of no types": (f'{{"type":"subscribe","payload":{{"types":[{MANY}]}}}}', "invalid_message"),
    "a great number after many": (event('{"testId":"t","a":[' + MANY + ",1e16]}"), "invalid_event"),
    "a great number in a request after many": (f'{{"type":"getRuns","payload":{{"a":[{MANY},1e16]}}}}', "invalid_json"),
    "escapes in a bad event": (event('{"testId":3,"text":"' + "\\u202e" * 100_000 + '"}'), "invalid_event"),
    "deep nesting in a string": (event('{"testId":"t","text":"' + '[{\\"a\\":' * 100_000 + '"}'), None),
    "digits in a string": (event('{"testId":"t","text":"' + "9" * 100_000 + 'e999"}'), None),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_answered_with_its_code_soon_and_the_connection_goes_on(name: str):
    message, code = ATTACKS[name]
    async with talking() as (_, connection):
        await answers_to(connection)
        began = time.process_time()
        found = await answers_to(connection, message)
        took = time.process_time() - began
        assert [answer["payload"]["code"] for answer in found] == ([] if code is None else [code])
        for answer in found:
            assert_is_a_good_error(answer)
        assert took < CPU_SECONDS


async def test_of_duplicate_keys_the_last_wins():
    async with talking() as (_, connection):
        (answer,) = await answers_to(
            connection, '{"type":"getRuns","type":"getRunStatus","payload":{"runId":"a","runId":"b"}}'
        )
        assert "`b`" in answer["payload"]["message"]


async def test_a_message_of_bad_events_only_leaves_others_their_turn():
    async with running(MEMORY) as server, trio.open_nursery() as nursery:
        flooder, other = FakeConnection(), FakeConnection()
        for connection in (flooder, other):
            nursery.start_soon(server.serve_connection, connection)
            await answers_to(connection)
        flooder.feed({"type": "events", "payload": {"events": [{"id": 7, "type": []}] * 2_000}})
        await trio.lowlevel.checkpoint()
        await answers_to(other)
        assert len(flooder.sent) < 2_000, "the other one did not wait for all of it"
        assert len(await answers_to(flooder)) == 2_000
        flooder.hang_up()
        other.hang_up()


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"testId": "t", "attempt": 2**40}, "payload.attempt"),
        ({"testId": "t", "attempt": 1001}, "payload.attempt"),
        ({"testId": "x" * 1025}, "payload.testId"),
    ],
)
async def test_what_a_store_could_not_count_is_refused_without_any_policy(payload: Any, path: str):
    async with talking(SANDBOX) as (_, connection):
        (answer,) = await answers_to(
            connection,
            {"type": "event", "payload": {"id": "a", "type": "test/end", "timestamp": 1, "payload": payload}},
        )
        assert (answer["payload"]["code"], answer["payload"]["details"][0]["path"]) == ("invalid_event", path)


async def test_plans_that_add_up_to_more_than_a_number_can_hold_are_refused_without_any_policy():
    async with talking(SANDBOX) as (_, connection):
        (answer,) = await answers_to(
            connection,
            {"type": "event", "payload": {"id": "a", "type": "run/plan", "timestamp": 1, "payload": {"total": 2**52}}},
        )
        assert answer["payload"]["details"][0]["path"] == "payload.total"


# A whole conversation.

PIECES = st.recursive(
    st.sampled_from(HOSTILE) | st.text(max_size=5) | st.integers() | st.floats(),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=3), one, max_size=3),
)
FIELDS = sorted(
    {name for schema in SCHEMAS.values() for name in schema.fields}
    | set(ENVELOPE)
    | {"testId", "attempt", "errors", "tags", "shard", "total", "ids"}
)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), PIECES, max_size=5)
EVENTS = st.builds(lambda inner, outer: {**ENVELOPE, "seq": None, "payload": inner, **outer}, OBJECTS, OBJECTS)
BAD_MESSAGES = (
    st.builds(lambda kind, payload, more: spelt({"type": kind, "payload": payload, **more}), st.sampled_from(sorted(KNOWN_TYPES - {"hello"})) | st.text(max_size=5),
              OBJECTS | PIECES | EVENTS, st.dictionaries(st.sampled_from(["id", "x", "type"]), PIECES, max_size=2))
    | st.builds(lambda events: spelt({"type": "events", "payload": {"events": events}}), st.lists(EVENTS | PIECES, max_size=5))
    | st.sampled_from([attack for attack, _ in ATTACKS.values()]) | st.binary(max_size=20) | st.text(max_size=20)
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.lists(BAD_MESSAGES, max_size=30), st.booleans())
def test_between_hostile_messages_every_good_one_is_answered(messages: list[Any], has_policy: bool):
    async def main() -> None:
        async with talking(MEMORY if has_policy else SANDBOX) as (server, connection):
            await answers_to(connection, {"type": "startTestRun", "payload": {"runId": "good", "project": "good"}})
            for number, message in enumerate(messages):
                good = {"id": f"good{number}", "type": "test/end", "timestamp": 1, "runId": "good", "project": "good",
                        "payload": {"testId": f"good{number}", "status": "passed"}}  # fmt: skip
                for answer in await answers_to(connection, message, {"type": "event", "payload": good}):
                    if answer["type"] == "error":
                        assert_is_a_good_error(answer)
                        assert answer["payload"].get("eventId") != f"good{number}"
                assert server.orchestrator.status("good", "good").counts["passed"] >= number + 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))
