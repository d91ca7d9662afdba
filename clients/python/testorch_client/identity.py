"""Who a test is: what every event about it says, made from pytest's node id and location. Pure."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from testorch_client.encoding import visible

MAX_ID_CHARACTERS = 1_024
_DIGEST_CHARACTERS = 16

Location = tuple[str, int | None, str]


def bounded(text: str) -> str:
    """The text as the server takes it: sendable, and of an id's length; what is cut off is told apart by a digest."""
    text = visible(text)  # first, since it can get longer by it
    if len(text) <= MAX_ID_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{text[: MAX_ID_CHARACTERS - _DIGEST_CHARACTERS - 1]}~{digest}"


def without_group(nodeid: str) -> str:
    """The node id without the `@group` that xdist's `--dist=loadgroup` appends: a test is the same with and without."""
    head, at, group = nodeid.rpartition("@")
    # An `@` inside of parameters is followed by their closing bracket, one of xdist's is not.
    return head if at and "]" not in group and "/" not in group and "::" not in group else nodeid


def identify(nodeid: str, location: Location | None) -> dict[str, Any]:
    """`testId`, `testName`, `fullName`, `suitePath`, and `filePath` and `line` (from 1) as far as they are known.

    `a/test_b.py::TestC::test_d[x]` has the name `test_d[x]`, the full name `TestC::test_d[x]` and the suites
    `a/test_b.py`, `TestC`. Everything from the first `[` on is parameters, whatever they contain.
    """
    path, _, tail = nodeid.partition("::")
    names, bracket, parameters = tail.partition("[")
    *classes, name = names.split("::")
    identity: dict[str, Any] = {
        "testId": bounded(nodeid),
        "testName": bounded(f"{name}{bracket}{parameters}" or path),
        "fullName": bounded(tail or path),
        "suitePath": [path, *classes],
    }
    if location is not None:
        file_path, line, _ = location
        identity["filePath"] = file_path.replace(os.sep, "/")
        if line is not None:
            identity["line"] = line + 1
    return identity
