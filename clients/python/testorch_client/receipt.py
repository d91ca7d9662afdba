"""The proof of delivery: the digest that both sides compute, and the receipt in which the server tells its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class StreamDigest:
    """SHA-256 over the lines `seq:id` of a stream's events, in order, each ended by a newline and in UTF-8."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, seq: int, event_id: str) -> None:
        self._hash.update(f"{seq}:{event_id}\n".encode())

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the server has of a stream: of `last_seq` events it `accepted` some and `refused` the rest.

    `duplicates` were sent again, after a lost connection, and not stored again. `is_complete` is the server's own
    comparison with what the client said it had sent.
    """

    last_seq: int
    accepted: int
    refused: int
    duplicates: int
    digest: str
    is_complete: bool

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> Receipt:
        """The payload of a `receipt`; what is missing or of another type is -1 or empty, and so matches nothing."""

        def count(name: str) -> int:
            value = payload.get(name)
            return value if type(value) is int else -1

        return cls(
            last_seq=count("lastSeq"),
            accepted=count("accepted"),
            refused=count("refused"),
            duplicates=count("duplicates"),
            digest=str(payload.get("digest", "")),
            is_complete=payload.get("complete") is True,
        )

    def contradiction(self, *, last_seq: int, digest: str, refused: int) -> str | None:
        """How the receipt differs from the client's own account, in words; None if it matches.

        `refused` is how many refusals the client has heard of: there may be more, told to a connection that was lost.
        """
        if self.last_seq != last_seq:
            return f"the receipt is for {self.last_seq} events, {last_seq} were sent"
        if self.digest != digest:
            return f"the receipt's digest of {last_seq} events is not that of what was sent"
        if self.accepted + self.refused != last_seq or self.refused < refused:
            return (
                f"the receipt counts {self.accepted} accepted and {self.refused} refused events, "
                f"but {last_seq} were sent, and {refused} refusals received"
            )
        return None if self.is_complete else "the receipt says that the server has not everything"
