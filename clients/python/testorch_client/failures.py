"""Turns what pytest says about failures (`longrepr`) into entries of an event's `errors`. Pure."""

from __future__ import annotations

import os
import re
from typing import Any

from testorch_client.encoding import text_of, visible
from testorch_client.outcomes import CRASHED, FAILED, Phases

MAX_MESSAGE_CHARACTERS = 8 * 1024
MAX_STACK_CHARACTERS = 64 * 1024
# Of one attempt: a loop over ten thousand failing subtests shouldn't make one event of a gigabyte.
MAX_ERRORS = 50

_EXCEPTION_NAME = re.compile(r"([A-Za-z_][\w.]*)(?::|$)")


def errors_of(phases: Phases, root: str) -> list[dict[str, Any]]:
    """An entry for each failed phase and failed subtest, at most 50. `root` is pytest's root directory."""
    errors = [
        {**_describe(report, root), "phase": report.when}
        for report in phases.whole
        if report.outcome in FAILED and report.when != CRASHED and not _only_counts_subtests(report, phases)
    ]
    failed = [report for report in phases.subtests if report.outcome in FAILED]
    errors += [_describe_subtest(report, root) for report in failed[:MAX_ERRORS]]
    if phases.crash is not None:
        errors.append(_describe(phases.crash, root))
    return errors[:MAX_ERRORS]


def _only_counts_subtests(report: Any, phases: Phases) -> bool:
    """Is the call's failure pytest's "contains N failed subtests", which the subtests' own entries say better?"""
    longrepr = report.longrepr
    return bool(phases.subtests) and isinstance(longrepr, str) and longrepr.startswith("contains ")


def _describe_subtest(report: Any, root: str) -> dict[str, Any]:
    context = report.context
    parameters = ", ".join(f"{text_of(key)}={text_of(value)}" for key, value in dict(context.kwargs).items())
    words = [f"[{text_of(context.msg)}]"] if context.msg is not None else []
    words += [f"({parameters})"] if parameters else []
    described = _describe(report, root)
    described["message"] = _shortened(f"{' '.join(words) or '(<subtest>)'} {described['message']}")
    return {**described, "phase": "call"}


def _describe(report: Any, root: str) -> dict[str, Any]:
    return describe(report.longrepr, root)


def describe(longrepr: Any, root: str) -> dict[str, Any]:
    """One entry: `message`, and `type`, `stack`, `filePath` and `line` as far as they can be told.

    `longrepr` is a representation with a `reprcrash` (an exception), any other representation (a missing fixture, a
    collection error), a string (a failure without a traceback), or whatever another plugin has put there.
    """
    stack = text_of("" if longrepr is None else longrepr)
    crash = getattr(longrepr, "reprcrash", None)
    if crash is None:
        message = getattr(longrepr, "errorstring", None) or _last_error_line(stack)
        described: dict[str, Any] = {"message": _shortened(text_of(message))}
        name = _EXCEPTION_NAME.match(described["message"])
        if name is not None and name[1].endswith(("Error", "Exception")):
            described["type"] = name[1]
    else:
        described = {"type": _type_name(longrepr, crash), "message": _shortened(text_of(crash.message))}
        described["filePath"] = _relative(text_of(crash.path), root)
        if isinstance(crash.lineno, int):
            described["line"] = crash.lineno
    if stack and stack != described["message"]:
        described["stack"] = _shortened_stack(stack)
    return described


def _last_error_line(stack: str) -> str:
    """The line of a plain text that says the most: pytest marks it with `E`; else it is the last one."""
    lines = [line for line in stack.splitlines() if line.strip()]
    marked = [line[1:].strip() for line in lines if line.startswith("E ")]
    if marked:
        return marked[-1]
    return lines[-1].strip() if lines else ""


def _type_name(longrepr: Any, crash: Any) -> str:
    """The exception's name: beside the last place of the traceback, or else at the message's beginning."""
    entries = getattr(getattr(longrepr, "reprtraceback", None), "reprentries", None) or ()
    place = getattr(entries[-1], "reprfileloc", None) if entries else None
    name = getattr(place, "message", None)
    if isinstance(name, str) and name.isidentifier():
        return name
    found = _EXCEPTION_NAME.match(str(crash.message))
    return found[1] if found else "AssertionError"


def _relative(path: str, root: str) -> str:
    """The path from the root directory where it is below it, with `/`; else as it is."""
    prefix = root.rstrip(os.sep) + os.sep
    return path.removeprefix(prefix).replace(os.sep, "/")


def _shortened(text: str) -> str:
    text = visible(text)
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else text[: MAX_MESSAGE_CHARACTERS - 1] + "…"


def _shortened_stack(text: str) -> str:
    # Its end holds the place and the error, its beginning how the test came there: half of each.
    if len(text) <= MAX_STACK_CHARACTERS:
        return text
    half = (MAX_STACK_CHARACTERS - 100) // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
