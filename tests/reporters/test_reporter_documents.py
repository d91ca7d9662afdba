"""What stands beside the reporters is true: the samples work, and the option tables are those of the code."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from testorch_core.options import Options
from testorch_plugins.reporters.console.options import ConsoleOptions
from testorch_plugins.reporters.junit.options import JunitOptions

FOLDER = Path(__file__).parents[2] / "testorch_plugins/reporters"
REPORTERS = [("console", ConsoleOptions), ("junit", JunitOptions)]


@pytest.mark.parametrize(("name", "options"), REPORTERS)
def test_the_sample_works_and_shows_every_option_with_its_default(name: str, options: type[Options]) -> None:
    given = tomllib.loads((FOLDER / name / "sample.toml").read_text("utf-8"))["reporters"][name]
    assert given.pop("use") == name
    assert options.load(given, folder=FOLDER) == options()
    assert list(given) == [spec.name for spec in options.specs()]


@pytest.mark.parametrize(("name", "options"), REPORTERS)
def test_the_readme_has_the_sample_and_the_options(name: str, options: type[Options]) -> None:
    text = (FOLDER / name / "README.md").read_text("utf-8")
    assert f"```toml\n{(FOLDER / name / 'sample.toml').read_text('utf-8')}```" in text
    rows = [f"| `{spec.name}` | `{spec.default}` | {spec.help} |" for spec in options.specs()]
    assert "\n".join(("| option | default | what it does |", "| --- | --- | --- |", *rows)) in text
