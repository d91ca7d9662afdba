"""What a finished run leaves for statistics: a histogram of durations, its slowest and its flaky tests. Pure.

Made once, when the run ends (and again when late events change it), so that statistics over many runs never scan
results.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from testorch_core.results import RunRow
from testorch_core.runs import RunState, standing

SLOTS_PER_DOUBLING: Final = 4
"""Logarithmic slots, four for each doubling: a percentile read from them is within 2**(1/8), 9 %, of the true one."""

KEPT: Final = 20
"""How many of a run's slowest and flaky tests are kept."""


def slot_of(duration_ms: float) -> int:
    """The histogram slot of a duration; everything up to 1/16 ms shares the lowest."""
    return round(math.log2(max(duration_ms, 1 / 16)) * SLOTS_PER_DOUBLING)


def duration_of(slot: int) -> float:
    """The duration in milliseconds that stands for a slot: its middle on the logarithmic scale."""
    return float(2 ** (slot / SLOTS_PER_DOUBLING))


def summarize(state: RunState) -> bytes:
    """The summary of a finished run as JSON."""
    durations = [(one.duration_ms, test_id) for test_id, one in state.attempts.items() if one.duration_ms is not None]
    flaky = (
        test_id
        for test_id in state.earlier
        if standing(state.attempts[test_id], state.earlier[test_id], interrupted=True).flaky
    )
    return orjson.dumps(
        {
            "timed": len(durations),
            "totalMs": sum(duration for duration, _ in durations),
            "histogram": sorted(Counter(slot_of(duration) for duration, _ in durations).items()),
            "slowest": [[test_id, duration] for duration, test_id in heapq.nlargest(KEPT, durations)],
            "flaky": heapq.nsmallest(KEPT, flaky),
        }
    )


def percentile(histogram: Counter[int], share: float) -> float | None:
    """The duration in milliseconds below which `share` (0 to 1) of the counted tests lie; None of an empty histogram."""
    rank = share * histogram.total()
    seen = 0
    for slot in sorted(histogram):
        seen += histogram[slot]
        if seen >= rank:
            return duration_of(slot)
    return None


def statistics_of(rows: Sequence[RunRow]) -> dict[str, Any]:
    """Statistics over the given runs, from their rows alone.

    `passRate` is the share of the finished, uninterrupted runs that passed, None without any. Durations are of single
    tests, in milliseconds.
    """
    statuses = [row.run_status() for row in rows]
    decided = [one for one in statuses if one.status in ("passed", "failed")]
    histogram: Counter[int] = Counter()
    timed, total_ms = 0, 0.0
    slowest: dict[str, float] = {}
    flaky: Counter[str] = Counter()
    for summary in _summaries(rows):
        histogram.update(dict(summary["histogram"]))
        timed += summary["timed"]
        total_ms += summary["totalMs"]
        flaky.update(summary["flaky"])
        for test_id, duration in summary["slowest"]:
            slowest[test_id] = max(duration, slowest.get(test_id, 0.0))
    p95 = percentile(histogram, 0.95)
    return {
        "runs": len(statuses),
        "activeRuns": sum(not one.is_over for one in statuses),
        "tests": sum(one.counts["total"] for one in statuses),
        "events": sum(one.events for one in statuses),
        "byStatus": dict(Counter(one.status for one in statuses)),
        "passRate": round(sum(one.status == "passed" for one in decided) / len(decided), 4) if decided else None,
        "meanDurationMs": round(total_ms / timed, 3) if timed else None,
        "p95DurationMs": round(p95, 3) if p95 is not None else None,
        "slowestTests": [
            {"testId": test_id, "durationMs": duration}
            for test_id, duration in heapq.nlargest(10, slowest.items(), key=lambda item: (item[1], item[0]))
        ],
        "flakiestTests": [{"testId": test_id, "runs": runs} for test_id, runs in flaky.most_common(10)],
    }


def _summaries(rows: Iterable[RunRow]) -> Iterable[dict[str, Any]]:
    return (orjson.loads(row.summary) for row in rows if row.summary is not None)
