"""What waits for a commit: events that clients sent, and decisions about runs, in the order in which they came."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import trio

from testorch_core import lifecycle
from testorch_core.errors import Refusal, RefusedError
from testorch_core.events import Source, WireEvent
from testorch_core.fold import Draft
from testorch_core.transaction import RefusedEvent, Transaction

Answer = TypeVar("Answer")


class Item(ABC):
    """Something that waits for a commit. `done` is set after it, when `failure` and the rest are final."""

    def __init__(self, project: str, *, weight: int = 1, size_bytes: int = 0, lane: object = None) -> None:
        self.project = project
        self.lane: object = lane if lane is not None else self
        """Whose turn it takes in the queue: the connection's that sent it, else one of its own."""
        self.weight = max(1, weight)
        """How many events it counts for in the queue."""
        self.size_bytes = size_bytes
        self.is_taken = False
        """Whether a commit has begun with it; before that a submission may still grow."""
        self.done = trio.Event()
        self.failure: Refusal | None = None

    def runs(self) -> Iterable[str]:
        """The runs that must be in memory before it is applied."""
        return ()

    def run_keys(self) -> Iterable[str]:
        """The run keys that must be known before it is applied."""
        return ()

    @abstractmethod
    def apply(self, transaction: Transaction) -> None:
        """Write into the commit in the making. Applied anew to a new transaction when a commit is tried again."""

    async def answer(self) -> None:
        """Wait for the commit. Raises `RefusedError` if the item as a whole was refused. Cancelling stops only the wait."""
        await self.done.wait()
        if self.failure is not None:
            raise RefusedError(self.failure)


class Submission(Item):
    """Plain events of one source for one run, with the hash of each one's content; and notes of those that were refused.

    A refused event opens no run.
    """

    def __init__(
        self,
        project: str,
        run_id: str,
        events: Sequence[tuple[WireEvent, bytes]],
        *,
        source: Source,
        received_at: int,
        refused: Sequence[RefusedEvent] = (),
        size_bytes: int = 0,
        implicit: bool = False,
    ) -> None:
        super().__init__(project, weight=len(events), size_bytes=size_bytes, lane=source.connection)
        self.run_id = run_id
        self.events = events
        self.refusals: list[Refusal] = []
        self.source = source
        self._refused = refused
        self._received_at = received_at
        self._implicit = implicit

    def runs(self) -> Iterable[str]:
        return (self.run_id,)

    def apply(self, transaction: Transaction) -> None:
        self.failure = None
        self.refusals = []
        draft = transaction.draft(self.project, self.run_id)
        if draft is None and self.events:
            try:
                draft = self._open(transaction)
            except RefusedError as refused:
                self.failure = refused.refusal
        if draft is None or self.failure is not None:
            return
        for wire, content_hash in self.events:
            refusal = transaction.record(
                draft, wire, content_hash, received_at=self._received_at, source=self.source
            )  # fmt: skip
            if refusal is not None:
                self.refusals.append(refusal)
                refused_event = RefusedEvent.of(wire, refusal, shown=wire)
                transaction.note_refused(draft, refused_event, source=self.source)
        for one in self._refused:
            transaction.note_refused(draft, one, source=self.source)

    def _open(self, transaction: Transaction) -> Draft:
        payload: dict[str, Any] = {"participant": self.source.connection}
        if self._implicit:
            payload["implicit"] = True
        return transaction.open(self.project, self.run_id, payload, source=self.source)


class StreamSubmission(Item):
    """What one message brought of a stream: events, and refused ones, whose `seq`s follow each other without a hole.

    After the commit `acked_seq` is how far the stream has come; `skipped` counts what it had brought before. A submission
    whose events don't follow what the stream has (an earlier one was not stored) is `stopped`: nothing of it is taken.
    """

    def __init__(
        self,
        project: str,
        run_id: str,
        first_seq: int,
        entries: list[WireEvent | RefusedEvent],
        *,
        source: Source,
        received_at: int,
        duplicates: int = 0,
        size_bytes: int = 0,
    ) -> None:
        super().__init__(project, weight=len(entries), size_bytes=size_bytes, lane=source.connection)
        self.run_id = run_id
        self.first_seq = first_seq
        self.entries = entries
        self.source = source
        self.duplicates = duplicates
        self.refusals: list[Refusal] = []
        self.acked_seq = 0
        self.skipped = 0
        self.stopped = False
        self._received_at = received_at

    def follows(self, other: StreamSubmission) -> bool:
        """Whether this one begins where another ends, in the same stream and from the same connection."""
        same = self.source is other.source and self.run_id == other.run_id and self.project == other.project
        return same and self.first_seq == other.first_seq + len(other.entries)

    def grow(self, more: StreamSubmission) -> None:
        """Take in one that follows: small messages then cost hardly more than the events of a large one."""
        self.entries.extend(more.entries)
        self.weight += more.weight
        self.size_bytes += more.size_bytes
        self.duplicates += more.duplicates

    def runs(self) -> Iterable[str]:
        return (self.run_id,)

    def apply(self, transaction: Transaction) -> None:
        self.failure = None
        self.refusals = []
        self.stopped = False
        assert self.source.stream is not None, "a stream's events have it as their source"
        try:
            draft = transaction.draft(self.project, self.run_id) or self._open(transaction)
            lifecycle.open_stream(transaction, draft, source=self.source)
        except RefusedError as refused:
            self.failure = refused.refusal
            return
        stream = draft.stream(self.source.stream)
        assert stream is not None, "it has just been opened"
        self.acked_seq = stream.acked_seq
        self.skipped = max(0, min(len(self.entries), stream.acked_seq + 1 - self.first_seq))
        self.stopped = stream.complete is not None or self.first_seq > stream.acked_seq + 1
        if not self.stopped and self.skipped < len(self.entries):
            self._take(transaction, draft, self.entries[self.skipped :])
            self.acked_seq = self.first_seq + len(self.entries) - 1

    def _take(self, transaction: Transaction, draft: Draft, entries: Sequence[WireEvent | RefusedEvent]) -> None:
        is_roomy = transaction.is_roomy(draft, len(entries))
        good: list[WireEvent] = []
        for entry in entries:
            if isinstance(entry, RefusedEvent):
                self._record(transaction, draft, good)
                self._refuse(transaction, draft, entry)
                good = []
            elif is_roomy:
                good.append(entry)
            else:  # one by one, because each changes how much room is left
                refusal = transaction.one_too_many(draft, entry)
                if refusal is None:
                    self._record(transaction, draft, [entry])
                else:
                    self._refuse(transaction, draft, RefusedEvent.of(entry, refusal, shown=entry))
        self._record(transaction, draft, good)

    def _record(self, transaction: Transaction, draft: Draft, good: Sequence[WireEvent]) -> None:
        if good:
            transaction.record_stream(draft, good, received_at=self._received_at, source=self.source)

    def _refuse(self, transaction: Transaction, draft: Draft, refused: RefusedEvent) -> None:
        self.refusals.append(refused.refusal)
        transaction.note_refused(draft, refused, source=self.source)

    def _open(self, transaction: Transaction) -> Draft:
        payload = {"participant": self.source.stream}
        return transaction.open(self.project, self.run_id, payload, source=self.source)


class Decision(Item, Generic[Answer]):
    """A decision of `lifecycle`, made in its place among the events; `result` is what it returned."""

    def __init__(
        self,
        project: str,
        decide: Callable[[Transaction], Answer],
        *,
        runs: Iterable[str] = (),
        keys: Iterable[str] = (),
        lane: object = None,
    ) -> None:
        super().__init__(project, lane=lane)
        self._decide = decide
        self._runs = tuple(runs)
        self._keys = tuple(keys)
        self.result: Answer | None = None

    def runs(self) -> Iterable[str]:
        return self._runs

    def run_keys(self) -> Iterable[str]:
        return self._keys

    def apply(self, transaction: Transaction) -> None:
        self.failure = None
        try:
            self.result = self._decide(transaction)
        except RefusedError as refused:
            self.failure = refused.refusal


def grouped(items: Sequence[Item]) -> Iterable[Item]:
    """The items with the submissions of one source and run side by side, so that they share a record batch.

    A decision is a barrier: nothing passes it in either direction. What one source sent keeps its order.
    """
    waiting: dict[tuple[str, str, Source], list[Submission | StreamSubmission]] = {}
    for item in items:
        if isinstance(item, Submission | StreamSubmission):
            waiting.setdefault((item.project, item.run_id, item.source), []).append(item)
            continue
        yield from (one for group in waiting.values() for one in group)
        waiting.clear()
        yield item
    yield from (one for group in waiting.values() for one in group)
