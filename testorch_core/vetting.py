"""Whether an event may be stored: its envelope, its type, and what the policies say of its contents."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from testorch_core import events as ev
from testorch_core.decoding import flaw_in
from testorch_core.errors import Problem, Refusal, RefusedError
from testorch_core.events import WireEvent
from testorch_core.gate import Gate, invalid_event
from testorch_core.protocol import envelope_is_fine, envelope_problems

_CLIENTS_MAY_NOT = ev.SERVER_TYPES | ev.PRESENCE_TYPES


class Vetting:
    """The checks that every event passes. A `host` (an embedding server) may write presence events itself."""

    def __init__(self, gate: Gate, *, host: bool) -> None:
        self._gate = gate
        self._check = gate.check
        self._forbidden = ev.SERVER_TYPES if host else _CLIENTS_MAY_NOT

    def refusal_of(self, event: Any, *, suspicious: bool) -> Refusal | None:
        """Why an event may not be stored; None for a good one."""
        if suspicious or not envelope_is_fine(event):
            refusal = _outer_refusal(event, suspicious=suspicious)
            if refusal is not None:
                return refusal
        if event["type"] in self._forbidden:
            return invalid_event(event, [Problem("type", f"`{event['type']}` is written by the server alone")])
        return self._check(event)

    def vetted(self, event: Any, *, suspicious: bool) -> WireEvent:
        """The event as it is to be stored. Raises `RefusedError`."""
        refusal = self.refusal_of(event, suspicious=suspicious)
        if refusal is not None:
            raise RefusedError(refusal)
        return self._gate.amend(event)

    def shown(self, event: Any) -> Any:
        """What may be kept of a refused event: what the policies leave of it; nothing of one that they can't read."""
        if not self._gate.amends:
            return event
        return self._gate.amend(event) if envelope_is_fine(event) else None


def _outer_refusal(event: Any, *, suspicious: bool) -> Refusal | None:
    """What speaks against an event's envelope, or, if that is good, against storing what the event holds at all."""
    problems = envelope_problems(event)
    if problems:
        return invalid_event(event, problems)
    flaw = flaw_in(event) if suspicious else None
    return None if flaw is None else invalid_event(event, [flaw])


def hash_of(wire: WireEvent) -> bytes:
    """A hash of an event's content that is the same for equal events, whatever the order of their keys.

    Raises `RefusedError` (`invalid_event`) for what is not JSON: an embedding host can pass any object.
    """
    try:
        encoded = orjson.dumps(wire, option=orjson.OPT_SORT_KEYS)
    except TypeError as failure:
        raise RefusedError(invalid_event(wire, [Problem("", f"can't be written as JSON: {failure}")])) from None
    return hashlib.blake2b(encoded, digest_size=16).digest()
