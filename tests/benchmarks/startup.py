"""From the command to listening, on a new and on an existing database; and `testorch --help`."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.failures import require_equal
from benchmarks.lab import Lab

NAME = "start-up"
TIMES = 7
QUICK_TIMES = 3


def measure(lab: Lab) -> None:
    times = QUICK_TIMES if lab.settings.quick else TIMES
    for _ in range(times):
        with lab.ours() as server:
            lab.report.row(NAME, "serve, new database, to listening", server.name).add({"s": server.started_seconds})
            server.stop()
            lab.report.row(NAME, "serve, existing database, to listening", server.name).add({"s": server.start()})
        lab.report.row(NAME, "testorch --help", server.name).add({"s": _help_seconds()})


def _help_seconds() -> float:
    before = time.perf_counter()
    ended = subprocess.run([sys.executable, "-m", "testorch_core.cli", "--help"], capture_output=True, check=False)
    taken = time.perf_counter() - before
    require_equal("exit code of --help", ended.returncode, 0)
    return taken
