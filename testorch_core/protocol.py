"""The wire protocol, version 1: message schemas, error codes, close codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from marshmallow import INCLUDE, Schema, fields, validate

from testorch_core.acceptor import Flag, Whole, compile_acceptor
from testorch_core.errors import Problem, refuse
from testorch_core.events import MAX_TEST_ID_CHARACTERS
from testorch_core.narrowing import narrowed
from testorch_core.options import sentence_of

SUBPROTOCOL: Final = "testorch.v1.json"
MAX_INTEGER: Final = 2**53 - 1
MAX_ID_CHARACTERS: Final = 200
MAX_CURSOR_CHARACTERS: Final = 8_000
MAX_PAGE: Final = 1_000
"""Rows in a page of an answer, at the most."""

DEFAULT_PAGE: Final = 100
MAX_EVENTS: Final = 10_000
"""Events in one message. Each bad one costs an answer of its own."""

ERROR_CODES: Final[Mapping[str, str]] = {
    "invalid_json": "the message is not JSON, or holds what no store could keep",
    "invalid_message": "the message is not one of the protocol's: a field is missing or of the wrong type",
    "unknown_type": "no message has this type",
    "invalid_event": "the event's envelope or its contents break a rule",
    "unknown_run": "no run has this id in this project",
    "run_finished": "the run has ended and can't be joined",
    "unauthenticated": "the server wants to know who you are",
    "forbidden": "you may not do this",
    "rate_limited": "too much in too short a time; send again after `retryAfterMs`",
    "too_large": "the message has more bytes than the server takes, or the run more tests",
    "sequence_gap": "events of the stream are missing before this one; send again from `seq`",
    "stream_conflict": "the stream is known already, belongs to another run, or was resumed on another connection",
    "conflict": "another event with this id and other content is stored already; the first was kept",
    "overloaded": "the server can't take more now; send again after `retryAfterMs`",
    "storage_failed": "the store can't keep its promise now; nothing was stored, send again after `retryAfterMs`",
    "internal": "a defect of the server; its log says more",
}
"""The codes of `error` messages, with what each means."""

CLOSE_DONE: Final = 1000
CLOSE_RESTARTING: Final = 1012
CLOSE_INTERNAL: Final = 1011
CLOSE_SILENT: Final = 1001
CLOSE_UNAUTHENTICATED: Final = 4401
CLOSE_FORBIDDEN: Final = 4403
CLOSE_SUBPROTOCOL: Final = 4406
CLOSE_TOO_SLOW: Final = 4408
CLOSE_STREAM_TAKEN: Final = 4409
CLOSE_TOO_MANY: Final = 4429

STORAGE_RETRY_MS: Final = 1000


def _identifier(**settings: Any) -> fields.String:
    return fields.String(validate=validate.Length(1, MAX_ID_CHARACTERS), **settings)


def _cursor() -> fields.String:
    return fields.String(validate=validate.Length(1, MAX_CURSOR_CHARACTERS), allow_none=True)


class _Open(Schema):
    """Unknown fields are taken along: a newer client must be able to talk to an older server."""

    class Meta:
        unknown = INCLUDE


class EventEnvelope(_Open):
    """The outside of every event."""

    id = _identifier(required=True)
    type = _identifier(required=True)
    timestamp = Whole(required=True, validate=validate.Range(-MAX_INTEGER, MAX_INTEGER))
    payload = fields.Dict(required=True)
    runId = _identifier(allow_none=True)
    project = _identifier(allow_none=True)
    seq = Whole(validate=validate.Range(1, MAX_INTEGER), allow_none=True)


class Events(_Open):
    """Several events in one message; each is taken or refused by itself."""

    events = fields.List(fields.Raw(allow_none=True), required=True)


class Hello(_Open):
    """Says who is there; with a `streamId`, begins a stream or resumes it. At most once, before anything else."""

    streamId = _identifier(allow_none=True)
    runId = _identifier(allow_none=True)
    project = _identifier(allow_none=True)
    resume = Flag(allow_none=True)
    client = fields.Dict(allow_none=True)
    token = fields.String(allow_none=True)


class StreamEnd(_Open):
    """Ends a stream, and its part in the run: how many events it had, and the digest over them, in hexadecimal."""

    lastSeq = Whole(required=True, validate=validate.Range(0, MAX_INTEGER))
    digest = fields.String(validate=validate.Length(64, 64), allow_none=True)


class Heartbeat(_Open):
    """Says that the client is still there. Not answered."""


class StartTestRun(_Open):
    """Opens a run, or joins the one that runs under `runId` or `key`."""

    runId = _identifier(allow_none=True)
    name = fields.String(validate=validate.Length(0, 1000), allow_none=True)
    project = _identifier(allow_none=True)
    key = _identifier(allow_none=True)
    expect = Whole(validate=validate.Range(1, 10_000), allow_none=True)
    metadata = fields.Dict(allow_none=True)


class EndTestRun(_Open):
    """Ends the caller's part in a run; with `force`, the run."""

    runId = _identifier(allow_none=True)
    project = _identifier(allow_none=True)
    force = Flag(allow_none=True)


class CancelTestRun(_Open):
    """Ends a run at once, as interrupted."""

    runId = _identifier(required=True)
    project = _identifier(allow_none=True)
    reason = fields.String(validate=validate.Length(0, 1000), allow_none=True)


class GetActiveRuns(_Open):
    """Asks for the runs that have not ended, of one project or of all that the caller may see."""

    project = _identifier(allow_none=True)


class GetRunStatus(_Open):
    """Asks for one run."""

    runId = _identifier(required=True)
    project = _identifier(allow_none=True)


class GetRuns(_Open):
    """Asks for runs, the newest first: of one project, with a status, with a key, or whose ids begin so."""

    project = _identifier(allow_none=True)
    status = _identifier(allow_none=True)
    key = _identifier(allow_none=True)
    prefix = _identifier(allow_none=True)
    limit = Whole(validate=validate.Range(1, MAX_PAGE), allow_none=True)
    cursor = _cursor()


class GetResults(_Open):
    """Asks for the results of a run, in the order of their test ids: all attempts, or with `finalOnly` the last ones."""

    runId = _identifier(allow_none=True)
    project = _identifier(allow_none=True)
    status = _identifier(allow_none=True)
    outcome = _identifier(allow_none=True)
    finalOnly = Flag(allow_none=True)
    limit = Whole(validate=validate.Range(1, MAX_PAGE), allow_none=True)
    cursor = _cursor()


class GetHistory(_Open):
    """Asks for what became of one test in the runs of a project, the newest first."""

    testId = fields.String(required=True, validate=validate.Length(1, MAX_TEST_ID_CHARACTERS))
    project = _identifier(allow_none=True)
    limit = Whole(validate=validate.Range(1, MAX_PAGE), allow_none=True)
    cursor = _cursor()


class Subscribe(_Open):
    """Asks for the events of a run or of a project as they are committed: those after `after`, then those to come."""

    runId = _identifier(allow_none=True)
    project = _identifier(allow_none=True)
    after = Whole(validate=validate.Range(0, MAX_INTEGER), allow_none=True)
    epoch = _identifier(allow_none=True)
    types = fields.List(_identifier(), validate=validate.Length(1, 50), allow_none=True)


class Unsubscribe(_Open):
    """Ends a subscription."""

    subscriptionId = _identifier(required=True)


class GetStatistics(_Open):
    """Asks for statistics over the last `window` runs."""

    project = _identifier(allow_none=True)
    window = Whole(validate=validate.Range(1, 1000), allow_none=True)


class GetTicket(_Open):
    """Asks for a one-time ticket with which a browser can connect as who asks, within half a minute."""


SCHEMAS: Final[Mapping[str, Schema]] = {
    "hello": Hello(),
    "events": Events(),
    "heartbeat": Heartbeat(),
    "streamEnd": StreamEnd(),
    "startTestRun": StartTestRun(),
    "endTestRun": EndTestRun(),
    "cancelTestRun": CancelTestRun(),
    "getActiveRuns": GetActiveRuns(),
    "getRunStatus": GetRunStatus(),
    "getRuns": GetRuns(),
    "getResults": GetResults(),
    "getHistory": GetHistory(),
    "getStatistics": GetStatistics(),
    "subscribe": Subscribe(),
    "unsubscribe": Unsubscribe(),
    "getTicket": GetTicket(),
}
"""The payload of every message but `event`, whose payload is an `EventEnvelope`."""

ENVELOPE: Final = EventEnvelope()
envelope_is_fine: Final = compile_acceptor(ENVELOPE)
"""True only for envelopes that `envelope_problems` has nothing against."""


def check_payload(kind: str, payload: Any) -> Mapping[str, Any]:
    """A message's payload, checked; fields that are null count as absent. Raises `RefusedError` (`invalid_message`)."""
    problems = problems_of(SCHEMAS[kind], {} if payload is None else payload, "payload")
    if problems:
        raise refuse("invalid_message", f"`{kind}`: {problems[0]}", details=tuple(problems))
    return {key: value for key, value in (payload or {}).items() if value is not None}


def envelope_problems(event: Any) -> list[Problem]:
    """What is wrong with an event's envelope; empty for a good one."""
    return [] if envelope_is_fine(event) else problems_of(ENVELOPE, event, "")


def problems_of(schema: Schema, value: Any, place: str) -> list[Problem]:
    """What a schema has against a value, each with its path below `place`. Never raises.

    Validators meet hostile values, and marshmallow's own are known to raise on some (`Range` on NaN, deep nesting), so
    whatever comes out of it is an answer about the value, never an error of the connection.
    """
    try:
        rest = narrowed(schema, value, place)
        messages: Mapping[Any, Any] = schema.validate(rest.value, partial=rest.checked or None)
        return sorted([*rest.problems, *_flatten(messages, place)])
    except Exception as failure:  # see above: one guard around all validation
        return [Problem(place, f"can't be checked: {type(failure).__name__}")]


def _flatten(messages: Mapping[Any, Any], place: str) -> list[Problem]:
    found: list[Problem] = []
    for key, value in messages.items():
        path = place if key == "_schema" else f"{place}.{key}" if place else str(key)
        if isinstance(value, Mapping):
            found += _flatten(value, path)
        else:
            found += [Problem(path, sentence_of(str(text))) for text in value]
    return found
