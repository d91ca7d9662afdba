"""A commit in the making: what queued up, folded into drafts and cut into record batches. Pure; dropped when it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from testorch_core import events as ev
from testorch_core.errors import KnownEvent, Refusal
from testorch_core.events import RecordBatch, Source, WireEvent
from testorch_core.fold import Draft
from testorch_core.interfaces.storage import Commit, Cursor, Slice
from testorch_core.registry import Address, RunRegistry
from testorch_core.runs import RunState

PlainId = tuple[str, str, str]
"""(project, run id, event id): what makes a plain event harmless to resend."""


@dataclass(slots=True)
class _Open:
    """A record batch that still grows."""

    run_id: str | None
    source: Source
    received_at: int
    first_offset: int
    events: list[WireEvent] = field(default_factory=list)


class Transaction:
    """Collects events of all projects; implements `lifecycle.Ledger`.

    `heads` are the offsets that the logs stand at; `known` are plain events that the store has already.
    """

    def __init__(
        self,
        registry: RunRegistry,
        heads: Mapping[str, int],
        *,
        known: Mapping[PlainId, bytes],
        now_ms: int,
        new_id: Callable[[], str],
    ) -> None:
        self._registry = registry
        self._heads = heads
        self._known = known
        self._now_ms = now_ms
        self._new_id = new_id
        self._drafts: dict[Address, Draft] = {}
        self._keys: dict[Address, str] = {}
        self._batches: dict[str, list[_Open]] = {}
        self._next: dict[str, int] = {}
        self._plain: dict[PlainId, bytes] = {}
        self.count = 0

    # lifecycle.Ledger

    def draft(self, project: str, run_id: str) -> Draft | None:
        draft = self._drafts.get((project, run_id))
        if draft is None:
            state = self._registry.get(project, run_id)
            if state is None:
                return None
            draft = self._drafts[project, run_id] = Draft(state)
        return draft

    def newest_of_key(self, project: str, key: str) -> str | None:
        return self._keys.get((project, key)) or self._registry.newest_of_key(project, key)

    def open(self, project: str, run_id: str, payload: Mapping[str, Any], *, source: Source) -> Draft:
        draft = self._drafts[project, run_id] = Draft(RunState(project, run_id))
        key = payload.get("key")
        if isinstance(key, str):
            self._keys[project, key] = run_id
        self.note(draft, ev.RUN_START, payload, source=source)
        return draft

    def note(self, draft: Draft, kind: str, payload: Mapping[str, Any], *, source: Source) -> None:
        self._append(draft.base.project, draft, self._own_event(kind, payload), received_at=self._now_ms, source=source)

    def new_run_id(self) -> str:
        return self._new_id()

    # Events.

    def note_presence(self, project: str, kind: str, payload: Mapping[str, Any], *, source: Source) -> None:
        """Write an event of the server that belongs to no run."""
        self._append(project, None, self._own_event(kind, payload), received_at=self._now_ms, source=source)

    def record(
        self,
        project: str,
        draft: Draft | None,
        wire: WireEvent,
        content_hash: bytes,
        *,
        received_at: int,
        source: Source,
    ) -> Refusal | None:
        """Take one plain event; the same again is passed over, and with other content refused as a `conflict`."""
        if draft is not None:
            address = (project, draft.base.run_id, wire["id"])
            first = self._known.get(address) or self._plain.get(address)
            if first is not None:
                return None if first == content_hash else _conflict(wire["id"])
            self._plain[address] = content_hash
        self._append(project, draft, wire, received_at=received_at, source=source)
        return None

    def _own_event(self, kind: str, payload: Mapping[str, Any]) -> WireEvent:
        return {"id": self._new_id(), "type": kind, "timestamp": self._now_ms, "payload": payload}

    def _append(self, project: str, draft: Draft | None, wire: WireEvent, *, received_at: int, source: Source) -> None:
        offset = self._next.get(project)
        if offset is None:
            offset = self._heads.get(project, 0) + 1
        self._next[project] = offset + 1
        self.count += 1
        run_id = None
        if draft is not None:
            run_id = draft.base.run_id
            wire = draft.with_attempt(wire)
            draft.fold(wire, offset=offset, received_at=received_at, source=source)
        batches = self._batches.setdefault(project, [])
        if not batches or batches[-1].run_id != run_id or batches[-1].source != source:
            batches.append(_Open(run_id, source, received_at, offset))
        batches[-1].events.append(wire)

    # What the committer takes.

    def commit(self, cursors: Iterable[Cursor] = ()) -> Commit:
        """The commit to append. Its result rows and bodies are encoded here."""
        drafts: dict[str, list[Draft]] = {}
        for (project, _), draft in self._changed():
            drafts.setdefault(project, []).append(draft)
        plain: dict[str, list[KnownEvent]] = {}
        for (project, run_id, event_id), content_hash in self._plain.items():
            plain.setdefault(project, []).append(KnownEvent(project, run_id, event_id, content_hash))
        slices = [
            Slice(
                project=project,
                expected_head=self._heads.get(project, 0),
                batches=[_close(project, one) for one in batches],
                runs=[draft.run_row() for draft in drafts.get(project, ())],
                results=[row for draft in drafts.get(project, ()) for row in draft.result_rows()],
                plain=plain.get(project, ()),
            )
            for project, batches in self._batches.items()
        ]
        return Commit(slices=slices, cursors=tuple(cursors))

    def merge(self) -> list[RunState]:
        """Make the drafts the state, after the commit; returns the states that changed."""
        return [draft.merge() for _, draft in self._changed()]

    def _changed(self) -> list[tuple[Address, Draft]]:
        return [(address, one) for address, one in self._drafts.items() if one.head.events != one.base.head.events]


def _close(project: str, batch: _Open) -> RecordBatch:
    return RecordBatch(
        project=project,
        first_offset=batch.first_offset,
        count=len(batch.events),
        run_id=batch.run_id,
        source=batch.source,
        received_at=batch.received_at,
        body=orjson.dumps(batch.events),
    )


def _conflict(event_id: str) -> Refusal:
    words = f"event `{event_id}` is stored already with other content; the first was kept"
    return Refusal("conflict", words, event_id=event_id)
