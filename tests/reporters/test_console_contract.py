"""The console reporter keeps the contract of reporters, as lines and live."""

from __future__ import annotations

import io

import pytest

from testorch_core.testing import ReporterContract
from testorch_plugins.reporters.console.options import ConsoleOptions
from testorch_plugins.reporters.console.plugin import ConsoleReporter


@pytest.mark.parametrize("live", ["never", "always"])
class TestConsoleReporter(ReporterContract):
    @pytest.fixture(autouse=True)
    def _setting(self, live: str) -> None:
        self.live = live

    def make_plugin(self) -> ConsoleReporter:
        return ConsoleReporter(
            "console", ConsoleOptions(live=self.live, show="all"), open_file=lambda name: io.StringIO()
        )
