"""The lock file that keeps a second server away from a database. Held by the kernel, so a crash can't leave it behind."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from testorch_core.errors import InUseError, OpeningError

MAX_BYTES = 4096


class FileLock:
    """An exclusive lock on a file beside the database (never on the database: closing it would drop SQLite's own locks)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises `InUseError`, naming the process that holds it, with the word that it has left."""
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as failure:
            raise OpeningError(f"the lock file `{self._path}` can't be made: {failure.strerror}") from failure
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder, _, word = os.pread(handle, MAX_BYTES, 0).decode("ascii", "replace").partition("\n")
            os.close(handle)
            database = self._path.with_suffix("")
            words = f"`{database}` is in use by another testorch server (process {holder.strip() or 'unknown'})"
            raise InUseError(words, word.strip() or None) from None
        os.ftruncate(handle, 0)
        os.fchmod(handle, 0o600)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._handle = handle

    def leave_word(self, word: str) -> None:
        """Write a line for who finds the lock taken."""
        if self._handle is not None:
            own = f"{os.getpid()}\n"
            os.ftruncate(self._handle, len(own))
            os.pwrite(self._handle, f"{word}\n".encode(), len(own))

    def release(self) -> None:
        """Give the lock back. Works twice. The file stays: removing it could take it from under another process."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
