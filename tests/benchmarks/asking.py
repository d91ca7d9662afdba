"""Timing single requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.client import Client
from benchmarks.failures import FailedRunError, NotSupportedError
from benchmarks.numbers import percentile

NOTHING = "nothing"
"""A message that no server knows: its refusal is the round trip that does nothing, through every layer of a session."""


def round_trips_ms(client: Client, kind: str, payloads: Iterable[Any]) -> list[float]:
    """How long each request took until its answer had arrived, unparsed."""
    taken = []
    for payload in payloads:
        before = time.perf_counter()
        client.send(kind, payload, id=1)
        raw = client.receive()
        taken.append((time.perf_counter() - before) * 1000)
        _check(kind, raw)
    return taken


def _check(kind: str, raw: bytes) -> None:
    message = json.loads(raw)
    if message["type"] != "error" or kind == NOTHING:
        return
    if message["payload"]["code"] == "unknown_type":
        raise NotSupportedError(f"the server doesn't know `{kind}` yet")
    raise FailedRunError(f"`{kind}` was refused: {message['payload']}")


def server_ms(taken: Sequence[float], nothing: Sequence[float]) -> dict[str, float]:
    """The part of round trips that is the query's own: less the median of those that do nothing."""
    trivial = percentile(sorted(nothing), 50)
    ordered = sorted(taken)
    own = {f"p{percent} ms": max(0.0, percentile(ordered, percent) - trivial) for percent in (50, 99)}
    return {**own, "trivial round trip ms": trivial}
