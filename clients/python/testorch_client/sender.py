"""The thread that owns the connection: connects, converses, connects again, and never lets an exception out."""

from __future__ import annotations

import threading
from collections.abc import Callable

from testorch_client.conversation import Conversation
from testorch_client.errors import Closed, LinkError
from testorch_client.ledger import Ledger
from testorch_client.link import Connect, Link
from testorch_client.rules import Verdict, after, backoff_seconds

# The first connection is given little time, since a server that isn't there must cost the suite at most 2 s.
FIRST_OPEN_TIMEOUT_SECONDS = 1.0
OPEN_TIMEOUT_SECONDS = 5.0


class Sender:
    """Delivers what is in a ledger, in a daemon thread of its own."""

    def __init__(
        self,
        ledger: Ledger,
        connect: Connect,
        *,
        monotonic: Callable[[], float],
        random: Callable[[], float],
        before_sending: Callable[[], None] = lambda: None,
    ) -> None:
        self.finished = threading.Event()
        self.is_restarting = False  # the server has said that it goes away for a moment
        self.absent_since_seconds: float | None = monotonic()  # None while the run is joined
        self._ledger = ledger
        self._connect = connect
        self._monotonic = monotonic
        self._random = random
        self._before_sending = before_sending
        self._link: Link | None = None
        self._failures = 0
        self._idle = threading.Event()  # set at closing, so that no wait outlasts it
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="testorch-client", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hurry(self) -> None:
        """The client is closing: deliver what is left, then finish."""
        self._idle.set()

    def abandon(self) -> None:
        """Stop at once, whatever is being waited for; what isn't confirmed stays unconfirmed."""
        self._abandoned.set()
        self._idle.set()
        link = self._link
        if link is not None:
            link.abort()

    def _run(self) -> None:
        try:
            self._deliver()
        except BaseException as error:  # The last resort: a thread's traceback would fail a strict suite.
            self._ledger.error = f"the client failed: `{type(error).__name__}`: {error}"
        finally:
            self.finished.set()

    def _deliver(self) -> None:
        window = self._ledger.stream.window
        while not self._abandoned.is_set():
            acked_seq = window.acked_seq
            try:
                self._converse()
                return
            except LinkError as failure:
                self._link = None
                self._ledger.error = failure.sentence
                verdict = after(failure)
                self._take_note(verdict, failure)
                if self._is_to_stop(verdict):
                    return
                # Not at every connection that could be made: one that gets us nowhere is a failure, too.
                if window.acked_seq > acked_seq:
                    self._failures = 0
                self._wait(backoff_seconds(self._failures, self._random))
                self._failures += 1

    def _converse(self) -> None:
        is_first = not self._ledger.was_joined and not self._failures
        with self._connect(FIRST_OPEN_TIMEOUT_SECONDS if is_first else OPEN_TIMEOUT_SECONDS) as link:
            self._link = link
            conversation = Conversation(
                link,
                self._ledger,
                monotonic=self._monotonic,
                joined=self._joined,
                before_sending=self._before_sending,
            )
            conversation.hold(self._idle)
            self._link = None
        # Closing the connection may fail as it likes: everything was answered.

    def _joined(self) -> None:
        self._ledger.error = None
        self.is_restarting = False
        self.absent_since_seconds = None

    def _take_note(self, verdict: Verdict, failure: LinkError) -> None:
        if self.absent_since_seconds is None:
            self.absent_since_seconds = self._monotonic()
        self.is_restarting = verdict.is_restarting or (self.is_restarting and not isinstance(failure, Closed))

    def _is_to_stop(self, verdict: Verdict) -> bool:
        ledger = self._ledger
        if verdict.action == "stop" or (ledger.is_closing and not ledger.was_joined):
            return True  # the latter: a server that was never there, tried once more at the end
        return verdict.action == "split" and not ledger.stream.shrink()

    def _wait(self, seconds: float) -> None:
        # `_idle` stays set once the client closes; then only `abandon` may cut a wait short, or this would spin.
        waiting_for = self._abandoned if self._idle.is_set() else self._idle
        waiting_for.wait(seconds)
