"""The command line as a user types it: what it prints, its exit codes, and that no mistake ends in a traceback."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from whole_support import PlainClient, ServerProcess, run_testorch, serving

pytestmark = pytest.mark.slow(reason="starts Python processes, a quarter of a second each")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(tmp_path) as running:
        yield running


def test_a_run_is_listed_shown_and_exported_beside_the_running_server(server: ServerProcess, tmp_path: Path):
    with PlainClient(server.address) as client:
        client.ask("startTestRun", {"runId": "first-run", "name": "first"})
        client.event(
            "a", "test/end", testId="pkg/test_a.py::test_good", testName="test_good", status="passed", durationMs=5
        )
        client.event("b", "test/end", testId="pkg/test_a.py::test_\x1b[31mbad", status="failed",
                     errors=[{"type": "AssertionError", "message": "1 != 2\nmore", "stack": "…"}])  # fmt: skip
        client.ask("endTestRun", {"runId": "first-run"})
        client.ask("startTestRun", {"runId": "second-run"})
    database = ["--db", str(server.database)]

    listed = run_testorch("runs", *database)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["second-run", "first-run"], listed.stderr
    as_json = json.loads(run_testorch("runs", *database, "--json", "--status", "failed").stdout)
    assert [(run["runId"], run["counts"]["failed"]) for run in as_json] == [("first-run", 1)]

    shown = run_testorch("show", "fir", *database).stdout
    assert "2 tests, 1 passed, 1 failed" in shown
    assert "test_good" not in shown
    assert r"test_\x1b[31mbad" in shown
    assert "\x1b" not in shown
    assert "test_good" in run_testorch("show", "first-run", *database, "--all").stdout
    everything = json.loads(run_testorch("show", "first-run", *database, "--json").stdout)
    assert [one["status"] for one in everything["results"]] == ["failed", "passed"]

    to_stdout = run_testorch("export", "first-run", "--format", "junit", *database)
    target = tmp_path / "out.xml"
    assert run_testorch("export", "first-run", "--format", "junit", *database, "-o", str(target)).returncode == 0
    assert target.read_text() == to_stdout.stdout
    assert len(list(ElementTree.fromstring(to_stdout.stdout).iter("testcase"))) == 2
    assert list(tmp_path.glob(".out.xml*")) == []
    server.stop()


def test_sigterm_drains_and_exits_with_zero(server: ServerProcess):
    with PlainClient(server.address) as client:
        client.ask("startTestRun", {"runId": "r"})
        for number in range(200):
            client.event(f"e{number}", "test/end", testId=f"t{number}", status="passed")
        client.send("getRunStatus", {"runId": "r"})
        server.stop()
        assert client.receive()["payload"]["counts"]["passed"] == 200
        with pytest.raises(Exception, match="1012"):
            client.receive()
    assert not server.database.with_name("testorch.db-wal").exists(), "a clean end leaves one file"
    with sqlite3.connect(server.database) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_ctrl_c_is_the_same(server: ServerProcess):
    server.process.send_signal(2)
    assert server.process.wait(20) == 0


def test_the_console_reporter_writes_plain_lines_to_a_pipe(server: ServerProcess):
    with PlainClient(server.address) as client:
        client.ask("startTestRun", {"runId": "r", "name": "nightly"})
        client.event("a", "test/end", testId="t", status="failed")
        client.ask("endTestRun", {"runId": "r"})
    server.stop()
    lines = server.output.splitlines()
    assert len(lines) == 3
    assert "nightly" in lines[0]
    assert "failed" in lines[1]
    assert "complete=true" in lines[2]
    assert "\x1b" not in server.output


@pytest.mark.parametrize(
    ("toml", "arguments", "code", "words"),
    [
        ('[storage]\nuse = "sqlit"', [], 2, ["no storage plugin is named `sqlit`; did you mean `sqlite`?"]),
        ('[storage]\nuse = "sqlite"\npaht = "x"', [], 2, ["`paht` is not an option", "did you mean `path`?"]),
        (
            '[storage]\nuse = "sqlite"\npath = 3\n[transports.w]\nuse = "websocket"\nport = { env = "TESTORCH_NOT_SET" }',
            [],
            2,
            ["storage (sqlite): `path`: not a valid string", "the environment variable `TESTORCH_NOT_SET` is not set"],
        ),
        ("[storage", [], 2, ["is not TOML"]),
        (None, ["--config", "missing.toml"], 2, ["missing.toml: can't be read: No such file or directory"]),
        (None, ["--port", "70000"], 2, ["70000 is not in the range"]),
        (None, ["--nonsense"], 2, ["No such option"]),
        (None, ["--db", "."], 1, ["is a folder; `path` must be a file"]),
        (None, ["--db", "no/such/x.db"], 1, ["the folder `", "does not exist"]),
    ],
)
def test_a_broken_configuration_has_one_clear_message(
    toml: str | None, arguments: list[str], code: int, words: list[str], tmp_path: Path
):
    if toml is not None:
        (tmp_path / "c.toml").write_text(toml)
        arguments = ["--config", "c.toml", *arguments]
    ended = run_testorch("serve", *arguments, cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr


def test_a_port_in_use_is_said_with_what_to_do(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run_testorch("serve", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
    assert "the port is in use; stop what uses it, or choose another with `--port`" in ended.stderr


def test_a_database_in_use_names_the_process_that_has_it(server: ServerProcess):
    """P8: a second server refuses with one clear line."""
    ended = run_testorch("serve", "--db", str(server.database), "--port", "0")
    assert ended.returncode == 1
    assert f"is in use by another testorch server (process {server.process.pid})" in ended.stderr


def test_a_newer_schema_is_refused_with_one_line(server: ServerProcess):
    """P8: a program that is too old refuses with one clear line."""
    server.stop()
    with sqlite3.connect(server.database) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in (["serve", "--port", "0"], ["runs"]):
        ended = run_testorch(*command, "--db", str(server.database))
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert "has the schema 9999, newer than this testorch knows" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "nothing"], "no run `nothing`; see `testorch runs`"),
        (["show", "r"], "fits more than one run"),
        (["export", "r1", "--format", "nonsense"], "no reporter plugin is named `nonsense`"),
        (
            ["export", "r1", "--format", "junit", "--config", "bad.toml"],
            "reporters.junit: `directroy` is not an option",
        ),
        (["export", "r1", "--format", "console"], "can't render a run as a document; installed ones that can: `junit`"),
    ],
)
def test_commands_that_find_nothing_say_what_there_is(arguments: list[str], words: str, tmp_path: Path):
    with serving(tmp_path) as server, PlainClient(server.address) as client:
        client.ask("startTestRun", {"runId": "r1"})
        client.ask("startTestRun", {"runId": "r2"})
        (tmp_path / "bad.toml").write_text('[storage]\nuse = "sqlite"\n[reporters.junit]\ndirectroy = "x"\n')
        ended = run_testorch(*arguments, "--db", str(server.database), cwd=tmp_path)
    assert ended.returncode in (1, 2)
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_reading_where_there_is_no_database_says_how_to_get_one(tmp_path: Path):
    ended = run_testorch("runs", cwd=tmp_path)
    assert ended.returncode == 1
    assert "`testorch serve` makes one" in ended.stderr
    assert list(tmp_path.iterdir()) == [], "a command that reads makes no file"


def test_check_prints_what_would_run_and_opens_nothing(tmp_path: Path):
    ended = run_testorch("check", cwd=tmp_path)
    assert ended.returncode == 0
    assert [line.split()[0] for line in ended.stdout.splitlines()[1:]] == [
        "storage",
        "security",
        "reporter",
        "transport",
    ]
    assert list(tmp_path.iterdir()) == []


def test_plugins_lists_ours_with_their_distribution():
    rows = json.loads(run_testorch("plugins", "--json").stdout)
    ours = {(row["family"], row["name"]) for row in rows if row["distribution"] == "testorch"}
    assert ours == {
        ("reporter", "console"), ("reporter", "junit"), ("security", "acl"), ("security", "event_validation"),
        ("security", "oidc_auth"), ("security", "rate_limit"), ("security", "redaction"), ("security", "token_auth"),
        ("storage", "memory"), ("storage", "sqlite"), ("transport", "websocket"), ("transport", "websockets"),
    }  # fmt: skip
    assert all(row["summary"] and row["error"] is None for row in rows)


def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "testorch_core.cli", "plugins"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(20) in (0, 1, 141)
        assert process.stderr.read() == ""


def test_help_imports_neither_trio_nor_a_database():
    code = "import sys; from testorch_core.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ended.stdout.splitlines()[-1]
    assert "'click'" in loaded
    for heavy in ("'trio'", "'sqlalchemy'", "'marshmallow'", "'rich'", "'stevedore'"):
        assert heavy not in loaded


def test_the_demo_ends_with_its_summary_and_the_path_of_its_junit_file(tmp_path: Path):
    ended = run_testorch("demo", "--keep", cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert ended.returncode == 0, ended.stderr
    assert "22 tests, 14 passed, 3 failed, 2 errors, 2 skipped, 1 failed as expected" in ended.stdout
    report = Path(next(line for line in ended.stdout.splitlines() if line.startswith("report")).split()[1])
    assert len(list(ElementTree.parse(report).iter("testcase"))) == 22
