"""The SQLite store keeps the contract of stores, on a real file."""

from testorch_core.testing import EventStoreContract
from testorch_plugins.storage.sqlite.options import SqliteOptions
from testorch_plugins.storage.sqlite.plugin import SqliteStore


class TestSqliteStore(EventStoreContract):
    reopens = True

    def make_plugin(self):
        return SqliteStore("sqlite", SqliteOptions(path="store.db"))
