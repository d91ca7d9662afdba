"""Decisions about connections, without any I/O: what to do after an end, how long to wait, what to print."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from testorch_client.errors import Closed, LinkError, Unreachable

FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 5.0

# Above 4000 the protocol's own codes: too slow or over a limit is worth another try, the rest is not.
_RETRIED_CODES = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1014, 4008, 4408, 4429})
_RESTARTING_CODES = frozenset({1001, 1012})
# Statuses of a server or a proxy before it that may be gone in a moment.
_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do after a connection has ended; `is_restarting` if the server said that it comes back."""

    action: Literal["retry", "split", "stop"]
    is_restarting: bool = False


def after(failure: LinkError) -> Verdict:
    """What the client does after a connection has failed (close codes: the protocol's table)."""
    if isinstance(failure, Unreachable):
        return Verdict("retry")
    if isinstance(failure, Closed):
        if failure.code == 1009:
            return Verdict("split")
        if failure.code in _RETRIED_CODES:
            return Verdict("retry", is_restarting=failure.code in _RESTARTING_CODES)
    return Verdict("stop")


def is_retried_status(status: int) -> bool:
    return status in _RETRIED_STATUSES


def backoff_seconds(failures: int, random: Callable[[], float]) -> float:
    """Full jitter: anything between nothing and 0.1 s · 2ⁿ, at most 5 s. `random` gives numbers from 0 to 1."""
    longest_seconds: float = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(failures, 10))
    return random() * longest_seconds


def redacted(url: str) -> str:
    """The address without credentials: neither user and password nor a query, where tokens like to hide."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "<not an address>"
    if ":" in host:
        host = f"[{host}]"
    credentials = "***@" if "@" in parts.netloc else ""
    return f"{parts.scheme}://{credentials}{host}{port}{parts.path}" + ("?***" if parts.query else "")
