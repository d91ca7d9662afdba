"""Load at a steady rate, whatever the server does: an open loop, whose schedule is fixed before it begins."""

from __future__ import annotations

import select
from array import array
from collections.abc import Callable, Sequence

from benchmarks.failures import FailedRunError
from benchmarks.scripts import Script, write_script
from benchmarks.streams import Stream, now

CONNECTIONS = 8
STUCK_SECONDS = 30.0


def paced_scripts(events: int) -> list[Script]:
    """The scripts of a steady load, one event a message, dealt to the connections in turn."""
    return [write_script(events // CONNECTIONS, batch=1, origin=origin) for origin in range(CONNECTIONS)]


class Pacer:
    """Sends event k on connection k modulo their number, at `began + k / rate`.

    Latencies are counted from that moment and not from when it was really sent, so that a server that stalls is charged
    for every event that had to wait, and the generator's own lateness is charged too.
    """

    def __init__(self, streams: Sequence[Stream], rate: float) -> None:
        self._streams = streams
        self._rate = rate
        self._total = sum(stream.script.events for stream in streams)
        self._next = 0
        self.began = 0.0
        self.latencies = array("d")
        """From the intended sending to the acknowledgement, in seconds."""
        self.dues = array("d")
        """When each of these was to be sent, in seconds after `began`."""

    def run(self, is_over: Callable[[], bool] | None = None) -> None:
        """Send everything, or until it is over, and hear every acknowledgement."""
        sockets = {stream.socket: index for index, stream in enumerate(self._streams)}
        self.began = heard = now()
        while len(self.latencies) < self._total:
            if is_over is not None and self._next < self._total and is_over():
                self._total = self._next
            wait = self._send_what_is_due()
            # Not a selector: those wait in whole milliseconds.
            ready, _, _ = select.select(list(sockets), [], [], wait)
            if ready:
                heard = now()
            elif now() > heard + STUCK_SECONDS:
                raise FailedRunError(f"no acknowledgement for {STUCK_SECONDS:.0f} s")
            for one in ready:
                self._hear(sockets[one])

    def _send_what_is_due(self) -> float:
        """Returns how long nothing more is due."""
        due = min(self._total, int((now() - self.began) * self._rate) + 1)
        while self._next < due:
            turn, index = divmod(self._next, len(self._streams))
            self._streams[index].allow(turn + 1)
            self._streams[index].send()
            self._next += 1
        if self._next == self._total:
            return 1.0
        return max(0.0, self.began + self._next / self._rate - now())

    def _hear(self, index: int) -> None:
        stream = self._streams[index]
        before = stream.acked
        stream.hear()
        arrived = now() - self.began
        for seq in range(before, stream.acked):
            due = (seq * len(self._streams) + index) / self._rate
            self.dues.append(due)
            self.latencies.append(arrived - due)
