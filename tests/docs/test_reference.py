"""The reference holds everything that the code has: exceptions, codes, options, commands, messages. The site builds."""

import ast
import dataclasses
import html
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from marshmallow import fields, validate
from snippets import DOCS, ROOT

from testorch_core.cli import cli
from testorch_core.config import ServerOptions
from testorch_core.errors import Problem, Refusal
from testorch_core.events import SEVERITY
from testorch_core.loading import load_plugin
from testorch_core.options import Options, Secret, option
from testorch_core.protocol import ERROR_CODES, SCHEMAS
from testorch_core.router import REQUESTS
from testorch_core.runs import RunState
from testorch_core.summary import statistics_of

pytest.importorskip("sphinx", reason="needs the dependency group `docs`")
sys.path.insert(0, str(DOCS / "_ext"))

import testorch_code as reference  # it stands among the documentation, not in a distribution

BUILD_SECONDS = 110


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build the site as CI does: every warning is an error."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(target / "doctrees")]
    return subprocess.run(
        [*command, str(source), str(target / "html")],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    target = tmp_path_factory.mktemp("site")
    ended = build(DOCS, target)
    assert ended.returncode == 0, ended.stderr
    return target / "html"


def code_on(page: Path) -> set[str]:
    """Everything that a built page shows as code, links to it included."""
    shown = re.findall(r"<(code|pre)\b[^>]*>(.*?)</\1>", page.read_text("utf-8"), re.DOTALL)
    return {html.unescape(re.sub(r"<[^>]*>", "", text)) for _, text in shown}


def our_entry_points() -> Iterator[tuple[str, str]]:
    """(family, name) of every plugin that our `pyproject.toml` declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for group, declared in project["entry-points"].items():
        family = group.removeprefix("testorch.")
        if family != "defaults":
            yield from ((family, name) for name in declared)


def declared_exceptions() -> dict[str, str | None]:
    """Every class in the core that carries a `code`, or derives from one that does, with its own code; read as text."""
    found: dict[str, str | None] = {}
    classes: list[ast.ClassDef] = []
    for file in sorted((ROOT / "testorch_core").rglob("*.py")):
        if "testing" not in file.parts:
            classes += [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.ClassDef)]
    ours = {"TestorchError"}
    for _ in classes:  # as deep as it could possibly be
        ours |= {one.name for one in classes if {getattr(base, "id", "") for base in one.bases} & ours}
    for one in classes:
        if one.name in ours:
            codes = [_code_in(statement) for statement in one.body]
            found[one.name] = next((code for code in codes if code), None)
    return found


def _code_in(statement: ast.stmt) -> str | None:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    names = {getattr(target, "id", "") for target in targets}
    value = getattr(statement, "value", None)
    return str(value.value) if "code" in names and isinstance(value, ast.Constant) else None


@pytest.mark.slow(reason="builds the site")
def test_every_exception_and_its_code_is_in_the_reference(site: Path):
    exceptions = declared_exceptions()
    assert {"TestorchError", "ConfigurationError", "Retryable", "RequestError"} <= exceptions.keys()
    shown = code_on(site / "reference" / "errors.html")
    assert exceptions.keys() - shown == set()
    assert {code for code in exceptions.values() if code} - shown == set()


@pytest.mark.slow(reason="builds the site")
def test_every_message_field_error_code_and_event_type_is_in_the_reference(site: Path):
    shown = code_on(site / "reference" / "protocol.html")
    assert {*ERROR_CODES, *SCHEMAS, *REQUESTS, *(answer for answer, _ in REQUESTS.values())} - shown == set()
    assert {name for schema in SCHEMAS.values() for name in schema.fields} - shown == set()
    assert {str(code) for code in reference.close_codes()} - shown == set()
    assert reference.event_types().keys() - code_on(site / "reference" / "events.html") == set()


@pytest.mark.slow(reason="builds the site")
def test_every_option_of_the_server_and_of_every_plugin_of_ours_is_in_the_reference(site: Path):
    assert {one.name for one in dataclasses.fields(ServerOptions)} - code_on(
        site / "reference/configuration.html"
    ) == set()
    text = (site / "reference" / "plugins.html").read_text("utf-8")
    shown = code_on(site / "reference" / "plugins.html")
    for family, name in our_entry_points():
        assert f'id="plugin-{family}-{reference.slug(name)}"' in text
        options = {one.name for one in dataclasses.fields(load_plugin(family, name).options_type)}
        assert options - shown == set(), name


@pytest.mark.slow(reason="builds the site")
def test_every_command_and_every_option_of_it_is_in_the_reference(site: Path):
    shown = code_on(site / "reference" / "command-line.html")
    assert {f"testorch {name}" for name in cli.commands} - shown == set()
    words = {word.strip(",") for text in shown for word in text.split()}
    for name, command in cli.commands.items():
        flags = {flag for one in command.params if isinstance(one, click.Option) for flag in one.opts}
        assert flags - words == set(), name


@pytest.mark.slow(reason="builds a site")
def test_an_orphan_a_dead_link_and_a_code_without_words_fail_the_build(tmp_path: Path):
    source = tmp_path / "docs"
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (source / "orphan.md").write_text("# Orphan\n\n[nowhere](nowhere.md) and [no heading](index.md#nothing)\n", "utf-8")
    protocol = source / "reference" / "protocol.md"
    protocol.write_text(protocol.read_text("utf-8").replace("\n1012: ", "\n1013: "), "utf-8")
    ended = build(source, tmp_path)
    assert ended.returncode != 0
    for words in (
        "document isn't included in any toctree",
        "nowhere.md",
        "nothing",
        "close code `1012` is in the code and has no words here",
        "close code `1013` has words here and is not in the code",
    ):
        assert words in ended.stderr


# What stands in tables written by hand.


def code_in(page: str) -> set[str]:
    """Everything between backquotes in a page's source."""
    return set(re.findall(r"`([^`\n]+)`", (DOCS / page).read_text("utf-8")))


def test_every_field_of_a_status_of_the_statistics_and_of_an_error_is_in_the_reference():
    status = RunState("p", "r").status()
    whole = dataclasses.replace(status, key="k", end_reason="e", previous_run_id="q", errors=({"message": "m"},))
    problem = Problem("path", "problem")
    refusal = Refusal("code", "message", True, 1, (problem,) * 9, "event", "policy")
    shown = code_in("reference/protocol.md")
    assert whole.payload().keys() - shown == set()
    assert refusal.payload().keys() - shown == set()
    assert statistics_of([]).keys() - shown == set()


def test_every_status_and_every_bucket_of_the_counts_is_in_the_reference():
    assert SEVERITY.keys() - code_in("reference/events.md") == set()
    shown = code_in("reference/events.md") | code_in("reference/protocol.md")
    assert RunState("p", "r").status().counts.keys() - shown == set()


# The functions that read the code, where the site doesn't show enough.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SomeOptions(Options):
    token: Secret = option(fields.String(), help="who you are", secret=True)
    tries: int = option(fields.Integer(validate=validate.Range(1, 5)), default=3, help="how often")
    name: str | None = option(fields.String(validate=validate.Length(max=1)), default=None, help="what to say")
    loud: bool = option(fields.Boolean(), default=False, help="whether to shout")
    times: list[float] = option(fields.List(fields.Float()), default=(0.5, 2), help="when")


def test_an_option_is_shown_with_its_type_its_bounds_its_default_and_whether_it_is_secret():
    rows = [(row.name, row.kind, row.default) for row in reference.option_rows(SomeOptions)]
    assert rows == [
        ("token", "string, secret", "required"),
        ("tries", "integer, 1 to 5", "`3`"),
        ("name", "string, at most 1 character", "none"),
        ("loud", "`true` or `false`", "`false`"),
        ("times", "list of numbers", "`[0.5, 2]`"),
    ]


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (fields.String(validate=validate.OneOf(["a", "b"])), "string, one of `a`, `b`"),
        (fields.String(validate=validate.Length(equal=64)), "string, exactly 64 characters"),
        (fields.Integer(validate=validate.Range(min=1024)), "integer, at least 1,024"),
        (fields.Integer(validate=validate.Range(-(2**53) + 1, 2**53 - 1)), "integer, -(2⁵³-1) to 2⁵³-1"),
        (fields.List(fields.Raw()), "list of anything"),
        (fields.Dict(), "object"),
        (fields.Url(), "URL"),
    ],
)
def test_a_field_is_shown_in_words(field: Any, words: str):
    assert reference.words_of_field(field) == words


def test_a_command_is_shown_with_its_defaults_and_what_it_requires():
    @click.group()
    def group() -> None:
        """A group."""

    @group.command()
    @click.argument("thing")
    @click.option("--port", type=click.IntRange(0, 9), default=3, show_default=True, help="Where.")
    @click.option("--loud/--quiet", default=True, show_default=True, help="How.")
    @click.option("--name", required=True, metavar="NAME", help="Who.")
    def run(**options: Any) -> None:
        """Run THING."""

    top, page = reference.command_pages(group, program="x")
    assert (top.name, top.help) == ("x", "A group.")
    assert (page.name, page.usage, page.help) == ("x run", "x run [OPTIONS] THING", "Run THING.")
    assert [(row.name, row.default) for row in page.parameters] == [
        ("THING", "required"),
        ("--port 0…9", "`3`"),
        ("--loud, --quiet", "`--loud`"),
        ("--name NAME", "required"),
        ("--help", ""),
    ]
