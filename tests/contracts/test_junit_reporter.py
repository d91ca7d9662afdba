"""The JUnit reporter keeps the contracts of reporters and of renderers."""

from testorch_core.testing import RendererContract
from testorch_plugins.reporters.junit.options import JunitOptions
from testorch_plugins.reporters.junit.plugin import JunitReporter


class TestJunitReporter(RendererContract):
    def make_plugin(self):
        return JunitReporter("junit", JunitOptions(directory="reports"))

    def effects(self, folder):
        return {path.name: path.read_bytes() for path in (folder / "reports").iterdir()}
