"""What waits for a commit: events that clients sent, and decisions about runs, in the order in which they came."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import trio

from testorch_core.errors import Refusal, RefusedError
from testorch_core.events import Source, WireEvent
from testorch_core.fold import Draft
from testorch_core.transaction import Transaction

Answer = TypeVar("Answer")


class Item(ABC):
    """Something that waits for a commit. `done` is set after it, when `failure` and the rest are final."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.done = trio.Event()
        self.failure: Refusal | None = None

    @property
    def weight(self) -> int:
        """How many events it counts for in the queue."""
        return 1

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
    """Plain events of one source for one run, with the hash of each one's content."""

    def __init__(
        self,
        project: str,
        run_id: str,
        events: Sequence[tuple[WireEvent, bytes]],
        *,
        source: Source,
        received_at: int,
        implicit: bool = False,
    ) -> None:
        super().__init__(project)
        self.run_id = run_id
        self.events = events
        self.refusals: list[Refusal] = []
        self.source = source
        self._received_at = received_at
        self._implicit = implicit

    @property
    def weight(self) -> int:
        return len(self.events)

    def runs(self) -> Iterable[str]:
        return (self.run_id,)

    def apply(self, transaction: Transaction) -> None:
        self.refusals = []
        draft = transaction.draft(self.project, self.run_id) or self._open(transaction)
        for wire, content_hash in self.events:
            refusal = transaction.record(
                self.project, draft, wire, content_hash, received_at=self._received_at, source=self.source
            )
            if refusal is not None:
                self.refusals.append(refusal)

    def _open(self, transaction: Transaction) -> Draft:
        participant = self.source.stream or self.source.connection
        payload: dict[str, Any] = {"participant": participant} | ({"implicit": True} if self._implicit else {})
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
    ) -> None:
        super().__init__(project)
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
    waiting: dict[tuple[str, str, Source], list[Submission]] = {}
    for item in items:
        if isinstance(item, Submission):
            waiting.setdefault((item.project, item.run_id, item.source), []).append(item)
            continue
        yield from (one for group in waiting.values() for one in group)
        waiting.clear()
        yield item
    yield from (one for group in waiting.values() for one in group)
