"""What became of the events of a run: the receipt that `Client.close` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Every event that was emitted is counted once: confirmed, refused, dropped or unconfirmed.

    `confirmed` events are committed by the server. `unconfirmed` ones may have arrived, or not. `refused` ones were
    answered with an error (`refused_by_code`), `dropped` ones found the queue full. `sent` counts what was written
    to a connection at least once. `error` is a sentence if anything went wrong with the delivery as a whole; `status`
    is the run's last status that the server sent (the protocol's *A status*).
    """

    run_id: str | None
    sent: int
    confirmed: int
    refused: int
    dropped: int
    unconfirmed: int
    refused_by_code: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    status: Mapping[str, Any] | None = None

    @property
    def is_complete(self) -> bool:
        """Is it proved that the server has everything?"""
        return self.error is None and not (self.refused or self.dropped or self.unconfirmed)
