"""The JUnit reporter on real files: names, atomicity, redelivery, and what it does when the disk won't."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest
import structlog
import trio

from testorch_core.delivery import ReporterFeed
from testorch_core.errors import OpeningError, StorageFailedError
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.reporter import Retryable
from testorch_plugins.reporters.junit.files import AtomicFile, file_name
from testorch_plugins.reporters.junit.options import JunitOptions
from testorch_plugins.reporters.junit.plugin import JunitReporter

MakeContext = Callable[..., PluginContext]
ROOT = Path(__file__).parents[2]


async def started(context: PluginContext, **options: Any) -> JunitReporter:
    reporter = JunitReporter("junit", JunitOptions(**options))
    await reporter.start(context)
    return reporter


async def finished_log(make_log: Any, **settings: Any) -> Any:
    log = make_log(**settings)
    await log.start()
    await log.tell("test/end", {"testId": "a::b", "status": "passed"})
    await log.end()
    return log


async def test_the_file_holds_what_export_renders(make_log: Any, make_context: MakeContext, tmp_path: Path) -> None:
    log = await finished_log(make_log)
    reporter = await started(make_context(), directory="out/junit")
    await reporter.run_finished(log.reader())
    (file,) = (tmp_path / "out/junit").iterdir()
    assert file.name == "Nightly-315ab3df1b.xml"
    assert file.read_bytes() == b"".join([piece async for piece in reporter.render(log.reader())])
    assert oct(file.stat().st_mode & 0o777) == oct(0o666 & ~umask())


def names_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


async def test_a_run_that_is_told_again_replaces_its_file(
    make_log: Any, make_context: MakeContext, tmp_path: Path
) -> None:
    log = await finished_log(make_log)
    reporter = await started(make_context())
    await reporter.run_finished(log.reader())
    await log.tell("test/end", {"testId": "a::late", "status": "failed"})
    await reporter.run_finished(log.reader())
    (file,) = (tmp_path / "reports").iterdir()
    assert ElementTree.parse(file).getroot().get("tests") == "2"


async def test_rendering_needs_no_start(make_log: Any) -> None:
    log = await finished_log(make_log)
    reporter = JunitReporter("junit", JunitOptions())
    assert reporter.media_type == "application/xml"
    assert (
        ElementTree.fromstring(b"".join([piece async for piece in reporter.render(log.reader())])).get("tests") == "1"
    )
    await reporter.aclose()
    await reporter.aclose()


async def test_the_core_delivers_a_run_as_a_file(make_log: Any, make_context: MakeContext, tmp_path: Path) -> None:
    log = make_log()
    reporter = await started(make_context())
    feed = ReporterFeed(reporter, log.store, log.tail, structlog.get_logger())
    await feed.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        await log.start()
        await log.tell("test/end", {"testId": "a::b", "status": "failed"})
        await log.end("failed")
        await feed.caught_up()
        nursery.cancel_scope.cancel()
    assert (feed.counts.delivered, feed.counts.failed) == (2, 0)
    assert names_in(tmp_path / "reports") == ["Nightly-315ab3df1b.xml"]


@pytest.mark.parametrize(
    ("run_id", "name", "expected"),
    [
        ("run-1", "Nightly build", "Nightly-build-315ab3df1b.xml"),
        ("run-1", None, "run-1-315ab3df1b.xml"),
        ("../../etc/passwd", None, "etc-passwd-8d89acca57.xml"),
        ("a\x00b\ud800/..", "ä" * 300, "run-1c62ef6579.xml"),
        ("run-1", "x" * 300, "x" * 60 + "-315ab3df1b.xml"),
        ("run-1", "..", "run-315ab3df1b.xml"),
    ],
)
def test_a_file_is_named_by_a_slug_and_a_hash(run_id: str, name: str | None, expected: str) -> None:
    assert file_name("default", run_id, name) == expected


def test_runs_of_equal_names_have_files_of_their_own() -> None:
    names = {
        file_name(*run, "Nightly").lower() for run in [("a", "1"), ("b", "1"), ("a", "2"), ("a", "A"), ("", "a\0001")]
    }
    assert len(names) == 5


def test_nothing_is_seen_of_a_file_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("old")
    file = AtomicFile(path)
    file.write(b"new")
    assert path.read_text() == "old"
    file.commit()
    assert path.read_text() == "new"
    file.discard()
    assert names_in(tmp_path) == ["a.xml"]


async def test_a_call_that_is_cancelled_leaves_the_old_file_and_nothing_else(
    make_log: Any, make_context: MakeContext, tmp_path: Path
) -> None:
    log = await finished_log(make_log)
    reporter = await started(make_context())
    await reporter.run_finished(log.reader())
    (file,) = (tmp_path / "reports").iterdir()
    before = file.read_bytes()

    class Stuck:
        status = log.reader().status

        async def results(self, *, final_only: bool = False) -> Any:
            async for result in log.reader().results():
                yield result
            assert len(names_in(tmp_path / "reports")) == 2
            scope.cancel()
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        await reporter.run_finished(Stuck())  # type: ignore[arg-type]  # has all that is read of it
    assert scope.cancelled_caught
    assert list((tmp_path / "reports").iterdir()) == [file]
    assert file.read_bytes() == before


async def test_a_folder_that_went_away_is_made_again(make_log: Any, make_context: MakeContext, tmp_path: Path) -> None:
    reporter = await started(make_context())
    (tmp_path / "reports").rmdir()
    await reporter.run_finished((await finished_log(make_log)).reader())
    assert len(names_in(tmp_path / "reports")) == 1


async def test_a_disk_that_refuses_is_tried_again_later(
    make_log: Any, make_context: MakeContext, tmp_path: Path
) -> None:
    reporter = await started(make_context())
    (tmp_path / "reports").rmdir()
    (tmp_path / "reports").write_text("in the way")
    with pytest.raises(Retryable, match=r"Nightly-315ab3df1b.xml` could not be written: .*File exists"):
        await reporter.run_finished((await finished_log(make_log)).reader())


async def test_a_store_that_fails_for_a_while_is_asked_again_later(
    make_log: Any, make_context: MakeContext, tmp_path: Path
) -> None:
    log = await finished_log(make_log)
    reporter, reader = await started(make_context()), log.reader()
    await log.store.aclose()
    with pytest.raises(Retryable, match="the store is not open") as caught:
        await reporter.run_finished(reader)
    assert isinstance(caught.value.__cause__, StorageFailedError)
    assert names_in(tmp_path / "reports") == []


async def test_a_folder_that_cannot_be_made_is_refused_at_the_start(make_context: MakeContext, tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("in the way")
    with pytest.raises(OpeningError, match=r"`directory`: the folder `.*reports` can't be made: File exists; choose"):
        await started(make_context())


async def test_reading_beside_a_server_makes_no_folder(make_context: MakeContext, tmp_path: Path) -> None:
    await started(make_context(read_only=True))
    assert names_in(tmp_path) == []


SUITE = """
import sys
import pytest

def test_passes(record_property):
    record_property("owner", "ann")

def test_fails():
    print("to stdout")
    print("to stderr", file=sys.stderr)
    assert 1 == 2

def test_raises():
    raise KeyError("missing")

@pytest.fixture
def bad_setup():
    raise RuntimeError("no setup")

@pytest.fixture
def bad_teardown():
    yield
    raise RuntimeError("no teardown")

def test_setup_error(bad_setup): pass
def test_teardown_error(bad_teardown): pass
def test_call_and_teardown(bad_teardown): assert False
def test_no_such_fixture(nowhere): pass

@pytest.mark.skip(reason="by mark")
def test_skip(): pass

@pytest.mark.xfail(reason="known bug")
def test_xfail(): assert False

@pytest.mark.xfail(reason="fixed?")
def test_xpass(): pass

@pytest.mark.xfail(strict=True, reason="fixed!")
def test_xpass_strict(): pass

@pytest.mark.parametrize("value", ["a[b]", "a::b", "<&>", "a\\x1bb"])
def test_odd(value): pass

class TestOuter:
    class TestInner:
        def test_nested(self): pass
"""

RECORDING = """
import json
import testorch_client.client
from testorch_client.client import Client

class Recording:
    def __init__(self, *args, **settings): pass
    def start_run(self, **settings): pass
    def emit(self, type, payload): FILE.write(json.dumps([type, payload]) + "\\n")
    def end_run(self): FILE.close()
    def close(self, deadline): raise OSError("no server, as meant")

FILE = open("events.jsonl", "w")
testorch_client.client.Client = Recording
"""


def run_pytest(folder: Path) -> tuple[ElementTree.Element, list[Any]]:
    """A real pytest run: its own XML file, and the events that our client plugin makes of it."""
    (folder / "tests").mkdir()
    (folder / "tests/test_all.py").write_text(SUITE)
    (folder / "tests/test_broken.py").write_text("import nothing_of_that_name\n")
    (folder / "recording.py").write_text(textwrap.dedent(RECORDING))
    plugins = ["-p", "recording", "-p", "testorch_client.pytest_plugin", "-p", "no:randomly"]
    asked = ["--junitxml=own.xml", "--continue-on-collection-errors", "--testorch=ws://127.0.0.1:1", "-o", "addopts="]
    # Neither settings nor plugins of the environment may have a say: one of them may be the client, installed.
    environment = {"PATH": os.environ["PATH"], "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT / "clients/python")])
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(folder), *plugins, *asked, "tests"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = (folder / "events.jsonl").read_text().splitlines()
    (own,) = ElementTree.parse(folder / "own.xml").getroot()
    return own, [part for line in lines for part in orjson.loads(line)]


@pytest.mark.slow  # a pytest run in a process of its own
async def test_the_document_agrees_with_the_one_that_pytest_writes(make_log: Any, tmp_path: Path) -> None:
    own, events = await trio.to_thread.run_sync(run_pytest, tmp_path)
    log = make_log()
    await log.start()
    await log.tell(*events)
    await log.end("failed")
    ours = ElementTree.fromstring(
        b"".join([piece async for piece in JunitReporter("junit", JunitOptions()).render(log.reader())])
    )
    names = ("failures", "errors", "skipped")
    assert {name: ours.get(name) for name in names} == {name: own.get(name) for name in names}
    # A test that fails and then breaks its teardown is two testcases of pytest's, of the same name; one of ours.
    assert (ours.get("tests"), own.get("tests")) == ("17", "18")

    def verdicts(root: ElementTree.Element) -> dict[tuple[str | None, str | None], set[str]]:
        found: dict[tuple[str | None, str | None], set[str]] = {}
        for case in root.iter("testcase"):
            tags = {child.tag for child in case} & {"failure", "error", "skipped"}
            found.setdefault((case.get("classname"), case.get("name")), set()).update(tags)
        return found

    theirs = verdicts(own)
    # pytest gives a module that can't be collected no class, and its dotted path for a name.
    assert theirs.pop(("", "tests.test_broken")) == {"error"}
    mine = verdicts(ours)
    assert mine.pop(("tests.test_broken", "tests/test_broken.py")) == {"error"}
    assert mine == theirs
