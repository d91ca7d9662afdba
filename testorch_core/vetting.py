"""Whether an event may be stored: its envelope, its type, and what the policies say of its contents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from testorch_core import events as ev
from testorch_core.decoding import excerpt, flaw_in
from testorch_core.errors import Problem, Refusal, RefusedError, refuse
from testorch_core.events import WireEvent
from testorch_core.gate import Gate, invalid_event
from testorch_core.protocol import envelope_is_fine, envelope_problems
from testorch_core.streams import digested_id
from testorch_core.text import clip
from testorch_core.transaction import MAX_REFUSED_CONTENT_CHARACTERS, RefusedEvent

_CLIENTS_MAY_NOT = ev.SERVER_TYPES | ev.PRESENCE_TYPES
MAX_ATTEMPT: Final = 1_000
MAX_PLANNED: Final = 100_000_000
"""The greatest `attempt` and `total`: stores count in 32 bits, and the plans of many participants are added up."""

MAX_METADATA_BYTES: Final = 64 * 1024
"""What a run's own words may have as JSON: they are in every status of the run, and written with each of its commits."""


@dataclass(frozen=True, slots=True)
class Inadmissible:
    """Stands in the place of an event that the decoder refused for what a host had passed in."""

    refusal: Refusal


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
        kind, payload = event["type"], event["payload"]
        if kind in self._forbidden:
            return invalid_event(event, [Problem("type", f"`{kind}` is written by the server alone")])
        test_id, attempt = payload.get("testId"), payload.get("attempt")
        if (
            (type(test_id) is str and len(test_id) > ev.MAX_TEST_ID_CHARACTERS)
            or (attempt is not None and _is_over(attempt, MAX_ATTEMPT))
            or (kind == ev.RUN_PLAN and _is_over(payload.get("total"), MAX_PLANNED))
        ):
            return invalid_event(event, [_too_great(payload)])
        return self._check(event)

    def vetted(self, event: Any, *, suspicious: bool) -> WireEvent:
        """The event as it is to be stored. Raises `RefusedError`."""
        refusal = self.refusal_of(event, suspicious=suspicious)
        if refusal is not None:
            raise RefusedError(refusal)
        return self._gate.amend(event)

    def amended(self, event: WireEvent) -> tuple[WireEvent, Refusal | None]:
        """A good event as it is to be stored; with a refusal where a policy fails to say how."""
        try:
            return self._gate.amend(event), None
        except RefusedError as refused:
            return event, refused.refusal

    def note_of(self, event: Any, refusal: Refusal) -> RefusedEvent:
        """What is kept of a refused event: what the policies leave of it, as of any other."""
        kind = event.get("type") if isinstance(event, Mapping) else None
        named = clip(kind, 200) if isinstance(kind, str) and "\x00" not in kind else None
        return RefusedEvent(self._without_secrets(refusal), digested_id(event), named, self._shown(event))

    def _without_secrets(self, refusal: Refusal) -> Refusal:
        """A refusal as it may be stored: its words may repeat what stood in the event."""
        if not self._gate.amends:
            return refusal
        words = {"message": refusal.message, "problems": [one.problem for one in refusal.details]}
        shown = self._gate.shown({"id": "-", "type": ev.RUN_REFUSED, "timestamp": 0, "payload": words})
        if shown is None:
            return replace(refusal, message="the policies failed on its words", details=())
        details = tuple(map(Problem, (one.path for one in refusal.details), shown["payload"]["problems"]))
        return replace(refusal, message=shown["payload"]["message"], details=details)

    def _shown(self, event: Any) -> str:
        """Nothing of an event that the policies, or we, can't read."""
        if self._gate.amends:
            event = self._gate.shown(event) if envelope_is_fine(event) and flaw_in(event) is None else None
        return "" if event is None else excerpt(event, MAX_REFUSED_CONTENT_CHARACTERS)

    def amended_request(self, kind: str, request: Mapping[str, Any], fields: Sequence[str]) -> Mapping[str, Any]:
        """A request whose `fields` will be stored, as the policies leave them.

        Raises `RefusedError`: `too_large` for words that are too many, `invalid_event` where a policy fails.
        """
        words = {key: request[key] for key in fields if request.get(key) is not None}
        size = len(orjson.dumps(words))
        if size > MAX_METADATA_BYTES:
            raise refuse("too_large", f"{' and '.join(words)}: {size} bytes; at most {MAX_METADATA_BYTES} are taken")
        if not words or not self._gate.amends:
            return request
        amended = self._gate.amend({"id": "-", "type": kind, "timestamp": 0, "payload": words})
        return {**request, **amended["payload"]}


def _too_great(payload: Mapping[str, Any]) -> Problem:
    """What no store could keep of a payload whose fields may be anything, whatever the policies say of it.

    Only what the columns of a store and the sums of the fold are made of; all else is kept as JSON.
    """
    test_id = payload.get("testId")
    if isinstance(test_id, str) and len(test_id) > ev.MAX_TEST_ID_CHARACTERS:
        words = f"has {len(test_id)} characters; at most {ev.MAX_TEST_ID_CHARACTERS} are taken"
        return Problem("payload.testId", words)
    if _is_over(payload.get("attempt"), MAX_ATTEMPT):
        return Problem("payload.attempt", f"must be at most {MAX_ATTEMPT}")
    return Problem("payload.total", f"must be at most {MAX_PLANNED}")


def _is_over(number: Any, most: int) -> bool:
    return type(number) is int and number > most


def _outer_refusal(event: Any, *, suspicious: bool) -> Refusal | None:
    """What speaks against an event's envelope, or, if that is good, against storing what the event holds at all."""
    if isinstance(event, Inadmissible):
        return event.refusal
    problems = envelope_problems(event)
    if problems:
        return invalid_event(event, problems)
    flaw = flaw_in(event) if suspicious else None
    return None if flaw is None else invalid_event(event, [flaw])


def hash_of(wire: WireEvent) -> bytes:
    """A hash of an event's content that is the same for equal events, whatever the order of their keys.

    For events that have been vetted: they can be written as JSON.
    """
    encoded = orjson.dumps(wire, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(encoded, digest_size=16).digest()
