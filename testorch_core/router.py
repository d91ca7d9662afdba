"""Message type -> what is done with it, and the type of the answer."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from testorch_core.conversation import Conversation
from testorch_core.errors import refuse
from testorch_core.protocol import check_payload

Handler = Callable[[Conversation, Mapping[str, Any]], Awaitable[Any]]

EVENT_TYPES: Final = frozenset({"event", "events"})
"""Messages that are not answered when all is well."""


async def _start(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return (await conversation.start_run(request)).payload()


async def _end(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return (await conversation.end_run(request)).payload()


async def _cancel(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return (await conversation.cancel_run(request)).payload()


async def _active_runs(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return [one.payload() for one in await conversation.active_runs(request)]


async def _run_status(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return (await conversation.run_status(request)).payload()


async def _statistics(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return await conversation.statistics(request)


REQUESTS: Final[Mapping[str, tuple[str, Handler]]] = {
    "startTestRun": ("testRunStarted", _start),
    "endTestRun": ("testRunEnded", _end),
    "cancelTestRun": ("testRunEnded", _cancel),
    "getActiveRuns": ("activeRuns", _active_runs),
    "getRunStatus": ("runStatus", _run_status),
    "getStatistics": ("statistics", _statistics),
}
"""Requests, each with the type of its answer."""


async def answer(conversation: Conversation, kind: str, payload: Any) -> tuple[str, Any]:
    """Do what a request asks; returns the answer's type and payload. Raises `RefusedError`."""
    answer_type, handler = REQUESTS[kind]
    return answer_type, await handler(conversation, check_payload(kind, payload))


def require_known(kind: str) -> None:
    """Raises `RefusedError` (`unknown_type`) with a near miss for a type that no message has."""
    if kind in EVENT_TYPES or kind in REQUESTS:
        return
    known = sorted({*EVENT_TYPES, *REQUESTS})
    near = difflib.get_close_matches(kind, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "known: " + ", ".join(f"`{one}`" for one in known)
    raise refuse("unknown_type", f"no message has the type `{kind[:100]}`; {hint}")
