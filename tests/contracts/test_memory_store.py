"""The memory store keeps the contract of stores."""

from testorch_core.options import Options
from testorch_core.testing import EventStoreContract
from testorch_plugins.storage.memory.plugin import MemoryStore


class TestMemoryStore(EventStoreContract):
    def make_plugin(self):
        return MemoryStore("memory", Options())
