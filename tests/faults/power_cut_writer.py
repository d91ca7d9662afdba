"""A process that appends commits and says after each that it is safe. Run by the power-cut harness under strace.

python power_cut_writer.py FOLDER SEED COUNT [breakage …]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio
from faults.hosted_store import hosted_store
from faults.power_cut_commits import commits

from testorch_core.errors import StorageFailedError, StoreError
from testorch_core.interfaces.storage import Commit, EventStore
from testorch_plugins.storage.sqlite import plugin

EARLY = "tells-before-the-commit"
SYNCHRONOUS_OFF = "synchronous-off"
SYNCHRONOUS_NORMAL = "synchronous-normal"
SWALLOWS = "takes-failures-for-success"
TRIES = 20
SMALL_WAL = "small-wal"
"""Not a breakage: checkpoints come so often that a short record holds many of them."""


def settle(ways: set[str]) -> None:
    """Change the store's settings; it must still have those that are changed."""
    pragmas = list(plugin.PRAGMAS)
    assert "synchronous=FULL" in pragmas
    if SYNCHRONOUS_OFF in ways:
        pragmas[pragmas.index("synchronous=FULL")] = "synchronous=OFF"
    if SYNCHRONOUS_NORMAL in ways:
        pragmas[pragmas.index("synchronous=FULL")] = "synchronous=NORMAL"
    if SMALL_WAL in ways:
        pragmas.append("wal_autocheckpoint=25")
    setattr(plugin, "PRAGMAS", tuple(pragmas))  # noqa: B010 - its type says how many there are


async def write(folder: Path, seed: int, count: int, ways: set[str]) -> None:
    async with hosted_store(folder) as store:
        for number, commit in enumerate(commits(seed, count), start=1):
            if EARLY in ways:
                tell(number)
            await append(store, commit, tries=1 if SWALLOWS in ways else TRIES)
            if EARLY not in ways:
                tell(number)


async def append(store: EventStore, commit: Commit, *, tries: int) -> None:
    """Try until it is taken, as a client does that is refused for now."""
    for left in reversed(range(tries)):
        try:
            await store.append(commit)
            return
        except StorageFailedError:
            assert left or tries == 1, f"refused {tries} times"
        except StoreError:
            assert tries == 1  # a store that took a failure for success is behind from then on


def tell(number: int) -> None:
    os.write(1, f"ack {number}\n".encode())  # one system call


def main() -> None:
    folder, seed, count, *ways = sys.argv[1:]
    settle(set(ways))
    trio.run(write, Path(folder), int(seed), int(count), set(ways))


if __name__ == "__main__":
    main()
