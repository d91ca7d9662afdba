"""Who takes part in a run, when it ends and how: pure decisions, written to the log as the server's own events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from testorch_core import events as ev
from testorch_core.errors import refuse
from testorch_core.events import Source
from testorch_core.fold import Draft
from testorch_core.runs import ACTIVE, LOST, RunHead


class Ledger(Protocol):
    """What a decision sees of the commit in the making, and where it writes."""

    def draft(self, project: str, run_id: str) -> Draft | None: ...

    def newest_of_key(self, project: str, key: str) -> str | None: ...

    def open(self, project: str, run_id: str, payload: Mapping[str, Any], *, source: Source) -> Draft: ...

    def note(self, draft: Draft, kind: str, payload: Mapping[str, Any], *, source: Source) -> None: ...

    def new_run_id(self) -> str: ...


def start(ledger: Ledger, project: str, request: Mapping[str, Any], *, participant: str, source: Source) -> str:
    """Open a run, or join the one that runs under the request's `runId` or `key`; returns its id.

    A finished run is never joined: by `key` a new one opens and names it as `previousRunId`; by `runId` the request is
    refused with `run_finished`.
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
    if running is not None:
        if running.head.participants.get(participant) != ACTIVE:
            joined = {"participant": participant, "metadata": request.get("metadata", {})}
            ledger.note(running, ev.RUN_JOIN, joined, source=source)
        return running.base.run_id
    run_id = run_id or ledger.new_run_id()
    facts = {key: request[key] for key in ("name", "key", "expect", "metadata") if key in request}
    if previous is not None:
        facts["previousRunId"] = previous
    ledger.open(project, run_id, {**facts, "participant": participant}, source=source)
    return run_id


def end(ledger: Ledger, project: str, run_id: str, *, participant: str, source: Source, force: bool = False) -> None:
    """End the participant's part, and the run if nobody is left; with `force`, the run at once. A finished run stays."""
    draft = known(ledger, project, run_id)
    if draft.head.is_over:
        return
    if draft.head.participants.get(participant) == ACTIVE:
        ledger.note(draft, ev.RUN_LEAVE, {"participant": participant, "reason": "ended"}, source=source)
    is_whole = _is_everybody_gone(draft.head) and _has_expected(draft.head)
    if force:
        conclude(ledger, draft, source=source, reason="forced", complete=is_whole)
    elif is_whole:
        conclude(ledger, draft, source=source)


def leave(ledger: Ledger, project: str, run_id: str, *, participant: str, source: Source, reason: str) -> None:
    """A participant went without saying so: `disconnected` (nothing is held against it) or `lost`."""
    draft = ledger.draft(project, run_id)
    if draft is None or draft.head.is_over or draft.head.participants.get(participant) != ACTIVE:
        return
    ledger.note(draft, ev.RUN_LEAVE, {"participant": participant, "reason": reason}, source=source)
    if _is_everybody_gone(draft.head):
        conclude(ledger, draft, source=source, reason=reason, complete=False)


def give_up_waiting(ledger: Ledger, project: str, run_id: str, *, source: Source) -> None:
    """The time is over in which expected participants could still join."""
    draft = ledger.draft(project, run_id)
    if draft is not None and not draft.head.is_over and _is_everybody_gone(draft.head):
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
    lost = any(state == LOST for state in head.participants.values())
    whole = not lost if complete is None else complete
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
    return not head.is_over and bool(head.participants) and _is_everybody_gone(head) and not _has_expected(head)


def _active(head: RunHead) -> list[str]:
    return [name for name, state in head.participants.items() if state == ACTIVE]


def _is_everybody_gone(head: RunHead) -> bool:
    return not _active(head)


def _has_expected(head: RunHead) -> bool:
    return head.expect is None or len(head.participants) >= head.expect
