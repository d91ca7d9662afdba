"""How many connections each principal has open."""

from __future__ import annotations

from collections import Counter

from testorch_core.interfaces.security import Principal


class Crowd:
    """Counts connections by principal. Whom no policy knows is not counted: the transports count by address."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[tuple[str, str]] = Counter()

    def take(self, principal: Principal) -> bool:
        """Count one more connection; False, and not counted, if the principal has as many as it may have."""
        if principal.issuer is None:
            return True
        key = principal.issuer, principal.name
        if self._open[key] >= self._most:
            return False
        self._open[key] += 1
        return True

    def give_back(self, principal: Principal) -> None:
        """A connection that was counted has ended."""
        if principal.issuer is None:
            return
        key = principal.issuer, principal.name
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]
