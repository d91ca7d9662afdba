"""Two machines and a cable between them, made of network namespaces; on Linux, for root."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.crew import Work
from benchmarks.failures import FailedRunError
from benchmarks.streams import now

NEAR, FAR = "10.213.7.1", "10.213.7.2"
START_SECONDS = 10.0
TOOLS = ("unshare", "nsenter", "ip")


@dataclass(frozen=True)
class Machines:
    """The processes that hold the two namespaces."""

    near: int
    far: int

    def unplug(self) -> None:
        """From now on no packet passes, and nobody is told."""
        _run([*entering(self.far), "ip", "link", "set", "far", "down"])


def entering(pid: int) -> list[str]:
    """What a command is prefixed with to run in a namespace."""
    return ["nsenter", "-t", str(pid), "-n"]


def within(pid: int, work: Work) -> Work:
    """The same work, in a namespace."""
    return partial(_work_within, pid, work)


def _work_within(pid: int, work: Work, pipe: Connection) -> Iterator[Any]:
    # Python has `os.setns` from 3.12 on.
    library = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{pid}/ns/net").open() as namespace:
        if library.setns(namespace.fileno(), 0):
            raise FailedRunError(f"can't enter a network namespace: {os.strerror(ctypes.get_errno())}")
    yield from work(pipe)


@contextmanager
def two_machines() -> Iterator[Machines | None]:
    """Both, connected, as long as the block lasts; None where that is not allowed."""
    with ExitStack() as stack:
        yield _connected(stack)


def _connected(stack: ExitStack) -> Machines | None:
    if os.geteuid() != 0 or any(shutil.which(tool) is None for tool in TOOLS):
        return None
    try:
        near, far = (_namespace(stack) for _ in range(2))
        link = ["ip", "link", "add", "near", "netns", str(near), "type", "veth"]
        _run([*link, "peer", "name", "far", "netns", str(far)])
        for pid, name, address in ((near, "near", NEAR), (far, "far", FAR)):
            for words in (["link", "set", "lo", "up"], ["addr", "add", f"{address}/24", "dev", name]):
                _run([*entering(pid), "ip", *words])
            _run([*entering(pid), "ip", "link", "set", name, "up"])
    except (OSError, subprocess.CalledProcessError):  # a container may have root and not the right
        return None
    return Machines(near, far)


def _namespace(stack: ExitStack) -> int:
    """A process in a new namespace. Raises OSError where there may be none."""
    process = subprocess.Popen(["unshare", "-n", "sleep", "infinity"], stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    deadline = now() + START_SECONDS
    while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        if process.poll() is not None or now() > deadline:
            raise PermissionError("no network namespace")
    return process.pid


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)
