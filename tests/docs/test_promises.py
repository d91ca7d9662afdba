"""What testorch promises: each promise has a page that says it word for word, and tests that hold it and name it."""

import ast
import re
from pathlib import Path

import pytest
from snippets import DOCS, ROOT

PROMISES = {
    "P1": "Acknowledged is durable. SQLite: WAL and `synchronous=FULL`. PostgreSQL: `synchronous_commit` on or stronger, "
    "checked at start. A relaxed mode may exist; it is named as such in the config and in `welcome`.",
    "P2": "Exactly-once effect. Identity is (stream, seq) in streams and (run, id) for plain events: sent again, "
    "acknowledged again, stored once; a plain id with other content is a `conflict`, the first kept. Should two streams "
    "carry the same event, the log may hold both and the fold makes them one.",
    "P3": "Order. The events of one stream are stored in the order sent; gaps are reported, never invented away.",
    "P4": "Visibility. A reader with a cursor sees every event, in order, and never skips one; live and history join "
    "without a hole.",
    "P5": "Isolation. One bad client, event, plugin or reporter changes nothing for another but a bounded delay.",
    "P6": "Honest failure. Where P1 can't be kept (disk full, read-only, database gone) the server refuses with "
    "`storage_failed` and a time to retry, goes on reading where it can, and recovers by itself.",
    "P7": "Bounded. Memory per connection, queue, log, file and run is bounded by configuration.",
    "P8": "Restart. After any crash it starts by itself, or refuses with one clear line. Never half.",
}
"""The design's words."""

FOLDER = DOCS / "explanation" / "promises"
SECTIONS = ("What it means for you", "How it is kept", "Where its limits are", "Which tests hold it")


def page_of(promise: str) -> Path:
    (page,) = FOLDER.glob(f"{promise.lower()}-*.md")
    return page


def promise_on(text: str) -> str:
    """The first quotation of a page, in one line and without its emphasis."""
    quoted = re.search(r"(?:^> .*\n)+", text, re.MULTILINE)
    return " ".join(line.removeprefix("> ").replace("**", "") for line in quoted[0].splitlines()) if quoted else ""


def named_on(text: str) -> dict[str, list[str]]:
    """The tests that a page names in its last section, by module."""
    _, _, section = text.partition(f"## {SECTIONS[-1]}\n")
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        if module := re.fullmatch(r"- `(\S+\.py)`", line):
            found[module[1]] = []
        elif test := re.fullmatch(r"  - `(test_\w+)`", line):
            found[list(found)[-1]].append(test[1])
    return found


def problems_with(promise: str, tests: dict[str, list[str]], root: Path = ROOT) -> list[str]:
    """What is wrong with the tests that a page names: they are not there, or don't name the promise."""
    problems = []
    for module, names in tests.items():
        if not (root / module).is_file():
            problems.append(f"{module} is not there")
            continue
        tree = ast.parse((root / module).read_text("utf-8"))
        above = ast.get_docstring(tree) or ""
        defined = {one.name: one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
        for name in names:
            if name not in defined:
                problems.append(f"{module} has no {name}")
            elif not re.search(rf"\b{promise}\b", f"{above} {ast.get_docstring(defined[name]) or ''}"):
                problems.append(f"{name} of {module} does not name {promise}")
        if not names:
            problems.append(f"no test of {module} is named")
    return problems


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_has_a_page_with_its_words_and_tests_that_name_it(promise: str):
    text = page_of(promise).read_text("utf-8")
    assert promise_on(text) == f"{promise} {PROMISES[promise]}"
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(SECTIONS)
    tests = named_on(text)
    assert tests
    assert problems_with(promise, tests) == []


def test_the_index_names_them_all_and_nothing_else_is_there():
    index = (FOLDER / "index.md").read_text("utf-8")
    pages = {page_of(promise).name for promise in PROMISES}
    assert {one.name for one in FOLDER.iterdir()} == {"index.md", *pages}
    assert set(re.findall(r"\]\((p\d-[\w-]+\.md)\)", index)) == pages


def test_a_page_that_names_what_is_not_there_is_caught(tmp_path: Path):
    (tmp_path / "test_x.py").write_text(
        'def test_a():\n    """P1: yes."""\n\ndef test_b():\n    """P10: no."""\n', "utf-8"
    )
    text = "## Which tests hold it\n\n- `test_x.py`\n  - `test_a`\n  - `test_b`\n  - `test_c`\n- `test_y.py`\n  - `test_a`\n"
    assert problems_with("P1", named_on(text), tmp_path) == [
        "test_b of test_x.py does not name P1",
        "test_x.py has no test_c",
        "test_y.py is not there",
    ]
