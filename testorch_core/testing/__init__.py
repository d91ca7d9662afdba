"""What plugin authors import into their tests: contracts to hold a plugin to, fakes, and runs to report. Nothing of the
core imports this package; it needs `pytest` and `pytest-trio`, which testorch itself does not.

A contract is a class of tests. Subclass it under a name that pytest collects, and make the plugin:

    from testorch_core.testing import EventStoreContract

    class TestMyStore(EventStoreContract):
        reopens = True

        def make_plugin(self):
            return MyStore("mine", MyOptions(path="store.db"))

Nothing has to be configured: the contracts carry pytest-trio's mark themselves, so every test in such a subclass is an
`async def`. The contracts' own names don't begin with `Test`, so importing them collects nothing.
"""

from testorch_core.testing.contracts.lifecycle import PluginContract
from testorch_core.testing.contracts.reporter import RendererContract, ReporterContract
from testorch_core.testing.contracts.security import SecurityPolicyContract
from testorch_core.testing.contracts.storage import EventStoreContract
from testorch_core.testing.fakes import FakeConnection, RecordingReporter, plugin_context
from testorch_core.testing.runs import RecordedRun, recorded_run

__all__ = [
    "EventStoreContract",
    "FakeConnection",
    "PluginContract",
    "RecordedRun",
    "RecordingReporter",
    "RendererContract",
    "ReporterContract",
    "SecurityPolicyContract",
    "plugin_context",
    "recorded_run",
]
