"""The one line that pytest prints at the end. Pure."""

from __future__ import annotations

from testorch_client.delivery import Delivery

_SHORT_RUN_ID = 8


def summary_line(delivery: Delivery, *, tests: int) -> str:
    """Whether everything arrived, or what didn't and why."""
    if not delivery.sent and not delivery.is_complete:
        return f"testorch: nothing sent — {delivery.error or ', '.join(_losses(delivery))}"
    parts = [f"{_count(tests, 'test')}, {_count(delivery.confirmed, 'event')} delivered", *_losses(delivery)]
    if delivery.receipt_matches:
        parts.append("receipt matches")
    said = ", ".join(parts)
    return f"testorch: run {_short(delivery.run_id)} — " + (f"{said}; {delivery.error}" if delivery.error else said)


def _losses(delivery: Delivery) -> list[str]:
    losses = []
    if delivery.unconfirmed:
        losses.append(f"{delivery.unconfirmed:,} not confirmed")
    if delivery.refused:
        codes = ", ".join(f"{code} {count:,}" for code, count in sorted(delivery.refused_by_code.items()))
        losses.append(f"{delivery.refused:,} refused ({codes})")
    if delivery.dropped:
        losses.append(f"{delivery.dropped:,} dropped, the queue was full")
    return losses


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _short(run_id: str | None) -> str:
    # Ids that we make are long and random; those that people give are worth reading in full.
    text = run_id or "?"
    is_random = len(text) == 32 and all(character in "0123456789abcdef" for character in text)
    return f"{text[:_SHORT_RUN_ID]}…" if is_random else text
