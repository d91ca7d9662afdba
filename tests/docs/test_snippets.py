"""Every snippet of the documentation and of the README is run and does what it says, or says why it isn't run."""

from pathlib import Path

import pytest
from snippets import commands_of, is_as_shown, name_of, pages, parse_marker, problem_with, snippets_of
from stage import Stage

QUICK = {None, "configuration", "partial configuration"}
"""What needs no process of its own."""


def play(text: str, page: str, folder: Path) -> None:
    """Run a page's snippets in a folder; raises for the first that isn't as it says."""
    with Stage(folder) as stage:
        for snippet in snippets_of(text, page):
            stage.play(snippet)


def _playable() -> list[object]:
    found: list[object] = []
    for page in pages():
        try:
            markers = [one.marker for one in snippets_of(page.read_text("utf-8"), name_of(page)) if one.marker]
        except ValueError:
            markers = []  # the test that looks for unmarked snippets says what is wrong with it
        if any(one.run or one.file for one in markers):
            quick = all(one.run in QUICK for one in markers)
            slow = [] if quick else [pytest.mark.slow(reason="starts a server and what talks to it, as the page does")]
            found.append(pytest.param(page, id=name_of(page), marks=slow))
    return found


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_snippet_says_how_it_is_run_or_why_it_is_not(page: Path):
    problems = [problem_with(one) for one in snippets_of(page.read_text("utf-8"), name_of(page))]
    assert [one for one in problems if one is not None] == []


@pytest.mark.parametrize("page", _playable())
def test_the_snippets_of_a_page_do_what_it_says(page: Path, tmp_path: Path):
    folder = tmp_path / "page"
    folder.mkdir()
    play(page.read_text("utf-8"), name_of(page), folder)


PAGE = """
```console
$ rm -rf /
```

<!-- run: script -->
```console
$ true
```

<!-- not run: an example -->
```python
1 / 0
```

```{note}
a directive is no snippet
```
"""


def test_a_snippet_without_a_marker_or_with_the_wrong_one_is_found():
    found = snippets_of(PAGE, "p.md")
    assert [problem_with(one) for one in found] == [
        "p.md:2: say above this `console` snippet how it is run, or why not",
        "p.md:7: `run: script` is not for `console`",
        None,
    ]


@pytest.mark.parametrize("words", ["run: nonsense", "ran: server", "not run: ", "exit x"])
def test_a_comment_that_is_no_marker_is_an_error_with_its_place(words: str):
    with pytest.raises(ValueError, match=r"p\.md:3: `.*` is not a marker"):
        parse_marker(words, "p.md:3")


@pytest.mark.parametrize(
    ("actual", "shown"),
    [
        ("listens on ws://127.0.0.1:40123 (x)\n", "listens on ws://127.0.0.1:8765 (x)\n"),
        ("run 5e884555… took 0.21s, testorch 0.1.0\n", "run 01234567… took 12.00s, testorch 1.2\n"),
        (f"{'a1' * 12}   2026-11-22 15:04:39 x\n", f"{'0b' * 16}  2000-01-01 00:00:00  x"),
        ("stream 4e1a537d5f16: ended\n", "stream 0123456789ab: ended\n"),
        ("a\nb\nc\nd\n", "a\n…\nd\n"),
        ("a\nd\n", "a\n…\nd\n"),
        ("one two three\n", "one … three"),
        ("", ""),
    ],
)
def test_ids_times_ports_and_what_is_left_out_may_differ(actual: str, shown: str):
    assert is_as_shown(actual, shown)


@pytest.mark.parametrize(
    ("actual", "shown"),
    [
        ("2 tests, 1 failed\n", "2 tests, 2 failed\n"),
        ("a\nb\n", "a\n"),
        ("a\n", "a\nb\n"),
        ("a\nb\n", "a…\n"),
        ("a\n", ""),
    ],
)
def test_everything_else_must_be_as_shown(actual: str, shown: str):
    assert not is_as_shown(actual, shown)


def test_a_console_snippet_is_commands_and_what_each_prints():
    assert commands_of("$ a b\nx\ny\n$ c\n") == [("a b", "x\ny\n"), ("c", "")]
    with pytest.raises(ValueError, match="begins with"):
        commands_of("x\n$ a\n")


@pytest.mark.slow(reason="starts a server, as the pages do")
@pytest.mark.parametrize(
    "text",
    [
        '<!-- run: server -->\n```python\nraise SystemExit("no")\n```\n',
        "<!-- run: script -->\n```python\nprint(1)\n```\n\n<!-- output -->\n```text\n2\n```\n",
        "<!-- run: console -->\n```console\n$ testorch show nothing\n```\n",
        '<!-- run: message -->\n```json\n{"type": "event", "payload": {}}\n```\n',
        '<!-- run: configuration -->\n```toml\n[storage]\nuse = "sqlit"\n```\n',
        "<!-- run: background -->\n```console\n$ testorch serve\nsomething else\n```\n",
    ],
    ids=["script", "output", "exit code", "message", "configuration", "background"],
)
def test_a_page_that_is_wrong_is_caught(text: str, tmp_path: Path):
    folder = tmp_path / "page"
    folder.mkdir()
    with pytest.raises(Exception, match=r"p\.md"):
        play(text, "p.md", folder)
