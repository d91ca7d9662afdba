"""The core of testorch: interfaces, the log's fold, delivery, and nothing that a plugin could do.

What is exported here is the public API. Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testorch_core.errors import ConfigurationError as ConfigurationError
    from testorch_core.errors import OpeningError as OpeningError
    from testorch_core.errors import TestorchError as TestorchError
    from testorch_core.integration import OrchestratorIntegration as OrchestratorIntegration
    from testorch_core.integration import create_orchestrator_integration as create_orchestrator_integration

_HOMES = {
    "ConfigurationError": "errors",
    "OpeningError": "errors",
    "OrchestratorIntegration": "integration",
    "TestorchError": "errors",
    "create_orchestrator_integration": "integration",
}

__all__ = [
    "ConfigurationError",
    "OpeningError",
    "OrchestratorIntegration",
    "TestorchError",
    "create_orchestrator_integration",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `testorch_core` has no attribute `{name}`")
    return getattr(import_module(f"testorch_core.{_HOMES[name]}"), name)
