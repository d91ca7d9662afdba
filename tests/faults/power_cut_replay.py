"""The power-cut harness: records a process under strace, cuts its power at many points, and looks at what is left."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import trio
from faults.hosted_store import DATABASE, hosted_store
from faults.power_cut_disk import FailedSync, Image, Operation, Sync, Told, Write, replay
from faults.power_cut_recording import operations_of, strace_command

from testorch_core.errors import OpeningError
from testorch_plugins.storage.sqlite.plugin import SqliteStore

WAL = f"{DATABASE}-wal"


@cache
def why_no_strace() -> str | None:
    """Why system calls can't be recorded here, or None if they can."""
    if shutil.which("strace") is None:
        return "needs strace"
    with tempfile.TemporaryDirectory() as folder:
        command = [*strace_command(Path(folder) / "record"), "true"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return None if ended.returncode == 0 else f"strace is not permitted here: {ended.stderr.strip()[:200]}"


def require_strace() -> None:
    reason = why_no_strace()
    if reason is not None:
        pytest.skip(reason)


@dataclass(frozen=True, slots=True)
class Record:
    """What a process did to the files of its folder, and what it told."""

    operations: list[Operation]

    def told_before(self, cut: int) -> list[bytes]:
        return [one.text for one in self.operations[:cut] if isinstance(one, Told)]

    @property
    def checkpoints(self) -> int:
        """How often the database file was written and synced."""
        return sum(isinstance(one, Sync) and one.name == DATABASE for one in self.operations)

    @property
    def failed_syncs(self) -> int:
        return sum(isinstance(one, FailedSync) for one in self.operations)

    @property
    def wal_restarts(self) -> int:
        """How often the WAL was begun anew from its start."""
        starts = [one for one in self.operations if isinstance(one, Write) and one.name == WAL and one.offset == 0]
        return max(0, len(starts) - 1)

    def cuts(self, chance: random.Random, *, at_most: int | None) -> list[int]:
        """Where to cut: before and after every operation; or a sample, in which what was told weighs most."""
        every = range(len(self.operations) + 1)
        if at_most is None or at_most >= len(every):
            return list(every)
        telling = [at + 1 for at, one in enumerate(self.operations) if isinstance(one, Told)]
        syncing = [at for at, one in enumerate(self.operations) if isinstance(one, Sync)]
        chosen: set[int] = set()
        for some, share in ((telling, at_most // 3), (syncing, at_most // 3)):
            chosen |= set(chance.sample(some, min(share, len(some))))
        rest = [at for at in every if at not in chosen]
        return sorted(chosen | set(chance.sample(rest, at_most - len(chosen))))


def read_record(path: Path, folder: Path, *, told: Callable[[bytes], Sequence[bytes]]) -> Record:
    with path.open(encoding="ascii") as lines:
        return Record(operations_of(lines, folder.resolve(), told=told))


Check = Callable[[SqliteStore, list[bytes]], Awaitable[None]]
"""Looks at an opened image, knowing what had been told before the cut; asserts."""


async def check_cuts(
    record: Record, check: Check, *, seed: int, at_most: int | None, shuffled: int, gives_up: bool = False
) -> int:
    """Open what each cut leaves and check it; returns how many different images there were. `gives_up` as in `Disk`.

    Raises `AssertionError`, naming the cut and the image, for one that is wrong.
    """
    chance = random.Random(seed)
    seen: set[bytes] = set()
    with tempfile.TemporaryDirectory(dir=_memory()) as scratch:
        for cut, disk in replay(record.operations, record.cuts(chance, at_most=at_most), gives_up=gives_up):
            told = record.told_before(cut)
            for name, image in disk.images(chance, shuffled=shuffled):
                look = _digest(image, len(told))
                if look not in seen:
                    seen.add(look)
                    where = f"cut {cut} of {len(record.operations)} (seed {seed}), {name}, {len(told)} told"
                    await _check_image(image, check, told, folder=Path(scratch) / "image", where=where)
    return len(seen)


def _memory() -> str | None:
    """Where syncing costs nothing: images are opened by the hundred, and their own power is not cut."""
    place = "/dev/shm"
    return place if os.access(place, os.W_OK) else None


def _digest(image: Image, told: int) -> bytes:
    digest = hashlib.blake2b(str(told).encode())
    for name in sorted(image):
        digest.update(name.encode() + b"\0" + len(image[name]).to_bytes(8, "big") + image[name])
    return digest.digest()


async def _check_image(image: Image, check: Check, told: list[bytes], *, folder: Path, where: str) -> None:
    _lay_out(image, folder)
    try:
        with trio.fail_after(30):
            await open_and_check(folder, check, told)
    except Exception as failure:  # whatever it is, somebody wants to know which image it was
        raise AssertionError(f"{where}: {type(failure).__name__}: {failure}") from failure


def _lay_out(image: Image, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in image.items():
        (folder / name).write_bytes(content)


async def open_and_check(folder: Path, check: Check, told: list[bytes]) -> None:
    """Open what was left behind, and check it. A refusal may be no more than one line, and only if nothing was told."""
    refusal = ""
    try:
        async with hosted_store(folder) as store:
            assert await pragma(store, "integrity_check") == "ok"
            assert await pragma(store, "foreign_key_check") is None
            await check(store, told)
    except OpeningError as failure:
        refusal = str(failure)
    assert "\n" not in refusal
    assert not (refusal and told), f"what was told can't be read any more: {refusal}"


async def pragma(store: SqliteStore, name: str) -> object:
    return await store.reading(lambda connection: connection.exec_driver_sql(f"PRAGMA {name}").scalar())
