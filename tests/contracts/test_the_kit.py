"""The kit as a third party uses it: nothing to configure, nothing collected by accident; and its fakes."""

from __future__ import annotations

import ast
from pathlib import Path

import orjson
import pytest
import trio
import trio.testing

import testorch_core
from testorch_core import testing
from testorch_core.decoding import decode, flaw_in
from testorch_core.errors import ConnectionClosedError
from testorch_core.events import FAILED, SEVERITY
from testorch_core.interfaces.reporter import Permanent
from testorch_core.testing import FakeConnection, RecordingReporter, hostile, plugin_context, recorded_run

pytest_plugins = ["pytester"]

THIRD_PARTY = """
from testorch_core.testing import *
from testorch_plugins.storage.memory.plugin import MemoryStore
from testorch_core.options import Options

class TestMine(EventStoreContract):
    def make_plugin(self):
        return MemoryStore("mine", Options())
"""


def test_a_third_party_needs_no_configuration(pytester):
    pytester.makepyfile(test_mine=THIRD_PARTY)
    outcome = pytester.runpytest_inprocess("-p", "no:randomly", "-k", "head or closing or document")
    counts = outcome.parseoutcomes()
    assert counts["passed"] > 10
    assert set(counts) <= {"passed", "skipped", "deselected", "warnings"}


def test_importing_the_kit_collects_nothing(pytester):
    pytester.makepyfile(test_mine="from testorch_core.testing import *")
    assert pytester.runpytest_inprocess("-p", "no:randomly").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_contract_without_a_plugin_fails_loudly(pytester):
    pytester.makepyfile(test_mine=THIRD_PARTY.replace("make_plugin", "make_something_else"))
    outcome = pytester.runpytest_inprocess("-p", "no:randomly", "-k", "test_heads or test_3a")
    outcome.assert_outcomes(failed=1, errors=1, deselected=None)
    outcome.stdout.fnmatch_lines("*NotImplementedError: a contract needs `make_plugin`")


def test_nothing_else_imports_the_kit_and_the_kit_imports_no_plugin():
    core = Path(testorch_core.__file__).parent
    kit = Path(testing.__file__).parent
    for path in core.rglob("*.py"):
        names = set(imported(path))
        if kit in path.parents:
            assert not {name for name in names if name.split(".")[0] == "testorch_plugins"}, path
        else:
            assert not {name for name in names if name.startswith(("testorch_core.testing", "pytest"))}, path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{one.name}" for one in node.names))


# Hostile data and runs.


def test_hostile_values_are_what_the_decoder_lets_through():
    decoded = decode(orjson.dumps([*hostile.VALUES, *hostile.NAMES]), max_bytes=10**7)
    assert flaw_in(decoded.value) is None


def test_hostile_names_are_all_different():
    assert len(set(hostile.NAMES)) == len(hostile.NAMES)


async def test_a_recorded_run_has_every_status_and_its_events_in_order():
    run = recorded_run()
    results = [one async for one in run.results()]
    events = [one async for one in run.events()]
    assert {one.status for one in results} >= {*SEVERITY}
    assert {one.outcome for one in results} == {"expected", "unexpected", "flaky", "skipped", None}
    assert {one.name for one in results} >= set(hostile.NAMES)
    assert [one.test_id for one in results] == sorted(one.test_id for one in results)
    assert [one.offset for one in events] == list(range(1, run.status.offset + 1))
    assert [one async for one in run.results(final_only=True)] == [one for one in results if one.final]
    assert (run.status.status, run.status.is_over) == (FAILED, True)
    assert not recorded_run(ended=False).status.is_over


# Fakes.


async def test_a_fake_connection_gives_what_was_fed_and_then_the_end():
    connection = FakeConnection()
    connection.feed({"type": "event"}, "text", b"bytes")
    connection.hang_up()
    assert [await connection.receive() for _ in range(3)] == [b'{"type":"event"}', "text", b"bytes"]
    with pytest.raises(ConnectionClosedError) as closed:
        await connection.receive()
    assert closed.value.close_code == 1006
    with pytest.raises(ConnectionClosedError):
        await connection.send(b"{}")


async def test_a_fake_connection_keeps_what_the_server_sent_and_how_it_closed():
    connection = FakeConnection()
    await connection.send(b'{"type":"welcome"}')
    assert await connection.answer() == {"type": "welcome"}
    await connection.aclose(4401, "who are you?")
    await connection.aclose(1000)
    assert connection.sent == [{"type": "welcome"}]
    assert connection.closed_with == (4401, "who are you?")
    for use in (connection.receive, connection.answer, lambda: connection.send(b"{}")):
        with pytest.raises(ConnectionClosedError) as closed:
            await use()
        assert closed.value.close_code == 4401


async def test_a_cancelled_receive_loses_nothing():
    connection = FakeConnection()
    with trio.move_on_after(0):
        await connection.receive()
    connection.feed("one")
    assert await connection.receive() == "one"


async def test_closing_wakes_who_waits_for_a_message():
    connection = FakeConnection()

    async def wait():
        with pytest.raises(ConnectionClosedError):
            await connection.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await connection.aclose()


async def test_a_recording_reporter_fails_as_it_is_told_and_remembers_the_rest():
    reporter, run = RecordingReporter(failures=[Permanent("no")]), recorded_run([])
    with pytest.raises(Permanent):
        await reporter.run_started(run)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reporter.called, 2)
        await reporter.run_started(run)
        await reporter.events(run.all_events)
    assert reporter.calls == [("run_started", "run-1"), ("events", [1, 2, 3])]


async def test_a_plugins_tasks_and_threads_run(nursery, tmp_path):
    context = plugin_context(nursery, folder=tmp_path)
    ran = trio.Event()

    async def job():
        ran.set()

    context.spawn(job, name="a task")
    await ran.wait()
    assert await context.in_thread(lambda: 1 + 1) == 2
    assert (context.folder, context.read_only) == (tmp_path, False)
