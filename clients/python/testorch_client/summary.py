"""The one line that pytest prints at the end. Pure."""

from __future__ import annotations

from testorch_client.delivery import Delivery

_SHORT_RUN_ID = 8


def summary_line(delivery: Delivery, *, tests: int) -> str:
    """Whether everything arrived, or what didn't and why."""
    if delivery.is_complete:
        return f"testorch: run {_short(delivery.run_id)} — {_tests(tests)} delivered and confirmed"
    if not delivery.sent:
        return f"testorch: nothing sent — {delivery.error or _losses(delivery)}"
    parts = [_losses(delivery), delivery.error]
    return f"testorch: run {_short(delivery.run_id)} — " + "; ".join(part for part in parts if part)


def _losses(delivery: Delivery) -> str:
    parts = []
    if delivery.unconfirmed:
        parts.append(f"{delivery.unconfirmed:,} events not confirmed")
    if delivery.refused:
        codes = ", ".join(f"{code} {count:,}" for code, count in sorted(delivery.refused_by_code.items()))
        parts.append(f"{delivery.refused:,} events refused ({codes})")
    if delivery.dropped:
        parts.append(f"{delivery.dropped:,} events dropped, the queue was full")
    return ", ".join(parts)


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count:,} tests"


def _short(run_id: str | None) -> str:
    # Ids that we make are long and random; those that people give are worth reading in full.
    text = run_id or "?"
    is_random = len(text) == 32 and all(character in "0123456789abcdef" for character in text)
    return f"{text[:_SHORT_RUN_ID]}…" if is_random else text
