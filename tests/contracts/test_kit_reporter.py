"""The kit's own reporter keeps the contract that it helps to test."""

from testorch_core.testing import RecordingReporter, ReporterContract


class TestRecordingReporter(ReporterContract):
    def make_plugin(self):
        return RecordingReporter()
