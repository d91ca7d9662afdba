"""The pytest plugin: off unless it is given an address, and never in the way of the suite.

Imported in every pytest run of an environment that has it: nothing but what pytest itself has loaded is imported
before the plugin is known to be on.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testorch_client.client import Client
    from testorch_client.live_output import LiveOutput
    from testorch_client.recorder import Recorder

PLUGIN_NAME = "testorch-session"
LIVE_OUTPUT_NAME = "testorch-live-output"
# A session that ends without `pytest_sessionfinish` has crashed; nobody wants to wait for its report.
UNFINISHED_DEADLINE_SECONDS = 2.0


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("testorch", "report to a testorch server")
    group.addoption("--testorch", metavar="URL", help="address of the server, ws://… or wss://… (TESTORCH_URL)")
    group.addoption("--testorch-run-id", metavar="ID", help="open or join the run of this id (TESTORCH_RUN_ID)")
    group.addoption("--testorch-key", metavar="KEY", help="join the run of this key: shards (TESTORCH_KEY)")
    group.addoption("--testorch-project", metavar="NAME", help="the run's project (TESTORCH_PROJECT)")
    group.addoption("--testorch-name", metavar="NAME", help="the run's name (TESTORCH_NAME)")


def pytest_configure(config: pytest.Config) -> None:
    url = _setting(config, "testorch", "TESTORCH_URL")
    if url and _is_reporting_process(config):
        config.pluginmanager.register(SessionReporter(config, url), PLUGIN_NAME)


def _setting(config: pytest.Config, option: str, variable: str) -> str | None:
    """The option, else the environment's variable, else None; empty is None."""
    return config.getoption(option, None) or os.environ.get(variable) or None


def _is_reporting_process(config: pytest.Config) -> bool:
    """Only the process that knows the whole session reports, and only a session that runs tests."""
    if hasattr(config, "workerinput"):
        return False  # an xdist worker: its controller reports
    if config.getoption("collectonly", False):
        return False
    # pytest has set this in the environment if a test runs it: that inner session isn't part of the run. Whoever
    # wants it reported asks with the option.
    return bool(config.getoption("testorch", None)) or "PYTEST_CURRENT_TEST" not in os.environ


class SessionReporter:
    """Reports one session. Any exception in here turns it off, with a line in the summary; the suite goes on.

    Hooks in forked children do nothing. Each hook has its own guard, rather than a decorator, since pluggy reads
    their signatures, and since they are what a test pays for.
    """

    def __init__(self, config: pytest.Config, url: str) -> None:
        self._config = config
        self._url = url
        self._pid = os.getpid()
        self._client: Client | None = None
        self._recorder: Recorder | None = None
        self._live_output: LiveOutput | None = None
        self._has_workers = False
        self._line: str | None = None

    # The session

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        try:
            self._start()
        except Exception as error:
            self._turn_off(error)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._plan(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._plan(len(ids))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        recorder = self._recorder
        if recorder is None or report.outcome == "passed" or os.getpid() != self._pid:
            return
        try:
            recorder.collected(report)
        except Exception as error:
            self._turn_off(error)

    def pytest_internalerror(self, excrepr: object) -> None:
        recorder = self._recorder
        if recorder is None or os.getpid() != self._pid:
            return
        try:
            recorder.internal_error(excrepr)
        except Exception as error:
            self._turn_off(error)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        # Last, and within the terminal's own hook: other plugins have said what they had to say.
        self._finish(None)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        line, self._line = self._line, None
        if line is not None and os.getpid() == self._pid:
            terminalreporter.write_line(line)

    def pytest_unconfigure(self) -> None:
        self._finish(UNFINISHED_DEADLINE_SECONDS)
        # After an internal error or `pytest.exit` with a status of its own, pytest prints no summary.
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            self.pytest_terminal_summary(terminal)

    # Tests

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        recorder = self._recorder
        if recorder is None or os.getpid() != self._pid:
            return
        try:
            recorder.start(nodeid, location, self._worker_of_replay())
        except Exception as error:
            self._turn_off(error)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        recorder = self._recorder
        if recorder is None or os.getpid() != self._pid:
            return
        try:
            recorder.report(report, self._worker_of_report(report))
        except Exception as error:
            self._turn_off(error)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        recorder = self._recorder
        if recorder is None or os.getpid() != self._pid:
            return
        try:
            recorder.finish(nodeid, self._worker_of_replay())
        except Exception as error:
            self._turn_off(error)

    # Behind the hooks

    def _start(self) -> None:
        import time

        from testorch_client.client import Client
        from testorch_client.recorder import Recorder

        config = self._config
        distribution = config.getoption("dist", "no")
        self._has_workers = distribution != "no"
        self._client = Client(
            self._url, token=os.environ.get("TESTORCH_TOKEN") or None, before_sending=self._look_at_output
        )
        self._client.start_run(
            run_id=_setting(config, "testorch_run_id", "TESTORCH_RUN_ID"),
            name=_setting(config, "testorch_name", "TESTORCH_NAME") or config.rootpath.name,
            key=_setting(config, "testorch_key", "TESTORCH_KEY"),
            project=_setting(config, "testorch_project", "TESTORCH_PROJECT"),
            # Nothing of the environment or the command line: they hold secrets.
            metadata={
                "framework": "pytest",
                "frameworkVersion": pytest.__version__,
                "pythonVersion": ".".join(map(str, sys.version_info[:3])),
                "platform": sys.platform,
            },
        )
        self._recorder = Recorder(
            self._client.emit,
            root=str(config.rootpath),
            clock=time.time,
            is_per_worker=distribution == "each",
            has_groups=distribution == "loadgroup",
        )
        if not self._has_workers:  # what workers capture comes here with their reports
            self._start_live_output(self._recorder)

    def _start_live_output(self, recorder: Recorder) -> None:
        import time

        from testorch_client.captured import open_capture
        from testorch_client.live_output import LiveOutput

        capture = open_capture(self._config)
        if capture is not None:
            live_output = LiveOutput(capture, recorder, monotonic=time.monotonic)
            self._config.pluginmanager.register(live_output, LIVE_OUTPUT_NAME)
            self._live_output = live_output

    def _look_at_output(self) -> None:
        live_output = self._live_output
        if live_output is not None:
            live_output.look()

    def _plan(self, total: int) -> None:
        recorder = self._recorder
        if recorder is None or os.getpid() != self._pid:
            return
        try:
            recorder.plan(total)
        except Exception as error:
            self._turn_off(error)

    def _worker_of_replay(self) -> str | None:
        if not self._has_workers:
            return None
        from testorch_client.workers import worker_of_replay

        return worker_of_replay()

    def _worker_of_report(self, report: pytest.TestReport) -> str | None:
        if not self._has_workers:
            return None
        from testorch_client.workers import worker_of_report

        return worker_of_report(report)

    def _finish(self, deadline_seconds: float | None) -> None:
        client, recorder = self._client, self._recorder
        if client is None or recorder is None or os.getpid() != self._pid:
            return
        self._client = self._recorder = None
        try:
            from testorch_client.client import DEFAULT_DEADLINE_SECONDS
            from testorch_client.summary import summary_line

            recorder.end_session()
            client.end_run()
            delivery = client.close(DEFAULT_DEADLINE_SECONDS if deadline_seconds is None else deadline_seconds)
            self._stop_live_output()
            self._line = summary_line(delivery, tests=recorder.ended)
        except Exception as error:
            self._turn_off(error, client)

    def _turn_off(self, error: Exception, client: Client | None = None) -> None:
        """Report nothing more, and give up what isn't confirmed: a run that isn't whole shouldn't end as if it were."""
        client = client or self._client
        self._client = self._recorder = None
        self._line = f"testorch: turned off by an error of its own, `{type(error).__name__}`: {error}"
        if client is not None:
            client.close(0)
        self._stop_live_output()

    def _stop_live_output(self) -> None:
        live_output, self._live_output = self._live_output, None
        if live_output is not None:
            live_output.close()
