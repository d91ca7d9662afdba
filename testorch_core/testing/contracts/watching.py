"""Watches what Python does on behalf of a piece of code, through its audit events: how purity is tested."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

IMPURE = ("open", "os.", "socket.", "sqlite3.", "subprocess.", "shutil.", "tempfile.", "_thread.start_new_thread")
"""Audit events (or their beginnings) that tell of I/O or of a new thread."""


class _Watch:
    """The one audit hook of the process, which can't be taken away again; it only looks while somebody watches."""

    def __init__(self) -> None:
        self.seen: list[str] | None = None
        self.thread: int | None = None
        self.is_installed = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is not None and self.thread == threading.get_ident() and event.startswith(IMPURE):
            self.seen.append(f"{event}{arguments!r}")


_watch = _Watch()


@contextmanager
def impurities() -> Iterator[list[str]]:
    """A list that fills with the I/O done, and the threads started, by the calling thread in the meantime."""
    if not _watch.is_installed:
        sys.addaudithook(_watch.hook)
        _watch.is_installed = True
    seen: list[str] = []
    _watch.seen, _watch.thread = seen, threading.get_ident()
    try:
        yield seen
    finally:
        _watch.seen = None
