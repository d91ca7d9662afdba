"""Which xdist worker a hook call is about, on the controller."""

from __future__ import annotations

import sys
from typing import Any

# xdist's methods that replay a worker's hooks; each has the worker in its argument `node`.
_REPLAYS = frozenset({"worker_logstart", "worker_logfinish"})
_MAX_FRAMES = 12


def worker_of_report(report: Any) -> str | None:
    """The worker that a report comes from; reports on crashes have the node alone."""
    worker_id = getattr(report, "worker_id", None)
    return worker_id if worker_id is not None else worker_of_node(getattr(report, "node", None))


def worker_of_node(node: Any) -> str | None:
    worker_id = getattr(getattr(node, "gateway", None), "id", None)
    return worker_id if isinstance(worker_id, str) else None


def worker_of_replay() -> str | None:
    """The worker whose `logstart` or `logfinish` is being replayed; None where it can't be told.

    xdist knows it but doesn't pass it on, so it is read from the caller's frame. A live page needs it at the start:
    what a worker runs is worth knowing while it runs. Nothing is changed, and nothing rests on it.
    """
    frame = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        if frame.f_code.co_name in _REPLAYS:
            return worker_of_node(frame.f_locals.get("node"))
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None
