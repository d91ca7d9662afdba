"""Runs and results in the frozen forms in which they are stored, read and answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from testorch_core.runs import RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run as a store keeps it: the columns that queries need, and the whole status as JSON.

    `summary` is JSON too (duration histogram, slowest and flaky tests), made when the run is over, else None.
    """

    project: str
    run_id: str
    key: str | None
    status: str
    started_at: int
    ended_at: int | None
    last_offset: int
    fold_version: int
    document: bytes
    summary: bytes | None = None

    def run_status(self) -> RunStatus:
        return RunStatus.from_payload(orjson.loads(self.document))


class ResultRow(NamedTuple):
    """One attempt as a store keeps it. `begin` and `end` are the payloads of its start and end event as JSON.

    In an upsert a `begin` or `end` of None leaves what is stored; every other field replaces it.
    """

    run_id: str
    test_id: str
    attempt: int
    final: bool
    status: str
    ok: bool | None
    outcome: str | None
    duration_ms: float | None
    begin: bytes | None = None
    end: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One attempt as readers see it: the verdict, and all that its start and its end said (`details`, the end wins)."""

    project: str
    run_id: str
    test_id: str
    attempt: int
    final: bool
    status: str
    ok: bool | None
    outcome: str | None
    duration_ms: float | None
    details: Mapping[str, Any]

    @classmethod
    def from_row(cls, project: str, row: ResultRow) -> Result:
        details: dict[str, Any] = {}
        for part in (row.begin, row.end):
            details |= orjson.loads(part) if part is not None else {}
        return cls(
            project=project,
            run_id=row.run_id,
            test_id=row.test_id,
            attempt=row.attempt,
            final=row.final,
            status=row.status,
            ok=row.ok,
            outcome=row.outcome,
            duration_ms=row.duration_ms,
            details=details,
        )

    @property
    def name(self) -> str:
        """What to call the test: its name as given, else its id."""
        name = self.details.get("testName")
        return name if isinstance(name, str) and name else self.test_id

    @property
    def errors(self) -> tuple[Mapping[str, Any], ...]:
        """What went wrong, in the producer's order; empty for anything that is not a list of objects."""
        errors = self.details.get("errors")
        return tuple(one for one in errors if isinstance(one, dict)) if isinstance(errors, list) else ()

    def text(self, key: str) -> str | None:
        """A detail if it is a string."""
        value = self.details.get(key)
        return value if isinstance(value, str) else None

    def payload(self) -> dict[str, Any]:
        """The result as queries answer it: the details, overruled by the verdict."""
        verdict = {
            "runId": self.run_id,
            "testId": self.test_id,
            "attempt": self.attempt,
            "final": self.final,
            "status": self.status,
            "ok": self.ok,
            "outcome": self.outcome,
            "durationMs": self.duration_ms,
        }
        return {**self.details, **verdict}
