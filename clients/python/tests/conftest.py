"""Fixtures: a fake server on a real socket, and pytest sessions in processes of their own."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "RUN_ID", "KEY", "PROJECT", "NAME", "TOKEN"):
        monkeypatch.delenv(f"TESTORCH_{name}", raising=False)


@pytest.fixture
def silent_socket() -> Iterator[str]:
    """The address of a socket that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
