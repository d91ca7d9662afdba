"""Many streams that one process holds on non-blocking sockets: they come, stay, are cut off and come back."""

from __future__ import annotations

import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

from benchmarks.failures import FailedRunError
from benchmarks.streams import now
from benchmarks.visits import Member, TurnedAwayError, Visit

RETRY_SECONDS = 0.25
TRY_SECONDS = 60.0
"""How long one try may take, from connecting to the last answer; then it is given up for another one."""
MOST_TRIES = 20
LOOK_SECONDS = 0.05
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time; closing sends RST."""


class Herd:
    """Members of which each has a connection or is on its way to one."""

    def __init__(self, address: tuple[str, int], members: Sequence[Member]) -> None:
        self.members = members
        self._address = address
        self._selector = selectors.DefaultSelector()
        self._visits: dict[Member, Visit] = {}
        self._away: set[Member] = set()
        self._retries: deque[tuple[float, Member]] = deque()
        self._deadlines: deque[tuple[float, Member, Visit]] = deque()

    @property
    def visits(self) -> Sequence[Visit]:
        """Their connections."""
        return list(self._visits.values())

    def bring(self, *, at_once: int | None = None) -> None:
        """Bring all in that are not, at most so many at the same time (None: all). Returns once all are greeted.

        Raises `FailedRunError` when one is turned away `MOST_TRIES` times, or is answered wrongly.
        """
        due = deque(member for member in self.members if member not in self._visits)
        self._away = set(due)
        for member in due:
            member.tries = 0
        while self._away:
            free = (at_once or len(self.members)) - (len(self._away) - len(due) - len(self._retries))
            for _ in range(min(free, len(due))):
                self._set_out(due.popleft())
            self._look(LOOK_SECONDS)
            while self._retries and self._retries[0][0] <= now():
                due.append(self._retries.popleft()[1])
            self._give_up_late_tries()
        self._deadlines.clear()

    def hold(self, is_over: Callable[[], bool]) -> None:
        """Stay, and answer pings. Raises `FailedRunError` when a connection ends."""
        while not is_over():
            self._look(LOOK_SECONDS)

    def cut(self) -> None:
        """End all connections at once, every second one by RST, the others by FIN. Nobody says goodbye."""
        for number, visit in enumerate(self._visits.values()):
            if number % 2:
                visit.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            else:  # closing alone would be an RST where a ping is unread
                visit.shut()
            visit.socket.close()
        self._visits.clear()
        self._selector.close()
        self._selector = selectors.DefaultSelector()

    def _set_out(self, member: Member) -> None:
        member.tries += 1
        try:
            visit = self._visits[member] = Visit(self._address, member.words())
        except TurnedAwayError as reason:
            self._turned_away(member, reason)
            return
        self._selector.register(visit.socket, selectors.EVENT_WRITE, member)
        self._deadlines.append((now() + TRY_SECONDS, member, visit))

    def _look(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            member: Member = key.data
            visit = self._visits[member]
            was_connected = visit.is_connected
            try:
                visit.go_on()
            except TurnedAwayError as reason:
                self._turned_away(member, reason)
                continue
            if not was_connected:
                self._selector.modify(visit.socket, selectors.EVENT_READ, member)
            if visit.is_done and member in self._away:
                member.check(visit.answers)
                self._away.discard(member)

    def _turned_away(self, member: Member, reason: TurnedAwayError) -> None:
        if member not in self._away:
            raise FailedRunError(f"{member.stream_id} lost the connection that it held: {reason}")
        if member.tries >= MOST_TRIES:
            raise FailedRunError(f"{member.stream_id} was turned away {member.tries} times, the last time: {reason}")
        visit = self._visits.pop(member, None)
        if visit is not None:
            self._selector.unregister(visit.socket)
            visit.socket.close()
        self._retries.append((now() + RETRY_SECONDS, member))

    def _give_up_late_tries(self) -> None:
        while self._deadlines and self._deadlines[0][0] <= now():
            _, member, visit = self._deadlines.popleft()
            if member in self._away and self._visits.get(member) is visit:
                self._turned_away(member, TurnedAwayError(f"no answer within {TRY_SECONDS:.0f} s"))
