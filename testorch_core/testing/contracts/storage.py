"""The contract of every store: all that `testorch_core.interfaces.storage` says, as tests."""

from __future__ import annotations

from testorch_core.interfaces.storage import EventStore
from testorch_core.testing.contracts.store_case import StoreCase
from testorch_core.testing.contracts.store_hostile import HostilePromises
from testorch_core.testing.contracts.store_locking import LockingPromises
from testorch_core.testing.contracts.store_log import LogPromises
from testorch_core.testing.contracts.store_model import ModelPromises
from testorch_core.testing.contracts.store_queries import QueryPromises
from testorch_core.testing.contracts.store_upkeep import UpkeepPromises


class EventStoreContract(
    LogPromises, QueryPromises, UpkeepPromises, LockingPromises, HostilePromises, ModelPromises, StoreCase
):
    """Subclass it and override `make_plugin`: a store that is empty when it is first opened in a test.

    Set `reopens` where a store made by `make_plugin` finds what one that was closed before has stored: then the tests of
    restarts count too. Two tests may run at once against one server, so a store over a shared one needs a database, or a
    schema, of its own for every test.
    """

    def make_plugin(self) -> EventStore:
        raise NotImplementedError("a contract needs `make_plugin`")
