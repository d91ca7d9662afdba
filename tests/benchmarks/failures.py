"""What ends a benchmark: a result that is not correct. Slowness never does."""

from __future__ import annotations


class FailedRunError(Exception):
    """A server answered wrongly, or not at all; its numbers would be worth nothing."""


class NotSupportedError(Exception):
    """A server doesn't know a message yet; the benchmark is left out, and the table says so."""


def require_equal(what: str, found: object, expected: object) -> None:
    """Raises `FailedRunError` unless both are equal."""
    if found != expected:
        raise FailedRunError(f"{what}: {found!r}, expected {expected!r}")
