"""What a process takes of the machine, and what was wrong after an attack, in words."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from faults.attack_kit import Outcome

SAMPLES, SAMPLE_SECONDS = 5, 0.02
POLL_SECONDS = 0.05

_DATABASE: Final = "testorch.db"
TROUBLE: Final = re.compile(r"Traceback|internal_error|plugin_failed|level=(error|critical)")


@dataclass(frozen=True, slots=True)
class Taken:
    """What a process has."""

    descriptors: int
    resident_bytes: int


def taken(pid: int) -> Taken:
    """The least of some moments, between which newcomers come and go."""
    found = []
    for _ in range(SAMPLES):
        found.append(_descriptors(pid))
        time.sleep(SAMPLE_SECONDS)
    return Taken(min(found), _status_bytes(pid, "VmRSS"))


def forget_peak(pid: int) -> None:
    """Have the peak of memory begin here."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def kept(pid: int, before: Taken, kept_bytes: int, seconds: float) -> Iterator[str]:
    """Waits so many seconds for what was taken to come back."""
    deadline = time.monotonic() + seconds
    while (now := _descriptors(pid)) > before.descriptors and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if now > before.descriptors:
        yield f"{now - before.descriptors} descriptors have not come back"
    while (grown := _status_bytes(pid, "VmRSS") - before.resident_bytes) > kept_bytes and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if grown > kept_bytes:
        yield f"the server has kept {grown / 1e6:.0f} MB"


def peaked(pid: int, before: Taken, peak_bytes: int) -> Iterator[str]:
    """Whether it took too much in between."""
    grown = _status_bytes(pid, "VmHWM") - before.resident_bytes
    if grown > peak_bytes:
        yield f"the server took {grown / 1e6:.0f} MB, and may take {peak_bytes / 1e6:.0f}"


def wrong_answers(outcomes: Counter[Outcome]) -> Iterator[str]:
    for (label, answer, allowed), times in outcomes.items():
        if answer not in allowed:
            yield f"{label}: answered {times} times with `{answer}`, not {' or '.join(f'`{one}`' for one in allowed)}"


def wrong_lines(said: str, most: int) -> Iterator[str]:
    """One line for each bad connection, and none that looks like a defect."""
    lines = said.splitlines()
    if len(lines) > most:
        yield f"{len(lines)} lines of log for {most} bad connections, the last: {lines[-1]}"
    yield from (f"the log says: {line[:2000]}" for line in lines[:10_000] if TROUBLE.search(line))


def _descriptors(pid: int) -> int:
    """All but those of the database: a store opens another connection for its readers when it first needs one."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # it was closed in this moment
            found += _DATABASE not in os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def _status_bytes(pid: int, what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None, f"the process has no {what}"
    return int(found[1]) * 1024
