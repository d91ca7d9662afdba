"""One test as a `<testcase>` element, and the names that place it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement

from testorch_core.results import Result
from testorch_core.runs import RunStatus
from testorch_core.text import clip
from testorch_plugins.reporters.junit.output import CapturedOutput
from testorch_plugins.reporters.junit.text import (
    MAX_MESSAGE_CHARACTERS,
    MAX_NAME_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    milliseconds_of,
    seconds,
    text_of,
    without_middle,
)  # fmt: skip
from testorch_plugins.reporters.junit.verdicts import FAILURE, SKIPPED, Finding, TestAttempts

MAX_PROPERTIES: Final = 200
MAX_TYPE_CHARACTERS: Final = 200


def run_name(status: RunStatus) -> str:
    """What to call the run: its name as given, else its id."""
    return clip(text_of(status.name) or text_of(status.run_id) or "run", MAX_NAME_CHARACTERS)


def _path(result: Result) -> list[str]:
    """The names of the suites around a test, the outermost first; whatever isn't a string is passed over."""
    path = result.details.get("suitePath")
    return [one for one in path if isinstance(one, str) and one] if isinstance(path, list) else []


def suite_of(result: Result, status: RunStatus) -> str:
    """The name of the suite that a test belongs to: its file as far as that is known, else the run."""
    file = result.text("filePath") or next(iter(_path(result)), None) or _file_in_id(result)
    return clip(text_of(file), MAX_NAME_CHARACTERS) or run_name(status)


def _file_in_id(result: Result) -> str | None:
    prefix, colons, _ = result.test_id.partition("::")
    return prefix if colons else None


def classname_of(result: Result, suite: str) -> str:
    """The dotted path of the file and of the suites within, as pytest's: `tests.test_x.TestClass`."""
    path = _path(result)
    file = result.text("filePath")
    if path and (path[0] == file or file is None or result.test_id.startswith(f"{path[0]}::")):
        # A test inherited from another file belongs to the class that pytest found it in, not to where its code stands.
        file, path = path[0], path[1:]
    module = re.sub(r"\.py$", "", (file or _file_in_id(result) or "").replace("\\", "/")).replace("/", ".")
    names = [text_of(one) for one in (module, *path) if one]
    return clip(".".join(names), MAX_NAME_CHARACTERS) or suite


def name_of(result: Result) -> str:
    """The test's name, with its parameters unless it has them already."""
    name = text_of(result.name) or text_of(result.test_id) or "test"  # a name may be nothing but escapes
    parameters = result.details.get("parameters")
    if isinstance(parameters, Mapping) and parameters and not name.endswith("]"):
        name += "[" + ", ".join(f"{text_of(key)}={text_of(value)}" for key, value in parameters.items()) + "]"
    return clip(name, MAX_NAME_CHARACTERS)


def duration_ms(test: TestAttempts) -> float:
    """What all attempts took together."""
    return sum(milliseconds_of(one.duration_ms) for one in test.all)


def case_of(
    test: TestAttempts, *, name: str, classname: str, output: CapturedOutput | None, is_run_over: bool
) -> Element:
    """The element of one test. `output` is shown for tests that are not ok."""
    last = test.last
    case = Element("testcase", {"name": name, "classname": classname, "time": seconds(duration_ms(test))})
    file, line = last.text("filePath"), last.details.get("line")
    if file:
        case.set("file", clip(text_of(file), MAX_NAME_CHARACTERS))
        if type(line) is int and 1 <= line < 2**31:
            case.set("line", str(line))
    _add_properties(case, last.details.get("properties"))
    _add_verdict(case, test, is_run_over=is_run_over)
    for tag, text in output.texts() if output is not None else ():
        SubElement(case, tag).text = text
    return case


def finding_case(finding: Finding, *, name: str, classname: str) -> Element:
    """The element of something that is no test: an error of the run itself."""
    case = Element("testcase", {"name": name, "classname": classname, "time": seconds(0)})
    _add_finding(case, finding)
    return case


def _add_properties(case: Element, given: Any) -> None:
    pairs = [one for one in given if isinstance(one, list) and len(one) == 2] if isinstance(given, list) else []
    if not pairs:
        return
    properties = SubElement(case, "properties")
    for key, value in pairs[:MAX_PROPERTIES]:
        name, text = (clip(text_of(one), MAX_NAME_CHARACTERS) for one in (key, value))
        SubElement(properties, "property", {"name": name, "value": text})


def _add_verdict(case: Element, test: TestAttempts, *, is_run_over: bool) -> None:
    shown = test.shown(is_run_over=is_run_over)
    for finding in TestAttempts([shown]).findings(is_run_over=is_run_over):
        _add_finding(case, finding)
    tag = "flakyFailure" if test.is_flaky else "rerunFailure"
    for attempt in (one for one in test.all if one.ok is False and one is not shown):
        _add_other_attempt(case, tag, attempt, is_run_over=is_run_over)


def _add_finding(case: Element, finding: Finding) -> None:
    message, kind, text = _told(finding)
    attributes = {"message": message} if message else {}
    if finding.tag == SKIPPED:
        kind = finding.type or ""
    if kind:
        attributes["type"] = kind
    child = SubElement(case, finding.tag, attributes)
    if finding.tag != SKIPPED:
        child.text = text


def _add_other_attempt(case: Element, tag: str, attempt: Result, *, is_run_over: bool) -> None:
    """An attempt that isn't the one told as the verdict, all its errors in one element."""
    first = TestAttempts([attempt]).findings(is_run_over=is_run_over)[0]
    message, kind, text = _told(Finding(first.tag, first.words, first.type, attempt.errors))
    child = SubElement(case, tag, {"message": message, "type": kind})
    SubElement(child, "stackTrace").text = text


def _told(finding: Finding) -> tuple[str, str, str]:
    """The message, the type and the text of a failure. The message is that of the first error, the text holds all."""
    errors = finding.errors
    first: Mapping[str, Any] = errors[0] if errors else {}
    message = _message(first) or text_of(finding.words)
    kind = finding.type or text_of(first.get("type")) or ("failed" if finding.tag == FAILURE else "error")
    text = "\n\n".join(filter(None, map(_text, errors))) or message
    return (
        clip(message, MAX_MESSAGE_CHARACTERS),
        clip(kind, MAX_TYPE_CHARACTERS),
        without_middle(text, MAX_TEXT_CHARACTERS),
    )


def _message(error: Mapping[str, Any]) -> str:
    message, phase = text_of(error.get("message")), error.get("phase")
    return f'failed on {phase} with "{message}"' if message and phase in ("setup", "teardown") else message


def _text(error: Mapping[str, Any]) -> str:
    stack, message = text_of(error.get("stack")), text_of(error.get("message"))
    if stack:
        # JavaScript's stacks begin with the message, pytest's quote it; some hold places only.
        return stack if message in stack else f"{message}\n{stack}"
    lines = [message]
    lines += [f"{key}: {text_of(error[key])}" for key in ("expected", "actual") if key in error]
    place, line = text_of(error.get("filePath")), text_of(error.get("line"))
    lines.append(f"{place}:{line}" if place and line else place)
    return "\n".join(filter(None, lines))
