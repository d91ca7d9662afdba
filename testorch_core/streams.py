"""How far a stream has come: its committed `seq`, its counts and the running digest of its receipt. Pure.

The digest is SHA-256 over the lines `seq:id\\n` (UTF-8) of every consumed event, refused ones included, in the order of
`seq`; an id that is not a string of 1 to 200 characters counts as empty.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from testorch_core import events as ev
from testorch_core.errors import Tally
from testorch_core.events import WireEvent
from testorch_core.payloads import text, whole

MAX_DIGESTED_ID_CHARACTERS: Final = 200
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRow:
    """A stream as a store keeps it: the committed `seq`, the counts and the digest so far of its receipt."""

    project: str
    stream_id: str
    run_id: str
    acked_seq: int
    accepted: int
    refused: int
    duplicates: int
    digest: bytes
    state: str


class StreamState:
    """One stream, as far as it is in the log. `complete` is None until the stream has asked for its receipt.

    `duplicates` is the one count that the log can't tell, since nothing is stored of a duplicate; so all copies share it.
    """

    __slots__ = ("_duplicates", "_hash", "accepted", "acked_seq", "complete", "principal", "refused", "stream_id")

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        self.acked_seq = 0
        self.accepted = 0
        self.refused = 0
        self.complete: bool | None = None
        self.principal: str | None = None
        """Who opened it: nobody else may resume it."""
        self._hash = hashlib.sha256()
        self._duplicates = Tally()

    def copy(self) -> StreamState:
        other = StreamState.__new__(StreamState)
        other.stream_id = self.stream_id
        other.acked_seq = self.acked_seq
        other.accepted = self.accepted
        other.refused = self.refused
        other.complete = self.complete
        other.principal = self.principal
        other._hash = self._hash.copy()
        other._duplicates = self._duplicates
        return other

    @property
    def duplicates(self) -> int:
        return self._duplicates.by_code.get("", 0)

    def count_duplicates(self, times: int) -> None:
        """Count events that were sent again. Not part of the log: a restart may forget the last of them."""
        self._duplicates.count("", times)

    @property
    def digest(self) -> bytes:
        return self._hash.digest()

    def consume(self, wires: Sequence[WireEvent]) -> None:
        """Take in what the log holds of this stream, in its order: events with a `seq`, and notes of refused ones.

        What has been taken in already, and the server's other notes, are passed over.
        """
        lines: list[str] = []
        for wire in wires:
            seq = wire.get("seq")
            if seq is None:
                seq, event_id = _refused_in(wire)
                if seq is None or seq <= self.acked_seq:
                    continue
                self.refused += 1
            else:
                if seq <= self.acked_seq:
                    continue
                event_id = wire["id"]
                self.accepted += 1
            self.acked_seq = seq
            lines.append(f"{seq}:{event_id}\n")
        if lines:
            self._hash.update("".join(lines).encode())

    def receipt(self, last_seq: int, digest: str | None) -> dict[str, Any]:
        """The receipt for a producer that says how many events it sent, and what their digest is."""
        agrees = digest is None or digest.lower() == self.digest.hex()
        return {
            "streamId": self.stream_id,
            "lastSeq": self.acked_seq,
            "accepted": self.accepted,
            "refused": self.refused,
            "duplicates": self.duplicates,
            "digest": self.digest.hex(),
            "complete": agrees and last_seq == self.acked_seq,
        }

    def shown(self) -> dict[str, Any]:
        """What a run's status says of the stream beside its state."""
        return {"stream": True, "accepted": self.accepted, "refused": self.refused, "complete": self.complete}

    def row(self, project: str, run_id: str, state: str) -> StreamRow:
        """As a store keeps it; `state` is the participant's."""
        return StreamRow(
            project=project,
            stream_id=self.stream_id,
            run_id=run_id,
            acked_seq=self.acked_seq,
            accepted=self.accepted,
            refused=self.refused,
            duplicates=self.duplicates,
            digest=self.digest,
            state=state,
        )


def digested_id(event: Any) -> str:
    """The id of a refused event as it enters the digest: itself if a store could keep it, else empty."""
    event_id = event.get("id") if isinstance(event, Mapping) else None
    if not isinstance(event_id, str) or len(event_id) > MAX_DIGESTED_ID_CHARACTERS:
        return ""
    return "" if _UNSTORABLE.search(event_id) else event_id


def _refused_in(wire: WireEvent) -> tuple[int | None, str]:
    if wire["type"] != ev.RUN_REFUSED:
        return None, ""
    return whole(wire["payload"], "seq", 1), text(wire["payload"], "eventId") or ""
