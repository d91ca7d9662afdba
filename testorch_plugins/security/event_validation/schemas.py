"""What must be true inside an event, type by type. Unknown fields are taken along; nothing here changes an event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from marshmallow import INCLUDE, Schema, fields, validate

from testorch_core import events as ev
from testorch_core.acceptor import Flag, Real, Whole

MAX_NAME_CHARACTERS: Final = 4096
MAX_INLINE_BYTES: Final = 256 * 1024
"""The largest attachment inside an event; as base64 it is a third longer."""


class _Open(Schema):
    class Meta:
        unknown = INCLUDE


def _test_id(**settings: Any) -> fields.String:
    return fields.String(validate=validate.Length(1, ev.MAX_TEST_ID_CHARACTERS), **settings)


def _name() -> fields.String:
    return fields.String(validate=validate.Length(max=MAX_NAME_CHARACTERS), allow_none=True)


def _milliseconds() -> Real:
    return Real(validate=validate.Range(min=0), allow_none=True)


class _Shard(_Open):
    index = Whole(validate=validate.Range(min=0))
    total = Whole(validate=validate.Range(min=1))


class _Identified(_Open):
    """What tells a test apart from all others, and where it stands."""

    testId = _test_id(required=True)
    testName = _name()
    fullName = _name()
    suitePath = fields.List(fields.String(), allow_none=True)
    suiteId = _test_id(allow_none=True)
    parentId = _test_id(allow_none=True)
    attempt = Whole(validate=validate.Range(1, 1000))
    maxAttempts = Whole(validate=validate.Range(min=1), allow_none=True)
    willRetry = Flag(allow_none=True)
    workerId = _name()
    shard = fields.Nested(_Shard, allow_none=True)
    filePath = _name()
    line = Whole(validate=validate.Range(min=0), allow_none=True)
    column = Whole(validate=validate.Range(min=0), allow_none=True)
    tags = fields.List(fields.String(), allow_none=True)
    labels = fields.Dict(allow_none=True)
    parameters = fields.Dict(allow_none=True)
    properties = fields.List(fields.Raw(allow_none=True), allow_none=True)
    extra = fields.Dict(allow_none=True)


class TestStart(_Identified):
    """An attempt begins."""

    __test__ = False


class TestEnd(_Identified):
    """An attempt is over. A status that we do not know is stored as `unknown`, so any word will do here."""

    __test__ = False
    status = fields.String(validate=validate.Length(max=100), allow_none=True)
    rawStatus = fields.String(validate=validate.Length(max=MAX_NAME_CHARACTERS), allow_none=True)
    expectedStatus = fields.String(validate=validate.Length(max=100), allow_none=True)
    ok = Flag(allow_none=True)
    reason = fields.String(allow_none=True)
    errors = fields.List(fields.Dict(), allow_none=True)
    startedAt = _milliseconds()
    endedAt = _milliseconds()
    durationMs = _milliseconds()


class Suite(_Open):
    """A suite begins or ends."""

    suiteId = _test_id(required=True)
    suiteName = _name()
    parentId = _test_id(allow_none=True)
    filePath = _name()


class Step(_Open):
    """A step of a test begins or ends."""

    testId = _test_id(required=True)
    stepId = _name()
    parentStepId = _name()
    title = _name()
    category = _name()


class Output(_Open):
    """A chunk of what a test, or the run, has written."""

    testId = _test_id(allow_none=True)
    attempt = Whole(validate=validate.Range(1, 1000))
    stream = fields.String(validate=validate.OneOf(["stdout", "stderr", "log"]), allow_none=True)
    text = fields.String(required=True)
    truncated = Flag(allow_none=True)


class Attachment(_Open):
    """A file that belongs to a test."""

    testId = _test_id(allow_none=True)
    attachmentId = _name()
    name = _name()
    contentType = _name()
    url = fields.String(validate=validate.Length(max=MAX_NAME_CHARACTERS), allow_none=True)
    sha256 = fields.String(validate=validate.Length(equal=64), allow_none=True)
    body = fields.String(validate=validate.Length(max=MAX_INLINE_BYTES * 4 // 3 + 4), allow_none=True)
    sizeBytes = Whole(validate=validate.Range(min=0), allow_none=True)


class Plan(_Open):
    """What the client intends to run."""

    total = Whole(validate=validate.Range(0, 100_000_000), allow_none=True)
    ids = fields.List(fields.String(), allow_none=True)


class RunError(_Open):
    """An error outside any test."""

    message = fields.String(allow_none=True)
    errors = fields.List(fields.Dict(), allow_none=True)


SCHEMAS: Final[Mapping[str, type[Schema]]] = {
    ev.TEST_START: TestStart,
    ev.TEST_END: TestEnd,
    ev.SUITE_START: Suite,
    ev.SUITE_END: Suite,
    ev.STEP_START: Step,
    ev.STEP_END: Step,
    ev.TEST_OUTPUT: Output,
    ev.TEST_ATTACHMENT: Attachment,
    ev.RUN_PLAN: Plan,
    ev.RUN_ERROR: RunError,
}
"""The schema of the inner payload, by event type. Types that are not here have none."""
