"""What a security policy has answered, held against its interface: whatever else it is raises `ValueError`. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from testorch_core.errors import Problem
from testorch_core.events import WireEvent
from testorch_core.host_values import admitted
from testorch_core.interfaces.security import Admission, Allow, Close, Delay, Principal, Refuse
from testorch_core.protocol import MAX_INTEGER, envelope_is_fine

MAX_PRINCIPAL_CHARACTERS: Final = 200
MAX_AMENDED_BYTES: Final = 64 * 1024 * 1024
KEPT: Final = ("id", "type", "runId", "project", "seq")
"""What amending must leave as it is: by these an event is addressed, counted and told of."""


def principal_in(said: Any) -> Principal | None:
    """Who a policy says that this is; the name is written to the log, so it must be storable text."""
    if said is None:
        return None
    if not isinstance(said, Principal) or not _is_name(said.name):
        raise ValueError("not a principal")
    if said.projects is not None and not (
        isinstance(said.projects, frozenset | set) and all(map(_is_text, said.projects))
    ):
        raise ValueError("not a set of projects")
    return said


def admission_in(said: Any) -> Admission:
    """What a policy says of a message."""
    if isinstance(said, Allow):
        return said
    if isinstance(said, Delay) and _is_real(said.seconds) and 0 <= said.seconds < math.inf:
        return said
    if isinstance(said, Refuse) and _is_text(said.code) and _is_text(said.reason) and _is_wait(said.retry_after_ms):
        return said
    if isinstance(said, Close) and _is_close_code(said.code) and _is_text(said.reason):
        return said
    raise ValueError("not an admission")


def problems_in(said: Any) -> Sequence[Problem]:
    """What a policy has against an event."""
    if not isinstance(said, Sequence) or isinstance(said, str | bytes):
        raise ValueError("not a list of problems")
    if not all(isinstance(one, Problem) and _is_text(one.path) and _is_text(one.problem) for one in said):
        raise ValueError("not problems")
    return said


def event_in(said: Any, event: WireEvent) -> WireEvent:
    """An event as a policy leaves it: still the same event, and still one that a store can keep."""
    amended: WireEvent = said
    if amended is event:
        return amended
    amended = admitted(said, max_bytes=MAX_AMENDED_BYTES).value
    if not envelope_is_fine(amended) or any(amended.get(key) != event.get(key) for key in KEPT):
        raise ValueError("not the same event")
    return amended


def _is_text(said: Any) -> bool:
    return isinstance(said, str)


def _is_name(said: Any) -> bool:
    """Whether a name can be stored: not NUL, not half a character."""
    if not isinstance(said, str) or not 0 < len(said) <= MAX_PRINCIPAL_CHARACTERS or "\x00" in said:
        return False
    return said.encode("utf-8", "ignore").decode() == said


def _is_real(said: Any) -> bool:
    return isinstance(said, int | float) and not isinstance(said, bool)


def _is_wait(said: Any) -> bool:
    return said is None or (type(said) is int and 0 <= said <= MAX_INTEGER)


def _is_close_code(said: Any) -> bool:
    return type(said) is int and (4000 <= said < 5000 or 1008 <= said < 1014)
