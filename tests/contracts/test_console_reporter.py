"""The console reporter keeps the contract of reporters, in a pipe and in a terminal."""

import pytest

from testorch_core.testing import ReporterContract
from testorch_plugins.reporters.console.options import ConsoleOptions
from testorch_plugins.reporters.console.plugin import ConsoleReporter


@pytest.mark.parametrize("live", ["never", "always"])
class TestConsoleReporter(ReporterContract):
    @pytest.fixture(autouse=True)
    def _setting(self, live):
        self.live = live

    def make_plugin(self):
        return ConsoleReporter("console", ConsoleOptions(live=self.live, show="all"))
