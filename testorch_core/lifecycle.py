"""Who takes part in a run, when it ends and how: pure decisions, written to the log as the server's own events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from testorch_core import events as ev
from testorch_core.errors import RefusedError, refuse
from testorch_core.events import Source
from testorch_core.fold import Draft
from testorch_core.runs import ACTIVE, ENDED, GONE, LOST, RunHead


class Ledger(Protocol):
    """What a decision sees of the commit in the making, and where it writes."""

    def draft(self, project: str, run_id: str) -> Draft | None: ...

    def newest_of_key(self, project: str, key: str) -> str | None: ...

    def open(self, project: str, run_id: str, payload: Mapping[str, Any], *, source: Source) -> Draft: ...

    def note(self, draft: Draft, kind: str, payload: Mapping[str, Any], *, source: Source) -> None: ...

    def new_run_id(self) -> str: ...

    def require_room_for(self, draft: Draft, participant: str) -> None: ...


def start(
    ledger: Ledger,
    project: str,
    request: Mapping[str, Any],
    *,
    participant: str,
    source: Source,
) -> str:
    """Open a run, or join the one that runs under the request's `runId` or `key`; returns its id.

    A finished run is never joined: by `key` a new one opens and names it as `previousRunId`; by `runId` the request is
    refused with `run_finished`. A participant that is a stream is opened in the run with it.
    """
    run_id, previous = request.get("runId"), None
    running = ledger.draft(project, run_id) if run_id else None
    if running is not None and running.head.is_over:
        raise refuse("run_finished", f"run `{run_id}` has ended; start another one")
    if running is None and "key" in request:
        newest = ledger.newest_of_key(project, request["key"])
        found = ledger.draft(project, newest) if newest else None
        if found is not None and found.head.is_over:
            previous = newest
        else:
            running = found
    if running is None:
        facts = {key: request[key] for key in ("name", "key", "expect", "metadata") if key in request}
        if previous is not None:
            facts["previousRunId"] = previous
        new_id = run_id or ledger.new_run_id()
        running = ledger.open(project, new_id, {**facts, "participant": participant}, source=source)
    elif running.head.participants.get(participant) != ACTIVE:
        ledger.require_room_for(running, participant)
        joined = {"participant": participant, "metadata": request.get("metadata", {})}
        ledger.note(running, ev.RUN_JOIN, joined, source=source)
    if source.stream is not None:
        open_stream(ledger, running, source=source)
    return running.base.run_id


def open_stream(ledger: Ledger, draft: Draft, *, source: Source) -> None:
    """Make the source's stream one of the run's, unless it is already."""
    if source.stream is not None and draft.stream(source.stream) is None:
        ledger.require_room_for(draft, source.stream)
        ledger.note(draft, ev.STREAM_OPEN, {"stream": source.stream}, source=source)


def resume_stream(ledger: Ledger, project: str, run_id: str, *, participant: str, source: Source) -> None:
    """A stream, or a participant by another connection, has come back. What it has left open is running again."""
    draft = ledger.draft(project, run_id)
    if draft is not None and draft.head.participants.get(participant) in (LOST, GONE):
        ledger.note(draft, ev.STREAM_RESUMED, {"participant": participant}, source=source)


def end_stream(
    ledger: Ledger, project: str, run_id: str, *, request: Mapping[str, Any], participant: str, source: Source
) -> dict[str, Any]:
    """End a stream and return its receipt, which is the same however often it is asked for.

    Raises `RefusedError` (`sequence_gap`) when the producer has sent more than has come.
    """
    draft = known(ledger, project, run_id)
    stream = draft.stream(participant)
    if stream is None:
        raise refuse("unknown_run", f"stream `{participant}` has no part in run `{run_id}` yet; nothing was sent in it")
    last_seq = request["lastSeq"]
    if last_seq > stream.acked_seq:
        raise gap(stream.acked_seq + 1, f"the stream says that it ends with {last_seq}")
    receipt = stream.receipt(last_seq, request.get("digest"))
    if stream.complete is None or (receipt["complete"] and not stream.complete):
        ledger.note(draft, ev.STREAM_END, receipt, source=source)
        if not draft.head.is_over and draft.head.is_deserted and _has_expected(draft.head):
            conclude(ledger, draft, source=source)
    return receipt


def gap(expected_seq: int, why: str) -> RefusedError:
    """The refusal of what comes after a hole in a stream."""
    words = f"{why}, but seq {expected_seq} has not come; send from there"
    return refuse("sequence_gap", words, temporary=True, seq=expected_seq)


def end(ledger: Ledger, project: str, run_id: str, *, participant: str, source: Source, force: bool = False) -> None:
    """End the participant's part, and the run if nobody is left; with `force`, the run at once. A finished run stays."""
    draft = known(ledger, project, run_id)
    if draft.head.is_over:
        return
    if draft.head.participants.get(participant) not in (None, ENDED):
        ledger.note(draft, ev.RUN_LEAVE, {"participant": participant, "reason": "ended"}, source=source)
    is_everybody_done = draft.head.is_deserted and _has_expected(draft.head)
    if force:
        conclude(ledger, draft, source=source, reason="forced", complete=is_everybody_done and draft.is_whole())
    elif is_everybody_done:
        conclude(ledger, draft, source=source)


def lose(ledger: Ledger, project: str, run_id: str, *, participant: str, source: Source) -> None:
    """A participant's connection has gone; it may come back."""
    draft = ledger.draft(project, run_id)
    if draft is not None and draft.head.participants.get(participant) == ACTIVE:
        ledger.note(draft, ev.STREAM_LOST, {"participant": participant}, source=source)


def leave(ledger: Ledger, project: str, run_id: str, *, participant: str, source: Source, reason: str) -> None:
    """A participant went without saying so: `disconnected` (nothing is held against it) or `lost` (it had its time)."""
    draft = ledger.draft(project, run_id)
    if draft is None or draft.head.is_over or draft.head.participants.get(participant) not in (ACTIVE, LOST):
        return
    ledger.note(draft, ev.RUN_LEAVE, {"participant": participant, "reason": reason}, source=source)
    if draft.head.is_deserted:
        conclude(ledger, draft, source=source, reason=reason, complete=False)


def give_up_waiting(ledger: Ledger, project: str, run_id: str, *, source: Source) -> None:
    """The time is over in which expected participants could still join."""
    draft = ledger.draft(project, run_id)
    if draft is not None and not draft.head.is_over and draft.head.is_deserted:
        conclude(ledger, draft, source=source, reason="joinTimeout", complete=False)


def cancel(ledger: Ledger, project: str, run_id: str, *, source: Source, reason: str | None) -> None:
    """End a run at once, as interrupted. A finished run stays as it is."""
    draft = known(ledger, project, run_id)
    if not draft.head.is_over:
        payload = {"status": ev.INTERRUPTED, "complete": False, "reason": reason or "cancelled"}
        ledger.note(draft, ev.RUN_END, payload, source=source)


def conclude(
    ledger: Ledger, draft: Draft, *, source: Source, reason: str | None = None, complete: bool | None = None
) -> None:
    """Write the run's end with its status, which no later event changes."""
    head = draft.head
    lost = bool(head.participants_in(GONE))
    whole = draft.is_whole() if complete is None else complete
    failed = head.unexpected or head.counts.get(ev.RUNNING, 0) or head.errors
    status = ev.INTERRUPTED if lost else ev.FAILED if failed else ev.PASSED
    payload = {"status": status, "complete": whole} | ({"reason": reason} if reason else {})
    ledger.note(draft, ev.RUN_END, payload, source=source)


def known(ledger: Ledger, project: str, run_id: str) -> Draft:
    """The run's draft. Raises `RefusedError` (`unknown_run`)."""
    draft = ledger.draft(project, run_id)
    if draft is None:
        raise refuse("unknown_run", f"no run `{run_id}` in project `{project}`")
    return draft


def is_waiting_for_more(head: RunHead) -> bool:
    """Whether a run goes on only because participants that it expects have not joined."""
    return not head.is_over and bool(head.participants) and head.is_deserted and not _has_expected(head)


def _has_expected(head: RunHead) -> bool:
    return head.expect is None or len(head.participants) >= head.expect
