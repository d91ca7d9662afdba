"""The lock file that keeps a second server away from a database. Held by the kernel, so a crash can't leave it behind."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from testorch_core.errors import OpeningError


class FileLock:
    """An exclusive lock on a file beside the database (never on the database: closing it would drop SQLite's own locks)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises `OpeningError`, naming the process that holds it."""
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as failure:
            raise OpeningError(f"the lock file `{self._path}` can't be made: {failure.strerror}") from failure
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            database = self._path.with_suffix("")
            raise OpeningError(f"`{database}` is in use by another testorch server (process {holder})") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._handle = handle

    def release(self) -> None:
        """Give the lock back. Works twice. The file stays: removing it could take it from under another process."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
