"""The whole system with real parts: pytest suites, kill -9, Node, a plugin installed by pip."""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from whole_support import PlainClient, run_testorch, serving

pytestmark = pytest.mark.slow(reason="starts processes: servers, pytest, node, pip")

HERE = Path(__file__).parent
DEMO_SUITE = HERE.parent / "examples" / "demo_suite"


def cases(document: str | bytes) -> dict[tuple[str, str], list[str]]:
    """(classname, name) -> what befell the test, from a JUnit document of anybody's."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for case in ElementTree.fromstring(document).iter("testcase"):
        tags = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[case.get("classname", ""), case.get("name", "")] += tags or ["passed"]
    return dict(found)


def totals(document: str | bytes) -> dict[str, int]:
    suites = list(ElementTree.fromstring(document).iter("testsuite"))
    return {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}


def test_a_real_suite_agrees_with_pytests_own_report_in_every_count_and_outcome(tmp_path: Path):
    own = tmp_path / "own.xml"
    with serving(tmp_path) as server:
        command = [sys.executable, "-B", "-m", "pytest", str(DEMO_SUITE), "--rootdir", str(DEMO_SUITE), "-p", "no:cacheprovider",
                   "--testorch", server.address, f"--junitxml={own}", "-p", "no:randomly"]  # fmt: skip
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 1, ended.stdout + ended.stderr
        database = ["--db", str(server.database)]
        shown = json.loads(run_testorch("show", "latest", *database, "--json").stdout)
        exported = run_testorch("export", "latest", *database, "--format", "junit").stdout
    theirs = own.read_bytes()
    assert cases(exported) == cases(theirs)
    assert totals(exported) == totals(theirs)
    counts = shown["run"]["counts"]
    assert counts["total"] == len(shown["results"]) == totals(theirs)["tests"]
    assert counts["failed"] == totals(theirs)["failures"]
    assert counts["error"] == totals(theirs)["errors"]
    assert counts["skipped"] + counts["expectedFailed"] == totals(theirs)["skipped"]
    assert (shown["run"]["status"], shown["run"]["complete"]) == ("failed", True)


def test_after_kill_9_everything_that_was_answered_is_there_and_the_run_goes_on(tmp_path: Path):
    """P1, P8: three times killed in the middle of a run."""
    ended = _survive_kills(tmp_path, ["--port", "0"])
    _state_is_the_fold_of_the_log(tmp_path, ended)


def test_a_store_that_answers_before_it_has_committed_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """P1: the harness above bites: the same with a store that keeps its last commits back for a while."""
    site = tmp_path / "site"
    information = site / "late_store-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "late_store.py").write_text(LATE_STORE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: late-store\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[testorch.storage]\nlate = late_store:LateStore\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    (tmp_path / "late.toml").write_text('[storage]\nuse = "late"\n[transports.w]\nuse = "websocket"\nport = 0\n')
    with pytest.raises(AssertionError, match="what was answered before the kill is there"):
        _survive_kills(tmp_path, ["--config", str(tmp_path / "late.toml")])


LATE_STORE = '''
"""A store that says "committed" when it has only taken a note: it writes what it has once there are eight commits."""
from testorch_plugins.storage.sqlite.plugin import SqliteStore

class LateStore(SqliteStore):
    def __init__(self, name, options):
        super().__init__(name, options)
        self.waiting = []

    async def append(self, commit):
        self.waiting.append(commit)
        if len(self.waiting) >= 8:
            while self.waiting:
                await super().append(self.waiting.pop(0))
'''


def _survive_kills(folder: Path, arguments: list[str]) -> Any:
    """Kill servers in the middle of a run, and then end it; returns the run's last status."""
    confirmed = 0
    for generation in range(3):
        with serving(folder, *arguments) as server, PlainClient(server.address) as client:
            status = client.ask("startTestRun", {"runId": "r"})
            assert status["counts"]["passed"] >= confirmed, "what was answered before the kill is there"
            for step in range(5):
                for number in range(20):
                    name = f"{generation}-{step}-{number}"
                    client.event(name, "test/end", testId=name, status="passed")
                confirmed = client.ask("getRunStatus", {"runId": "r"})["counts"]["passed"]
            for number in range(50):  # under way when the kill comes: kept or lost, but never half
                client.event(f"{generation}-x-{number}", "test/end", testId=f"x{number}", status="passed")
            server.kill()
    with serving(folder, *arguments) as server, PlainClient(server.address) as client:
        client.ask("startTestRun", {"runId": "r"})
        for generation in range(3):
            for number in range(50):  # sent again, as a client does with what was not answered
                client.event(f"{generation}-x-{number}", "test/end", testId=f"x{number}", status="passed")
        # Plain connections are strangers to each other: those that were killed never ended their part.
        ended = client.ask("endTestRun", {"runId": "r", "force": True})
        assert (ended["status"], ended["complete"], ended["endReason"]) == ("passed", False, "forced")
        assert ended["counts"]["passed"] == ended["counts"]["total"] == 3 * 100 + 50
        server.stop()
    return ended


def _state_is_the_fold_of_the_log(folder: Path, status: Any) -> None:
    """Fold the stored log again with nothing but the fold, and compare it with what the server said and stored."""
    import trio

    from testorch_core.config import configuration_of
    from testorch_core.interfaces.storage import EventStore, ResultFilter
    from testorch_core.logs import library_log
    from testorch_core.registry import replay
    from testorch_core.runs import RunState
    from testorch_core.server import with_store

    async def compare(store: EventStore) -> None:
        state = RunState("default", "r")
        for batch in await store.read("default", after=0, limit=10**6, run_id="r"):
            replay(state, batch)
        assert state.status().payload() == status
        stored = await store.run("default", "r")
        assert stored is not None
        assert stored.run_status() == state.status()
        page = await store.results("default", "r", ResultFilter(), limit=10**6)
        assert {row.test_id: row.status for row in page.rows} == {
            name: one.status for name, one in state.attempts.items()
        }
        offsets = [one.offset for batch in await store.read("default", after=0, limit=10**6) for one in batch.events()]
        assert offsets == list(range(1, len(offsets) + 1))

    tables = {"storage": {"use": "sqlite", "path": "testorch.db"}}
    chosen = configuration_of(tables, source="test", folder=folder)
    trio.run(lambda: with_store(chosen, compare, log=library_log()))


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js and npm")
def test_the_conversation_of_the_integration_guide_from_node(tmp_path: Path):
    shutil.copytree(HERE / "node", tmp_path / "node", ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefer-offline"]
    subprocess.run(install, cwd=tmp_path / "node", check=True, capture_output=True, timeout=120)
    with serving(tmp_path) as server:
        command = ["node", "seed_conversation.mjs", server.address]
        ended = subprocess.run(command, cwd=tmp_path / "node", capture_output=True, text=True, timeout=30, check=True)
    started, active, status, statistics, refused, finished = map(json.loads, ended.stdout.splitlines())
    assert started["type"] == "testRunStarted"
    assert (active["type"], active["payload"][0]["running"][0]["testName"]) == ("activeRuns", "Login Test")
    assert (status["type"], status["payload"]) == ("runStatus", active["payload"][0])
    assert (statistics["type"], statistics["payload"]["activeRuns"]) == ("statistics", 1)
    assert (refused["type"], refused["payload"]["code"], refused["payload"]["eventId"]) == (
        "error",
        "invalid_event",
        "evt-124",
    )
    assert (finished["type"], finished["payload"]["counts"]["interrupted"]) == ("testRunEnded", 1)


PLUGIN = '''
"""A reporter that leaves a mark when it is imported, and writes what it is told."""
import pathlib
from testorch_core.interfaces.reporter import Reporter

pathlib.Path(__file__).with_name("imported").touch()

class Marker(Reporter):
    summary = "marks finished runs"

    async def start(self, context):
        self.path = context.folder / "marks.txt"

    async def aclose(self):
        pass

    async def run_finished(self, run):
        with self.path.open("a") as file:
            file.write(f"{run.status.run_id} {run.status.status}\\n")
'''


@pytest.fixture
def installed_plugin(tmp_path: Path) -> Path:
    """A plugin distribution, built and installed by pip into a folder of its own; returns that folder."""
    source = tmp_path / "source"
    (source / "testorch_marker").mkdir(parents=True)
    (source / "testorch_marker" / "__init__.py").write_text(PLUGIN)
    (source / "testorch_marker" / "broken.py").write_text("import no_such_module\n")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "testorch-marker"\nversion = "1.2"\n'
        '[project.entry-points."testorch.reporter"]\nmarker = "testorch_marker:Marker"\n'
        'broken = "testorch_marker.broken:Broken"\nnothing = "testorch_marker:Reporter"\nother = "testorch_marker:pathlib"\n'
    )
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return site


def test_a_plugin_installed_by_pip_is_listed_runs_when_configured_and_is_not_imported_when_not(
    installed_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    environment = {**os.environ, "PYTHONPATH": str(installed_plugin)}
    mark = installed_plugin / "testorch_marker" / "imported"

    plain = '[storage]\nuse = "sqlite"\npath = "a.db"\n[transports.w]\nuse = "websocket"\nport = 0\n'
    (tmp_path / "plain.toml").write_text(plain)
    (tmp_path / "marked.toml").write_text(plain + "[reporters.marker]\n")
    checked = run_testorch("check", "--config", "plain.toml", cwd=tmp_path, env=environment)
    assert (checked.returncode, mark.exists()) == (0, False)

    listed = run_testorch("plugins", "--json", env=environment)
    assert listed.returncode == 1, "some of them are broken"
    rows = {row["name"]: row for row in json.loads(listed.stdout) if row["distribution"] == "testorch-marker"}
    assert (rows["marker"]["version"], rows["marker"]["summary"]) == ("1.2", "marks finished runs")
    assert "can't be imported: ModuleNotFoundError: No module named 'no_such_module'" in rows["broken"]["error"]
    assert "does not implement `aclose`, `start` of Reporter" in rows["nothing"]["error"]
    assert "is not a Reporter" in rows["other"]["error"]

    (tmp_path / "broken.toml").write_text(plain + '[reporters.x]\nuse = "broken"\n[reporters.y]\nuse = "markr"\n')
    refused = run_testorch("serve", "--config", "broken.toml", cwd=tmp_path, env=environment)
    assert refused.returncode == 2
    assert "reporters.x (broken): reporter plugin `broken` (testorch-marker 1.2) can't be imported" in refused.stderr
    assert (
        "did you mean `marker`?; installed: `console`, `junit` (testorch 0.1.0); `broken`, `marker`, `nothing`, `other` (testorch-marker 1.2)"
        in refused.stderr
    )

    os.environ["PYTHONPATH"] = str(installed_plugin)
    try:
        with (
            serving(tmp_path, "--config", str(tmp_path / "marked.toml")) as server,
            PlainClient(server.address) as client,
        ):
            client.ask("startTestRun", {"runId": "r"})
            client.ask("endTestRun", {"runId": "r"})
            server.stop()
    finally:
        del os.environ["PYTHONPATH"]
    assert (tmp_path / "marks.txt").read_text() == "r passed\n"
    assert mark.exists()
