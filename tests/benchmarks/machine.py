"""The machine that the numbers are from."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import subprocess
import time
from pathlib import Path


def describe(folder: Path) -> dict[str, str]:
    """CPU, cores, versions, and the file system of the folder that holds the databases."""
    return {
        "CPU": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB",
        "kernel": platform.release(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "SQLite of Python": sqlite3.sqlite_version,
        "Node.js": _node_version(),
        "file system": _file_system(folder),
        "write + fdatasync of 4 KiB": f"{_sync_ms(folder):.2f} ms (median of 50)",
        "load average before": load_average(),
    }


def load_average() -> str:
    """Of the last minute. Beforehand it should be near zero: whatever else runs is in the numbers."""
    return f"{os.getloadavg()[0]:.2f}"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _node_version() -> str:
    try:
        return subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _file_system(folder: Path) -> str:
    """The type of the file system; a database in memory (tmpfs) would make every commit look free."""
    place, kind = "", "?"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, type_, *_ = line.split()
        inside = folder.resolve().is_relative_to(mounted.replace("\\040", " "))
        if inside and len(mounted) >= len(place):
            place, kind = mounted, type_
    return f"{kind} (in memory: nothing here is durable)" if kind == "tmpfs" else kind


def _sync_ms(folder: Path) -> float:
    path = folder / "sync-probe"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(50):
            before = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - before)
    path.unlink()
    return statistics.median(taken) * 1000
