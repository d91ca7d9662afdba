"""Whether the files that were opened still stand at their paths: one that was removed takes writes all the same."""

from __future__ import annotations

import os
from pathlib import Path

from testorch_core.errors import StorageFailedError

_SUFFIXES = ("", "-wal", "-shm")


class Place:
    """Knows the database and its companions by device and inode, as SQLite itself does, and asks by path.

    Made while a connection in WAL mode is open, because only then all three are there. By path only: opening and closing
    the database here would drop SQLite's locks. A question costs some 5 µs.
    """

    def __init__(self, path: Path) -> None:
        paths = (f"{path}{suffix}" for suffix in _SUFFIXES)
        self._known = {path: _identity(path) for path in paths}

    def require(self) -> None:
        """Raises `StorageFailedError` unless every file is where it was. One that is put back is as good as before."""
        for path, known in self._known.items():
            if _identity(path) != known:
                name = os.path.basename(path)
                raise StorageFailedError(
                    f"`{name}` was removed or replaced under the running server; put it back, or restart the server"
                )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
