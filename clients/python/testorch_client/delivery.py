"""What became of the events of a run: what `Client.close` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testorch_client.receipt import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Every event that was emitted is counted once: confirmed, refused, dropped or unconfirmed.

    `confirmed` events are committed by the server. `unconfirmed` ones may have arrived, or not. `refused` ones were
    answered with an error, or not sent since no server would take them (`refused_by_code`); `dropped` ones found the
    queue full, or came after the end. `sent` counts what was written to a connection at least once. `error` is a
    sentence if anything went wrong with the delivery as a whole; `status` is the run's last status that the server
    sent (the protocol's *A status*).

    `receipt` is the server's own account, given once the client has ended its part of the run, and `receipt_matches`
    says whether that is the client's account, too: None without a receipt.
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
    receipt: Receipt | None = None
    receipt_matches: bool | None = None

    @property
    def is_complete(self) -> bool:
        """Is it proved that the server has everything?

        By its receipt, where the client has ended its part; else by its acknowledgements alone.
        """
        is_all_there = not (self.refused or self.dropped or self.unconfirmed)
        return is_all_there and self.error is None and self.receipt_matches is not False
