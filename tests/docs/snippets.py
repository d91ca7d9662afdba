"""The fenced snippets of a Markdown page, and what the comment above each says is done with it. Pure.

A marker is an HTML comment on the line directly above the fence. Its parts are separated by commas:

    <!-- run: server -->                 python, console: run with a `testorch serve` of the test's behind it
    <!-- run: script -->                 python: run as it is
    <!-- run: console -->                console: run the `$ ` lines in order, compare what is shown below each
    <!-- run: background -->             console: start the one command, compare its first lines, leave it running
    <!-- run: browser -->                js: run with a global `WebSocket`
    <!-- run: message -->                json: send it to a server, which must not answer with an `error`
    <!-- run: configuration -->          toml: parse and construct, as `testorch check` does
    <!-- run: partial configuration -->  toml: the same, with a memory store where it names no store
    <!-- file: NAME -->                  save it under this name in the page's folder; may stand with a `run`
    <!-- output -->                      text: what the snippet before it has printed
    <!-- not run: REASON -->             nothing is done with it, and why

and beside a `run`: `exit N` (the last command's exit code), `within N seconds` (run until the output is as shown),
`with NAME=VALUE` (in the environment).

The snippets of a page are run from its top to its bottom in one empty folder. In what is shown, `…` stands for anything
(on a line of its own: for any number of lines); ids, times, durations, versions and ports may differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

RUNS = {
    "server": ("python", "console"),
    "script": ("python",),
    "console": ("console",),
    "background": ("console",),
    "browser": ("js",),
    "message": ("json",),
    "configuration": ("toml",),
    "partial configuration": ("toml",),
}
"""What may stand after `run:`, and the languages that it is for."""

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|:{3,})(?P<language>[^\s`]*)")
_MARKER = re.compile(r"^\s*<!-- (.*) -->\s*$")


@dataclass(frozen=True)
class Marker:
    """What is done with a snippet."""

    run: str | None = None
    file: str | None = None
    is_output: bool = False
    reason: str | None = None
    exit_code: int = 0
    within_seconds: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def says_something(self) -> bool:
        return bool(self.run or self.file or self.is_output or self.reason)


@dataclass(frozen=True)
class Snippet:
    """A fenced block: where it stands, its language, its text, and its marker if it has one."""

    place: str
    language: str
    text: str
    marker: Marker | None


def pages() -> list[Path]:
    """Every page whose snippets are held to what they say."""
    built = DOCS / "_build"
    return [ROOT / "README.md", *sorted(one for one in DOCS.rglob("*.md") if built not in one.parents)]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def snippets_of(text: str, page: str) -> list[Snippet]:
    """The fenced blocks of a page, without those that are directives. Raises ValueError for a marker that isn't one."""
    return list(_snippets(text.splitlines(), page))


def _snippets(lines: Sequence[str], page: str) -> Iterator[Snippet]:
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        if opening is None:
            at += 1
            continue
        closing = re.compile(rf"^ *{opening['ticks']}\s*$")
        end = next((index for index in range(at + 1, len(lines)) if closing.match(lines[index])), len(lines))
        if not opening["language"].startswith("{"):
            indent = len(opening["indent"])
            text = "".join(f"{line[indent:]}\n" for line in lines[at + 1 : end])
            place = f"{page}:{at + 1}"
            above = _MARKER.match(lines[at - 1]) if at else None
            marker = parse_marker(above[1], place) if above else None
            yield Snippet(place, opening["language"], text, marker)
        at = end + 1


def parse_marker(words: str, place: str) -> Marker:
    """The marker in a comment. Raises ValueError with the place."""
    reason = re.fullmatch(r"not run: (.+)", words)
    if reason:
        return Marker(reason=reason[1])
    facts: dict[str, object] = {}
    for part in words.split(", "):
        facts |= _fact(part, place)
    return Marker(**facts)  # type: ignore[arg-type]  # each has the type of its field


def _fact(part: str, place: str) -> dict[str, object]:
    if part == "output":
        return {"is_output": True}
    if part.startswith("run: ") and part[5:] in RUNS:
        return {"run": part[5:]}
    if part.startswith("file: "):
        return {"file": part[6:]}
    if found := re.fullmatch(r"exit (\d+)", part):
        return {"exit_code": int(found[1])}
    if found := re.fullmatch(r"within (\d+) seconds", part):
        return {"within_seconds": float(found[1])}
    if found := re.fullmatch(r"with (\w+)=(\S+)", part):
        return {"environment": {found[1]: found[2]}}
    raise ValueError(f"{place}: `{part}` is not a marker; see tests/docs/snippets.py")


def problem_with(snippet: Snippet) -> str | None:
    """Why nobody can say what is done with a snippet, or None."""
    marker = snippet.marker
    if marker is None or not marker.says_something:
        return f"{snippet.place}: say above this `{snippet.language}` snippet how it is run, or why not"
    if marker.run is not None and snippet.language not in RUNS[marker.run]:
        return f"{snippet.place}: `run: {marker.run}` is not for `{snippet.language}`"
    return None


def commands_of(text: str) -> list[tuple[str, str]]:
    """(command, the output shown below it) of a console snippet. Raises ValueError where output comes first."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif not found:
            raise ValueError(f"a console snippet begins with `$ `, not with `{line}`")
        else:
            command, shown = found[-1]
            found[-1] = (command, f"{shown}{line}\n")
    return found


_VARYING = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\b(?:[0-9a-f]{32}|[0-9a-f]{24}|[0-9a-f]{12}|[0-9a-f]{8}(?=…))\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"\b\d+\.\d+s\b"), "<duration>"),
    (re.compile(r"(?<=127\.0\.0\.1:)\d+"), "<port>"),
    (re.compile(r"\b\d+\.\d+(?:\.\d+)*\b(?!:<port>)"), "<version>"),
    (re.compile(r"={3,}"), "==="),
    (re.compile(r"[ \t]+"), " "),
)


def normalised(text: str) -> str:
    """Output with what differs from run to run replaced, and without blanks at the ends of lines."""
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())


def is_as_shown(actual: str, shown: str) -> bool:
    """Whether output is what a page shows."""
    pattern = ""
    for line in normalised(shown).splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(re.escape(part) for part in line.split("…")) + r"\n"
    return re.fullmatch(pattern, normalised(actual)) is not None
