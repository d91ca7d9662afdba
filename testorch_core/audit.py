"""The audit trail: who came in, who was turned away, and what administrators did, as events in a project of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
import trio

from testorch_core.events import AUDIT_REFUSAL

GATHER_SECONDS: Final = 1.0
MAX_WAITING: Final = 1_000

Write = Callable[[str, Mapping[str, Any]], Awaitable[None]]


class Audit:
    """Gathers what is to be noted, and writes it a second later; what repeats meanwhile is one event with a count.

    So a flood of refusals can't become a flood of events. Different ones beyond `MAX_WAITING` in a second are only counted.
    """

    def __init__(self, write: Write, *, enabled: bool) -> None:
        self._write = write
        self._enabled = enabled
        self._waiting: dict[bytes, tuple[str, dict[str, Any]]] = {}
        self._beyond = 0
        self._noted = trio.Event()

    def note(self, kind: str, **facts: Any) -> None:
        """Have something written. Facts hold no contents and no secrets; what is None is left out."""
        if not self._enabled:
            return
        known = {key: value for key, value in facts.items() if value is not None}
        key = orjson.dumps([kind, known])
        if key in self._waiting:
            self._waiting[key][1]["times"] += 1
        elif len(self._waiting) < MAX_WAITING:
            self._waiting[key] = kind, {**known, "times": 1}
        else:
            self._beyond += 1
        self._noted.set()

    async def run(self) -> None:
        """Write what is noted, until cancelled; `flush` writes the rest."""
        while True:
            await self._noted.wait()
            await trio.sleep(GATHER_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what is waiting."""
        self._noted = trio.Event()
        waiting, self._waiting = self._waiting, {}
        beyond, self._beyond = self._beyond, 0
        for kind, facts in waiting.values():
            await self._write(kind, facts)
        if beyond:
            await self._write(AUDIT_REFUSAL, {"code": "more", "times": beyond})
