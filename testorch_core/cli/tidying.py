"""Giving memory back after connections have ended: what they leave in cycles, and what the allocator keeps."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

TIDY_SECONDS: Final = 5.0


async def tidy(ended: Callable[[], int]) -> None:
    """Until cancelled: tidy up whenever more connections have ended than when it was last done.

    The collector runs so seldom in this process that it would let what they leave lie for minutes; its youngest generation,
    where nearly all of that is, takes milliseconds, while the next one may hold ten thousand connections. And glibc gives
    memory back from the end of its heap only, unless it is told.
    """
    trim = _trimmer()
    seen = 0
    while True:
        await trio.sleep(TIDY_SECONDS)
        now = ended()
        if now != seen:
            seen = now
            gc.collect(0)
            await trio.to_thread.run_sync(trim)


def _trimmer() -> Callable[[], object]:
    """glibc's `malloc_trim`, which releases free pages wherever they are; nothing where there is none."""
    with suppress(OSError, AttributeError):
        release = ctypes.CDLL(None).malloc_trim
        release.argtypes = [ctypes.c_size_t]
        return lambda: release(0)
    return lambda: None
