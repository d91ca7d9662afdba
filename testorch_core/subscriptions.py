"""Live subscriptions of one connection: each is a reader of the log with a cursor, at its own pace.

History and live events join without a hole, since both are the log: a subscriber that lags reads from the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import trio

from testorch_core.conversation import Conversation
from testorch_core.errors import ConnectionClosedError, StorageFailedError, refuse
from testorch_core.interfaces.security import Principal
from testorch_core.interfaces.transport import Connection
from testorch_core.orchestrator import Orchestrator
from testorch_core.tail import LogPage

LEAST_GATHER_SECONDS: Final = 0.005
GATHER_SECONDS_EACH: Final = 0.0005
MOST_GATHER_SECONDS: Final = 0.25
"""How long a subscriber that has just been told something waits for more: so much for each subscriber that there is. A
page can't show it sooner, and telling up to 500 of them costs no more than about 2,000 messages a second."""

CURSOR_SECONDS: Final = 2.0
"""How often a subscriber whose filter hides everything is told how far the log has come."""

RETRY_SECONDS: Final = 1.0
MAX_PUBLISHED_BYTES: Final = 1024 * 1024
"""A message with more than this in events is cut in two."""


@dataclass(slots=True)
class Subscription:
    """What one subscriber wants, and how far it has been told."""

    id: str
    project: str
    run_id: str | None
    types: frozenset[str] | None
    offset: int
    opening: Mapping[str, Any]
    principal: Principal | None = None
    told_at: float = 0.0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Subscriptions:
    """All subscriptions of one connection."""

    def __init__(self, orchestrator: Orchestrator, conversation: Conversation, connection: Connection) -> None:
        self._orchestrator = orchestrator
        self._conversation = conversation
        self._connection = connection
        self._open: dict[str, Subscription] = {}

    async def open(self, request: Mapping[str, Any]) -> Subscription:
        """Begin a subscription; `follow` feeds it. Raises `RefusedError`."""
        most = self._orchestrator.options.max_subscriptions
        if len(self._open) >= most:
            words = f"a connection has at most {most} subscriptions; end one, or open another connection"
            raise refuse("overloaded", words, temporary=True, retry_after_ms=1000)
        project, run_id = await self._conversation.queries.observed(request)
        head = self._orchestrator.head_of(project)
        epoch = self._orchestrator.epoch
        after = request.get("after")
        recovered = await self._is_recovered(project, run_id, request, head)
        offset = after if recovered and after is not None else head
        one = Subscription(
            self._orchestrator.new_id(),
            project,
            run_id,
            frozenset(request["types"]) if "types" in request else None,
            offset,
            {},
            principal=self._conversation.principal,
            told_at=trio.current_time(),
        )
        one.opening = {"subscriptionId": one.id, "offset": offset, "epoch": epoch, "recovered": recovered}
        self._open[one.id] = one
        return one

    async def _is_recovered(self, project: str, run_id: str | None, request: Mapping[str, Any], head: int) -> bool:
        """Whether nothing of what the subscriber asks for is missing: its run exists, or its log is still this one."""
        if request.get("after", 0) > head:
            return False
        if run_id is not None:
            return await self._orchestrator.run_exists(project, run_id)
        if "after" not in request:
            return True
        return bool(request.get("epoch") == self._orchestrator.epoch)

    def close(self, subscription_id: str) -> dict[str, Any]:
        """End a subscription. Raises `RefusedError` (`invalid_message`) for one that isn't open."""
        one = self._open.pop(subscription_id, None)
        if one is None:
            raise refuse("invalid_message", f"no subscription `{subscription_id}` is open on this connection")
        one.scope.cancel()
        return {"subscriptionId": one.id, "offset": one.offset}

    async def follow(self, one: Subscription) -> None:
        """Tell a subscriber of everything after its offset, until it is ended or the connection goes."""
        self._orchestrator.subscribers += 1
        try:
            with one.scope:
                while True:
                    await self._tell_next(one)
        except ConnectionClosedError:
            pass  # nobody is left to be told; the session's reader notices the same
        finally:
            self._orchestrator.subscribers -= 1
            self._open.pop(one.id, None)

    async def _tell_next(self, one: Subscription) -> None:
        growth = self._orchestrator.growth()
        if not self._conversation.may_follow(one.project, one.principal):
            one.scope.cancel()  # who it was may no longer look; what the connection is told is its session's business
            await trio.lowlevel.checkpoint()
        try:
            page = await self._orchestrator.read_log(one.project, after=one.offset, run_id=one.run_id)
        except StorageFailedError as failure:
            self._orchestrator.log.warning("subscriber_waits_for_store", error=str(failure))
            await trio.sleep(RETRY_SECONDS)
            return
        if page.offset == one.offset:
            await growth.wait()
            return
        for offset, events in cut(page, one):
            is_due = trio.current_time() - one.told_at >= CURSOR_SECONDS
            if events or is_due:
                await self._connection.send(published(one.id, offset, events))
                one.told_at = trio.current_time()
            one.offset = offset
        await trio.sleep(gather_seconds(self._orchestrator.subscribers))


def gather_seconds(subscribers: int) -> float:
    """How long each of so many subscribers waits after it was told something."""
    return min(MOST_GATHER_SECONDS, LEAST_GATHER_SECONDS + GATHER_SECONDS_EACH * subscribers)


def cut(page: LogPage, one: Subscription) -> list[tuple[int, list[bytes]]]:
    """What a subscriber wants of a page, in messages of a bounded size: (offset after it, events)."""
    parts: list[tuple[int, list[bytes]]] = []
    events: list[bytes] = []
    size = 0
    for offset, kind, encoded in page.events:
        if offset <= one.offset or (one.types is not None and kind not in one.types):
            continue
        if events and size + len(encoded) > MAX_PUBLISHED_BYTES:
            parts.append((offset - 1, events))
            events, size = [], 0
        events.append(encoded)
        size += len(encoded)
    return [*parts, (page.offset, events)]


def published(subscription_id: str, offset: int, events: Sequence[bytes]) -> bytes:
    """The message `published`. The events are encoded already, once for all subscribers."""
    head = b'{"type":"published","payload":{"subscriptionId":%b,"offset":%d' % (orjson.dumps(subscription_id), offset)
    return head + b',"events":[' + b",".join(events) + b"]}}"
