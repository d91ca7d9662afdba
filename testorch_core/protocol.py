"""The wire protocol, version 1: message schemas, error codes, close codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from marshmallow import INCLUDE, Schema, ValidationError, fields, validate

from testorch_core.acceptor import Flag, Whole, compile_acceptor
from testorch_core.errors import Problem, refuse
from testorch_core.options import messages_of, sentence_of

SUBPROTOCOL: Final = "testorch.v1.json"
MAX_INTEGER: Final = 2**53 - 1
MAX_ID_CHARACTERS: Final = 200

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
    "too_large": "the message has more bytes than the server takes",
    "conflict": "another event with this id and other content is stored already; the first was kept",
    "overloaded": "the server can't take more now; send again after `retryAfterMs`",
    "storage_failed": "the store can't keep its promise now; nothing was stored, send again after `retryAfterMs`",
    "internal": "a defect of the server; its log says more",
}
"""The codes of `error` messages, with what each means."""

CLOSE_DONE: Final = 1000
CLOSE_RESTARTING: Final = 1012
CLOSE_INTERNAL: Final = 1011
CLOSE_UNAUTHENTICATED: Final = 4401

STORAGE_RETRY_MS: Final = 1000


def _identifier(**settings: Any) -> fields.String:
    return fields.String(validate=validate.Length(1, MAX_ID_CHARACTERS), **settings)


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


class StartTestRun(_Open):
    """Opens a run, or joins the one that runs under `runId` or `key`."""

    runId = _identifier(allow_none=True)
    name = fields.String(validate=validate.Length(0, 1000), allow_none=True)
    project = _identifier(allow_none=True)
    key = _identifier(allow_none=True)
    expect = Whole(validate=validate.Range(1, 10_000), allow_none=True)
    participant = _identifier(allow_none=True)
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


class GetStatistics(_Open):
    """Asks for statistics over the last `window` runs."""

    project = _identifier(allow_none=True)
    window = Whole(validate=validate.Range(1, 1000), allow_none=True)


SCHEMAS: Final[Mapping[str, Schema]] = {
    "events": Events(),
    "startTestRun": StartTestRun(),
    "endTestRun": EndTestRun(),
    "cancelTestRun": CancelTestRun(),
    "getActiveRuns": GetActiveRuns(),
    "getRunStatus": GetRunStatus(),
    "getStatistics": GetStatistics(),
}
"""The payload of every message but `event`, whose payload is an `EventEnvelope`."""

ENVELOPE: Final = EventEnvelope()
_envelope_is_fine = compile_acceptor(ENVELOPE)


def check_payload(kind: str, payload: Any) -> Mapping[str, Any]:
    """A message's payload, checked; fields that are null count as absent. Raises `RefusedError` (`invalid_message`)."""
    problems = problems_of(SCHEMAS[kind], {} if payload is None else payload, "payload")
    if problems:
        raise refuse("invalid_message", f"`{kind}`: {problems[0]}", details=tuple(problems))
    return {key: value for key, value in (payload or {}).items() if value is not None}


def envelope_problems(event: Any) -> list[Problem]:
    """What is wrong with an event's envelope; empty for a good one."""
    return [] if _envelope_is_fine(event) else problems_of(ENVELOPE, event, "")


def problems_of(schema: Schema, value: Any, place: str) -> list[Problem]:
    """What a schema has against a value, each with its path below `place`. Never raises.

    Validators meet hostile values, and marshmallow's own are known to raise on some (`Range` on NaN, deep nesting), so
    whatever comes out of it is an answer about the value, never an error of the connection.
    """
    try:
        messages: Mapping[Any, Any] = schema.validate(value)
    except ValidationError as failure:
        messages = messages_of(failure)
    except Exception as failure:  # see above: one guard around all validation
        return [Problem(place, f"can't be checked: {type(failure).__name__}")]
    return sorted(_flatten(messages, place))


def _flatten(messages: Mapping[Any, Any], place: str) -> list[Problem]:
    found: list[Problem] = []
    for key, value in messages.items():
        path = place if key == "_schema" else f"{place}.{key}" if place else str(key)
        if isinstance(value, Mapping):
            found += _flatten(value, path)
        else:
            found += [Problem(path, sentence_of(str(text))) for text in value]
    return found
