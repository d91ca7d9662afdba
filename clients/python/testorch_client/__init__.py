"""A client for testorch that never fails, slows or hangs the test suite it reports on.

Nothing is imported here: pytest imports this package in every run of an environment that has it, wanted or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testorch_client.client import Client as Client
    from testorch_client.delivery import Delivery as Delivery
    from testorch_client.receipt import Receipt as Receipt

__version__ = "0.1.0"
__all__ = ["Client", "Delivery", "Receipt", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Client`, `Delivery` and `Receipt` at their first use (PEP 562)."""
    if name == "Client":
        from testorch_client.client import Client

        return Client
    if name == "Delivery":
        from testorch_client.delivery import Delivery

        return Delivery
    if name == "Receipt":
        from testorch_client.receipt import Receipt

        return Receipt
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
