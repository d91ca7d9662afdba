"""What the server says about a stream, read into values. Pure; whatever it says, nothing but `Rejected` is raised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testorch_client.errors import Rejected

SEQUENCE_GAP = "sequence_gap"
DEFAULT_HEARTBEAT_MS = 2_000
DEFAULT_MESSAGE_BYTES = 2**20
DEFAULT_IN_FLIGHT = 1_000
DEFAULT_RETRY_MS = 1_000
# A server that says "at once" is not asked in a tight loop, one that says "tomorrow" not left for so long.
MIN_RETRY_MS = 20
MAX_RETRY_MS = 30_000
MIN_HEARTBEAT_MS = 100
_MAX_MESSAGE_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The server's answer to `hello`: where to go on, and within which limits."""

    epoch: str
    acked_seq: int
    run_id: str | None
    heartbeat_seconds: float
    max_message_bytes: int
    max_in_flight: int

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> Welcome:
        acked_seq = payload.get("ackedSeq")
        if type(acked_seq) is not int or acked_seq < 0:
            raise Rejected("the server's `welcome` has no `ackedSeq`; expected a number from 0 on")
        run_id = payload.get("runId")
        return cls(
            epoch=str(payload.get("epoch", "")),
            acked_seq=acked_seq,
            run_id=run_id if isinstance(run_id, str) else None,
            heartbeat_seconds=max(_positive(payload, "heartbeatMs", DEFAULT_HEARTBEAT_MS), MIN_HEARTBEAT_MS) / 1000,
            max_message_bytes=_positive(payload, "maxMessageBytes", DEFAULT_MESSAGE_BYTES),
            max_in_flight=_positive(payload, "maxInFlight", DEFAULT_IN_FLIGHT),
        )


def _positive(payload: Mapping[str, Any], name: str, default: int) -> int:
    value = payload.get(name)
    return value if type(value) is int and value > 0 else default


@dataclass(frozen=True, slots=True)
class Refusal:
    """An `error` of the server's. `seq`, if given, is the event that it is about, or that is expected next."""

    code: str
    seq: int | None
    is_temporary: bool
    retry_seconds: float
    message: str

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> Refusal:
        seq, retry_ms = payload.get("seq"), payload.get("retryAfterMs")
        if not isinstance(retry_ms, int | float):
            retry_ms = DEFAULT_RETRY_MS
        return cls(
            code=str(payload.get("code", "internal")),
            seq=seq if type(seq) is int and seq > 0 else None,
            is_temporary=bool(payload.get("temporary")),
            retry_seconds=min(MAX_RETRY_MS, max(MIN_RETRY_MS, retry_ms)) / 1000,
            message=str(payload.get("message", ""))[:_MAX_MESSAGE_CHARACTERS],
        )

    def sentence(self, refused: str) -> str:
        return f"the server refused `{refused}` with `{self.code}`" + (f": {self.message}" if self.message else "")
