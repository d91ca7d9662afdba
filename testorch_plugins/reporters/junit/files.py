"""Files that are there as a whole or not at all. Blocking: call in a thread."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import BinaryIO, Final

MAX_SLUG_CHARACTERS: Final = 60
_DIGEST_CHARACTERS: Final = 10


def file_name(project: str, run_id: str, name: str | None) -> str:
    """A run's file: a slug for people, and a hash that keeps apart what the slug, or a file system, makes equal."""
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", name or run_id)[:MAX_SLUG_CHARACTERS].strip("-.") or "run"
    digest = hashlib.sha256(f"{project}\0{run_id}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{slug}-{digest[:_DIGEST_CHARACTERS]}.xml"


class AtomicFile:
    """Takes a file's new contents beside it; `commit` puts them in its place, `discard` forgets them.

    A crash between leaves a hidden `.tmp` file beside the old contents.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = open(self._temporary, "wb")  # noqa: SIM115 - lives until `commit` or `discard`

    def write(self, piece: bytes) -> None:
        self._file.write(piece)

    def commit(self) -> None:
        """Make the contents durable, then visible, then durably visible."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._path)
        _sync_folder(self._path.parent)

    def discard(self) -> None:
        """Remove what isn't committed. Works twice, and after `commit`; raises nothing."""
        with contextlib.suppress(OSError):  # closing flushes, which may fail as the write before it did
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders can't be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
