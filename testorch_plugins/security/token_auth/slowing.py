"""Who fails to authenticate again and again is answered later and later. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

FREE_FAILURES: Final = 5
FIRST_SECONDS: Final = 0.1
MOST_SECONDS: Final = 3.0
FORGET_SECONDS: Final = 60.0
MAX_ADDRESSES: Final = 10_000


class Slowing:
    """Failures by address. After the first few each answer takes twice as long, up to three seconds.

    An address is forgiven a minute after its last failure, or when ten thousand others have failed since.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def failed(self, address: str, now: float) -> float:
        """Count a failure; returns how many seconds its answer should wait."""
        count, last = self._failures.pop(address, (0, now))
        count = 1 if now - last > FORGET_SECONDS else count + 1
        self._failures[address] = count, now
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        beyond = count - FREE_FAILURES
        return 0.0 if beyond <= 0 else float(min(MOST_SECONDS, FIRST_SECONDS * 2 ** min(beyond - 1, 10)))
