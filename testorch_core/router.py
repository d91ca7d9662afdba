"""Message type -> what is done with it, and the type of the answer."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from testorch_core.conversation import Conversation
from testorch_core.errors import refuse

Handler = Callable[[Conversation, Mapping[str, Any]], Awaitable[Any]]

EVENT_TYPES: Final = frozenset({"event", "events"})
"""Messages that are not answered when all is well."""

HELLO: Final = "hello"
HEARTBEAT: Final = "heartbeat"
SUBSCRIBE: Final = "subscribe"
UNSUBSCRIBE: Final = "unsubscribe"


async def _hello(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return await conversation.hello(request)


async def _stream_end(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return await conversation.end_stream(request)


async def _runs(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    rows, cursor = await conversation.queries.runs(request)
    return {"runs": [one.payload() for one in rows], "cursor": cursor}


async def _results(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    rows, cursor = await conversation.queries.results(request)
    return {"results": [one.payload() for one in rows], "cursor": cursor}


async def _history(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    rows, cursor = await conversation.queries.history(request)
    return {"results": [one.payload() for one in rows], "cursor": cursor}


async def _start(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return (await conversation.start_run(request)).payload()


async def _end(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return (await conversation.end_run(request)).payload()


async def _cancel(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return (await conversation.cancel_run(request)).payload()


async def _active_runs(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return [one.payload() for one in await conversation.queries.active_runs(request)]


async def _run_status(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return (await conversation.queries.run_status(request)).payload()


async def _ticket(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return await conversation.ticket()


async def _statistics(conversation: Conversation, request: Mapping[str, Any]) -> Any:
    return await conversation.queries.statistics(request)


REQUESTS: Final[Mapping[str, tuple[str, Handler]]] = {
    HELLO: ("welcome", _hello),
    "startTestRun": ("testRunStarted", _start),
    "endTestRun": ("testRunEnded", _end),
    "cancelTestRun": ("testRunEnded", _cancel),
    "getActiveRuns": ("activeRuns", _active_runs),
    "getRunStatus": ("runStatus", _run_status),
    "getRuns": ("runs", _runs),
    "getResults": ("results", _results),
    "getHistory": ("history", _history),
    "getStatistics": ("statistics", _statistics),
    "streamEnd": ("receipt", _stream_end),
    "getTicket": ("ticket", _ticket),
}
"""Requests, each with the type of its answer."""

KNOWN_TYPES: Final = frozenset({*EVENT_TYPES, *REQUESTS, HEARTBEAT, SUBSCRIBE, UNSUBSCRIBE})
"""All that a client may say. The session itself does what is not in `REQUESTS`."""


async def answer(conversation: Conversation, kind: str, request: Mapping[str, Any]) -> tuple[str, Any]:
    """Do what a checked request asks; returns the answer's type and payload. Raises `RefusedError`."""
    answer_type, handler = REQUESTS[kind]
    return answer_type, await handler(conversation, request)


def require_known(kind: str) -> None:
    """Raises `RefusedError` (`unknown_type`) with a near miss for a type that no message has."""
    if kind in KNOWN_TYPES:
        return
    known = sorted(KNOWN_TYPES)
    near = difflib.get_close_matches(kind, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "known: " + ", ".join(f"`{one}`" for one in known)
    raise refuse("unknown_type", f"no message has the type `{kind[:100]}`; {hint}")
