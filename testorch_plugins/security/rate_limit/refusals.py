"""What is remembered of connections that were refused: who came back too early, and who waited. Pure."""

from __future__ import annotations

from typing import Final

from testorch_plugins.security.rate_limit.bucket import Bucket, Limits, Rate
from testorch_plugins.security.rate_limit.table import Table

HAMMERING_SECONDS: Final = 10.0
"""The time over which early messages are counted."""

FORGET_SECONDS: Final = 30.0
"""How long after the time that it was told a connection's waiting is still held in its favour."""


class Told:
    """One connection: when it was told to come again, and its early messages, counted by GCRA as well."""

    __slots__ = ("early", "has_waited", "retry_at")

    def __init__(self, now: float) -> None:
        self.early = Bucket(now)
        self.retry_at = now
        self.has_waited = True
        """Whether it has kept to what it was told since it passed last."""

    def is_idle(self, now: float) -> bool:
        return now > self.retry_at + FORGET_SECONDS and self.early.is_idle(now)


class Refusals:
    """The connections that were refused lately, at most `most`. Those beyond are refused as well, and never closed."""

    def __init__(self, *, max_early: int, most: int) -> None:
        self._limits = Limits("early", Rate(max_early / HAMMERING_SECONDS, max_early), None)
        self._table: Table[Told] = Table(most)

        self.are_any = False
        """Whether there ever was one."""

    def __len__(self) -> int:
        return len(self._table)

    def has_waited(self, connection: str | None, now: float) -> bool:
        """Whether a connection has been refused and comes again when it was told to."""
        told = self._table.get(connection)
        return told is not None and told.has_waited and told.retry_at <= now <= told.retry_at + FORGET_SECONDS

    def passed(self, connection: str | None) -> None:
        """A message of a connection has passed. Its early ones stay counted: it would come early with the next one, too."""
        told = self._table.get(connection)
        if told is not None:
            told.has_waited = False

    def refused(self, connection: str, now: float, wait_seconds: float) -> bool:
        """Note that a connection is refused and told to wait. True if it has come too early once too often."""
        told = self._table.get(connection)
        if told is None:
            told = Told(now)
            self.are_any = True
            self._table.add(connection, told, now)
        is_early = now < told.retry_at
        told.retry_at = now + wait_seconds
        told.has_waited = not is_early
        if not is_early:
            return False
        if told.early.wait(self._limits, now, 1, 0) > 0:
            return True
        told.early.charge(self._limits, now, 1, 0)
        return False
