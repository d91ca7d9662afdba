"""What events about a run as a whole do to it: who takes part, streams, plans, errors, refusals, its end. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from testorch_core import events as ev
from testorch_core.events import UNKNOWN, Source, WireEvent
from testorch_core.payloads import text, whole
from testorch_core.runs import ACTIVE, ENDED, GONE, LOST, MAX_REFUSALS_SHOWN, RunHead
from testorch_core.streams import StreamState
from testorch_core.text import clip

MAX_RUN_ERRORS: Final = 20
"""Errors outside any test that a run's status shows; the log has them all."""

Payload = Mapping[str, Any]


class RunDraft(Protocol):
    """What these events change of a draft."""

    head: RunHead

    def stream(self, stream_id: str) -> StreamState | None: ...

    def changed_stream(self, stream_id: str) -> StreamState: ...

    def reconsider(self, change: Callable[[], None]) -> None: ...

    def is_whole(self) -> bool: ...


def fold(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    """Take one event in, if it is about the run as a whole. Never raises on any payload."""
    folder = _FOLDERS.get(wire["type"])
    if folder is not None:
        folder(draft, wire, received_at, source)


def _plan(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    payload = wire["payload"]
    total, ids = whole(payload, "total", 0), payload.get("ids")
    planned = total if total is not None else len(ids) if isinstance(ids, list) else 0
    participant = source.stream or source.connection
    draft.head.plans[participant] = max(planned, draft.head.plans.get(participant, 0))


def _error(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    payload = wire["payload"]
    listed = payload.get("errors")
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else payload
    message = text(first, "message") or "an error outside any test"
    errors = draft.head.errors
    errors[wire["id"]] = {"id": wire["id"], "type": text(first, "type"), "message": clip(message, 500)}
    if len(errors) > MAX_RUN_ERRORS:  # the least ids stay, whatever the order they came in
        draft.head.errors = dict(sorted(errors.items())[:MAX_RUN_ERRORS])


def _start(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    head, payload = draft.head, wire["payload"]
    head.started_at = received_at
    head.name = text(payload, "name")
    head.key = text(payload, "key")
    head.expect = whole(payload, "expect", 1)
    head.previous_run_id = text(payload, "previousRunId")
    head.implicit = payload.get("implicit") is True
    metadata = payload.get("metadata")
    head.metadata = metadata if isinstance(metadata, dict) else {}
    _join(draft, wire, received_at, source)


def _join(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    participant = text(wire["payload"], "participant")
    if participant is not None:
        _set_state(draft, participant, ACTIVE)


def _leave(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    participant = text(wire["payload"], "participant")
    if participant is not None:
        _set_state(draft, participant, GONE if wire["payload"].get("reason") == LOST else ENDED)


def _refused(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    head, payload = draft.head, wire["payload"]
    code = text(payload, "code") or UNKNOWN
    head.refused[code] = head.refused.get(code, 0) + 1
    shown = {key: payload[key] for key in ("eventId", "eventType", "seq", "code", "message") if key in payload}
    head.refusals = (*head.refusals, {**shown, "at": received_at})[-MAX_REFUSALS_SHOWN:]


def _stream_open(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    stream_id = text(wire["payload"], "stream")
    if stream_id is not None:
        draft.changed_stream(stream_id).principal = source.principal
        _set_state(draft, stream_id, ACTIVE)


def _stream_lost(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    participant = text(wire["payload"], "participant")
    if participant is not None and draft.head.participants.get(participant) == ACTIVE:
        _set_state(draft, participant, LOST)


def _stream_resumed(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    participant = text(wire["payload"], "participant")
    if participant is not None and draft.head.participants.get(participant) in (LOST, GONE):
        _set_state(draft, participant, ACTIVE)


def _stream_end(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    stream_id = text(wire["payload"], "streamId")
    if stream_id is not None:
        draft.changed_stream(stream_id).complete = wire["payload"].get("complete") is True
        _set_state(draft, stream_id, ENDED)


def _set_state(draft: RunDraft, participant: str, state: str) -> None:
    if draft.stream(participant) is not None:
        draft.changed_stream(participant)  # its row says the state, too
    draft.reconsider(lambda: draft.head.participants.__setitem__(participant, state))
    head = draft.head
    if head.is_over and head.end_reason in (None, LOST) and draft.is_whole():
        head.complete = True  # what was missing when the run ended has come, and was proved, after all


def _end(draft: RunDraft, wire: WireEvent, received_at: int, source: Source) -> None:
    payload = wire["payload"]

    def end() -> None:
        head = draft.head
        head.status = text(payload, "status") or UNKNOWN
        head.complete = payload.get("complete") is True
        head.end_reason = text(payload, "reason")
        head.ended_at = received_at

    if not draft.head.is_over:
        draft.reconsider(end)


_FOLDERS: Final[Mapping[str, Callable[[RunDraft, WireEvent, int, Source], None]]] = {
    ev.RUN_PLAN: _plan,
    ev.RUN_ERROR: _error,
    ev.RUN_START: _start,
    ev.RUN_JOIN: _join,
    ev.RUN_LEAVE: _leave,
    ev.RUN_REFUSED: _refused,
    ev.RUN_END: _end,
    ev.STREAM_OPEN: _stream_open,
    ev.STREAM_LOST: _stream_lost,
    ev.STREAM_RESUMED: _stream_resumed,
    ev.STREAM_END: _stream_end,
}
