"""What every fault must leave true, as pure functions: acknowledged ⊆ stored ⊆ sent, nothing twice, order kept.

Each returns the violations that it found, in words. The log is read without the server and without its code.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

SERVERS_OWN = ("run/", "stream/", "system/")
REFUSED = "run/refused"
FROM_CLIENTS = ("run/plan", "run/error")


@dataclass(frozen=True, slots=True)
class Stored:
    """One event of the log: a client's, or the server's note that it refused one (`is_refused`)."""

    offset: int
    run_id: str | None
    id: str
    stream: str | None = None
    seq: int | None = None
    is_refused: bool = False


@dataclass(slots=True)
class StreamLedger:
    """What a stream's client knows: the id of every event that it sent, by seq, and how far it was acknowledged."""

    stream_id: str
    run_id: str
    sent: dict[int, str] = field(default_factory=dict)
    acked: int = 0
    receipt: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 over the lines `seq:id` of all that was sent, as the protocol has it."""
        return digest_of(self.sent)


@dataclass(slots=True)
class PlainLedger:
    """What a plain client knows: the ids of what it sent into a run, each once, and of what was answered for."""

    run_id: str
    sent: list[str] = field(default_factory=list)
    acked: set[str] = field(default_factory=set)


def digest_of(sent: Mapping[int, str]) -> str:
    """The reference for a receipt's digest."""
    return hashlib.sha256("".join(f"{seq}:{sent[seq]}\n" for seq in sorted(sent)).encode()).hexdigest()


def stream_violations(ledger: StreamLedger, log: Iterable[Stored]) -> list[str]:
    """P1, P2 and P3 of one stream."""
    mine = [one for one in log if one.stream == ledger.stream_id and one.seq is not None]
    at = [one.seq for one in sorted(mine, key=lambda one: one.offset)]
    name, found = f"stream `{ledger.stream_id}`", []
    found += _twice(name, at)
    lost = sorted(set(range(1, ledger.acked + 1)) - set(at))
    if lost:
        found.append(f"{name}: seq {_some(lost)} was acknowledged, and is not stored")
    for one in mine:
        if ledger.sent.get(one.seq or 0) != one.id:
            found.append(f"{name}: seq {one.seq} is stored as `{one.id}`, and was not sent so")
        if one.run_id != ledger.run_id:
            found.append(f"{name}: seq {one.seq} is stored in run `{one.run_id}`")
    once = list(dict.fromkeys(at))
    if once != list(range(1, len(once) + 1)):
        found.append(f"{name}: the log has its seqs as {_some(once)}, not in order without a hole")
    return found


def receipt_violations(ledger: StreamLedger, log: Iterable[Stored]) -> list[str]:
    """What the receipt says, beside what the client sent and what the log holds."""
    name, receipt = f"stream `{ledger.stream_id}`", ledger.receipt
    if receipt is None:
        return [f"{name}: it has no receipt"]
    mine = [one for one in log if one.stream == ledger.stream_id and one.seq is not None]
    refused = sum(one.is_refused for one in mine)
    expected = {
        "lastSeq": len(ledger.sent),
        "accepted": len(mine) - refused,
        "refused": refused,
        "digest": ledger.digest,
        "complete": True,
    }
    return [
        f"{name}: the receipt says {key} {receipt.get(key)!r}, not {value!r}"
        for key, value in expected.items()
        if receipt.get(key) != value
    ]


def plain_violations(ledger: PlainLedger, log: Iterable[Stored]) -> list[str]:
    """P1 and P2 of plain events in one run. (They may be sent again in any order, so they have no order to keep.)"""
    stored = [one.id for one in log if one.run_id == ledger.run_id and one.stream is None]
    name = f"run `{ledger.run_id}`"
    found = _twice(name, stored)
    if lost := sorted(ledger.acked - set(stored)):
        found.append(f"{name}: {_some(lost)} was acknowledged, and is not stored")
    if strange := sorted(set(stored) - set(ledger.sent)):
        found.append(f"{name}: {_some(strange)} is stored, and was not sent")
    return found


def hole_violations(name: str, seen: Sequence[int], *, first: int, last: int) -> list[str]:
    """P4: the offsets that a subscriber of a whole project saw are all there are, in order, each once."""
    expected = list(range(first, last + 1))
    if list(seen) == expected:
        return []
    missed = sorted(set(expected) - set(seen))
    if missed:
        return [f"{name} missed {len(missed)} events: {_some(missed)}"]
    return [*_twice(name, seen), f"{name} saw {len(seen)} events out of order or twice"]


def database_violations(database: Path) -> list[str]:
    """What SQLite itself says of the file."""
    with _opened(database) as connection:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    connection.close()
    return [] if found == ["ok"] else [f"integrity_check: {one}" for one in found]


def stored_log(database: Path) -> list[Stored]:
    """The log of a SQLite database, of all projects: the events of clients and the refusals of such, in its order."""
    query = (
        "SELECT batches.first_offset, runs.run_id, batches.source, batches.encoding, batches.body FROM batches "
        "LEFT JOIN runs ON runs.id = batches.run ORDER BY batches.project_id, batches.last_offset"
    )
    found: list[Stored] = []
    with _opened(database) as connection:
        for first, run_id, source, encoding, body in connection.execute(query):
            text = zstandard.ZstdDecompressor().decompress(body, max_output_size=1 << 28) if encoding else body
            stream = json.loads(source).get("stream")
            found += filter(None, (
                stored_event(offset, run_id, stream, wire) for offset, wire in enumerate(json.loads(text), first)
            ))  # fmt: skip
    connection.close()
    return found


def stored_event(offset: int, run_id: str | None, stream: str | None, wire: Mapping[str, Any]) -> Stored | None:
    """An event of the log as the oracle sees it; None for the server's own notes."""
    kind, payload = wire["type"], wire["payload"]
    if kind == REFUSED:
        return Stored(offset, run_id, payload.get("eventId") or "", stream, payload.get("seq"), is_refused=True)
    if kind.startswith(SERVERS_OWN) and kind not in FROM_CLIENTS:
        return None
    return Stored(offset, run_id, wire["id"], stream, wire.get("seq"))


def _opened(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)


def _twice(name: str, found: Sequence[object]) -> list[str]:
    again = [one for one, times in Counter(found).items() if times > 1]
    return [f"{name}: {_some(again)} comes twice"] if again else []


def _some(found: Sequence[object]) -> str:
    shown = ", ".join(f"`{one}`" for one in found[:5])
    return shown if len(found) <= 5 else f"{shown} and {len(found) - 5} more"
