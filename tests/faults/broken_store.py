"""A store that is broken on purpose, brought to a server as anybody's plugin is: by a distribution with an entry point."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CONFIGURATION = """
[storage]
use = "broken"
[transports.w]
use = "websocket"
port = 0
"""


def install_broken_store(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> list[str]:
    """Install the class `BrokenStore` of this source; returns the arguments with which `testorch serve` uses it."""
    site = folder / "site"
    information = site / "broken_store-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "broken_store.py").write_text(source)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-store\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[testorch.storage]\nbroken = broken_store:BrokenStore\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    (folder / "broken.toml").write_text(CONFIGURATION)
    return ["--config", str(folder / "broken.toml")]
