"""A commit in the making: what queued up, folded into drafts and cut into record batches. Pure; dropped when it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from testorch_core import events as ev
from testorch_core.decoding import excerpt
from testorch_core.errors import KnownEvent, Refusal, refuse
from testorch_core.events import RecordBatch, Source, WireEvent
from testorch_core.fold import Draft
from testorch_core.interfaces.storage import Commit, Cursor, Slice
from testorch_core.registry import Address, RunRegistry
from testorch_core.runs import RunState, RunStatus
from testorch_core.streams import digested_id
from testorch_core.text import clip, visible

PlainId = tuple[str, str, str]
"""(project, run id, event id): what makes a plain event harmless to resend."""


MAX_REFUSED_CONTENT_CHARACTERS: Final = 500
OVERLOAD_RETRY_MS: Final = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much one node holds in memory: open runs, and tests of one run."""

    max_projects: int = 1_000
    max_open_runs: int = 2_000
    max_participants: int = 10_000
    max_run_tests: int = 1_000_000


MAX_ATTEMPTS: Final = 1_000
"""Attempts of one test, of which a run keeps each."""


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event that was refused for good: what the client is told, and what the run's log keeps of it."""

    refusal: Refusal
    event_id: str
    event_type: str | None
    content: str

    @classmethod
    def of(cls, event: Any, refusal: Refusal, *, shown: Any = None) -> RefusedEvent:
        """The refusal of anything that came in the place of an event. `shown` is what may be kept of its contents."""
        kind = event.get("type") if isinstance(event, Mapping) else None
        content = "" if shown is None else excerpt(shown, MAX_REFUSED_CONTENT_CHARACTERS)
        named = clip(kind, 200) if isinstance(kind, str) and "\x00" not in kind else None
        return cls(refusal, digested_id(event), named, content)


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
        bounds: Bounds,
    ) -> None:
        self._registry = registry
        self._heads = heads
        self._known = known
        self._now_ms = now_ms
        self._new_id = new_id
        self._bounds = bounds
        self._opened = 0
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
        if self._registry.open_runs + self._opened >= self._bounds.max_open_runs:
            words = f"{self._bounds.max_open_runs} runs are open, the most that this server holds; end some of them"
            raise refuse("overloaded", words, temporary=True, retry_after_ms=OVERLOAD_RETRY_MS)
        if project not in self._heads and len(self._heads.keys() | self._next.keys()) >= self._bounds.max_projects:
            words = f"there are {self._bounds.max_projects} projects, the most that this server holds; use one of them"
            raise refuse("overloaded", words, temporary=True, retry_after_ms=OVERLOAD_RETRY_MS)
        self._opened += 1
        draft = self._drafts[project, run_id] = Draft(RunState(project, run_id))
        key = payload.get("key")
        if isinstance(key, str):
            self._keys[project, key] = run_id
        self.note(draft, ev.RUN_START, payload, source=source)
        return draft

    def note(self, draft: Draft, kind: str, payload: Mapping[str, Any], *, source: Source) -> None:
        self._write(draft.base.project, draft, [self._own_event(kind, payload)], self._now_ms, source)

    def new_run_id(self) -> str:
        return self._new_id()

    # Events.

    def note_presence(self, project: str, kind: str, payload: Mapping[str, Any], *, source: Source) -> None:
        """Write an event of the server that belongs to no run."""
        self._write(project, None, [self._own_event(kind, payload)], self._now_ms, source)

    def note_refused(self, draft: Draft, refused: RefusedEvent, *, source: Source) -> None:
        """Write down what was refused of a run's events, when and why. With a `seq`, its stream moves past it."""
        refusal = refused.refusal
        facts = {
            "seq": refusal.seq,
            "eventId": refused.event_id,
            "eventType": refused.event_type,
            "code": refusal.code,
            "message": clip(visible(refusal.message), 300),
            "policy": refusal.policy,
            "content": refused.content,
        }
        payload = {key: value for key, value in facts.items() if value is not None}
        self.note(draft, ev.RUN_REFUSED, payload, source=source)

    def record_host_event(self, project: str, wire: WireEvent, *, source: Source) -> None:
        """Take a presence event of an embedding host."""
        self._write(project, None, [wire], self._now_ms, source)

    def record(
        self, draft: Draft, wire: WireEvent, content_hash: bytes, *, received_at: int, source: Source
    ) -> Refusal | None:
        """Take one plain event; the same again is passed over, and with other content refused as a `conflict`."""
        project = draft.base.project
        address = (project, draft.base.run_id, wire["id"])
        first = self._known.get(address) or self._plain.get(address)
        if first is not None:
            return None if first == content_hash else _conflict(wire["id"])
        refusal = self.one_too_many(draft, wire)
        if refusal is not None:
            return refusal
        self._plain[address] = content_hash
        self._write(project, draft, [wire], received_at, source)
        return None

    def record_stream(self, draft: Draft, wires: Sequence[WireEvent], *, received_at: int, source: Source) -> None:
        """Take events of a stream that follow, without a hole, what it has brought so far."""
        self._write(draft.base.project, draft, wires, received_at, source)

    def is_roomy(self, draft: Draft, events: int) -> bool:
        """Whether so many events can't fill the run, whatever they are: then none needs `one_too_many`."""
        head = draft.head
        return head.tests + events <= self._bounds.max_run_tests and head.most_attempts + events <= MAX_ATTEMPTS

    def one_too_many(self, draft: Draft, wire: WireEvent) -> Refusal | None:
        """The refusal of an event that would make the run hold one test, or one attempt of a test, too many."""
        if wire["type"] not in (ev.TEST_START, ev.TEST_END) or self.is_roomy(draft, 1):
            return None
        test_id = wire["payload"].get("testId")
        if not isinstance(test_id, str):
            return None
        if draft.last_attempt(test_id) is None:
            if draft.head.tests < self._bounds.max_run_tests:
                return None
            words = f"the run has {self._bounds.max_run_tests} tests, the most that this server takes; split it"
        elif len(draft.earlier_attempts(test_id)) + 1 < MAX_ATTEMPTS:
            return None
        else:
            words = f"the test has {MAX_ATTEMPTS} attempts, the most that this server takes"
        return Refusal("too_large", words, event_id=wire["id"], seq=wire.get("seq"))

    def require_room_for(self, draft: Draft, participant: str) -> None:
        """Raises `RefusedError` (`too_large`) where the run has as many participants as it may."""
        participants = draft.head.participants
        if participant not in participants and len(participants) >= self._bounds.max_participants:
            words = f"the run has {len(participants)} participants, the most that this server takes; split it"
            raise refuse("too_large", words)

    def _own_event(self, kind: str, payload: Mapping[str, Any]) -> WireEvent:
        return {"id": self._new_id(), "type": kind, "timestamp": self._now_ms, "payload": payload}

    def _write(
        self, project: str, draft: Draft | None, wires: Sequence[WireEvent], received_at: int, source: Source
    ) -> None:
        first = self._next.get(project)
        if first is None:
            first = self._heads.get(project, 0) + 1
        self._next[project] = first + len(wires)
        self.count += len(wires)
        run_id = draft.base.run_id if draft is not None else None
        batches = self._batches.setdefault(project, [])
        if not batches or batches[-1].run_id != run_id or batches[-1].source != source:
            batches.append(_Open(run_id, source, received_at, first))
        batch = batches[-1]
        # Folded with the batch's time of receipt, which is the one that the log keeps.
        batch.events += wires if draft is None else draft.record(
            wires, first_offset=first, received_at=batch.received_at, source=source
        )  # fmt: skip

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
                streams=[row for draft in drafts.get(project, ()) for row in draft.stream_rows()],
                plain=plain.get(project, ()),
            )
            for project, batches in self._batches.items()
        ]
        return Commit(slices=slices, cursors=tuple(cursors))

    def merge(self) -> list[tuple[RunState, RunStatus]]:
        """Make the drafts the state, after the commit; returns the states that changed, each with its status."""
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
        # Copied: what orjson returns keeps the 4 KiB that it began with, and the tail holds on to thousands of them.
        body=bytes(memoryview(orjson.dumps(batch.events))),
        last_seq=_last_seq(batch) if batch.source.stream is not None else None,
    )


def _last_seq(batch: _Open) -> int | None:
    for wire in reversed(batch.events):
        seq = wire.get("seq") or (wire["payload"].get("seq") if wire["type"] == ev.RUN_REFUSED else None)
        if seq is not None:
            return int(seq)
    return None


def _conflict(event_id: str) -> Refusal:
    words = f"event `{event_id}` is stored already with other content; the first was kept"
    return Refusal("conflict", words, event_id=event_id)
