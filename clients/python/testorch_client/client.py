"""The client's face: calls that return at once, whatever the server does."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from random import Random
from types import TracebackType
from typing import Any

from testorch_client.delivery import Delivery
from testorch_client.errors import Rejected
from testorch_client.ledger import Ledger, RunRequest
from testorch_client.link import Connect, Link
from testorch_client.outbox import Emitted, Outbox, characters_in
from testorch_client.rules import redacted
from testorch_client.sender import Sender
from testorch_client.stream import Stream

DEFAULT_QUEUE_EVENTS = 100_000
# Of output, errors and the like, some hundred failures at their longest: room for a server that is away for a while.
DEFAULT_QUEUE_CHARACTERS = 64 * 2**20
DEFAULT_DEADLINE_SECONDS = 10.0
# How long `close` waits for a server that isn't there, even if the deadline is later.
ABSENT_SECONDS = 1.5
_POLL_SECONDS = 0.05


def new_stream_id() -> str:
    """Twelve hex digits that no other process has; from the system, since suites seed `random`."""
    return os.urandom(6).hex()


class Client:
    """Reports one run to a testorch server, from a thread of its own.

    No method raises on content, on the network or on the server, and none but `close` ever waits. In a forked child
    every method does nothing: the connection and the thread belong to the parent. Not made for two runs: open two
    clients.

    What waits to be sent is bounded by `queue_events` and, in its texts, by `queue_characters` (`Outbox` says of what);
    what was sent and isn't confirmed, by 5,000 events and 8 MiB, and one event more (`Stream.has_room`). Beyond that,
    output is dropped first, then what is newest, and counted.

    `before_sending` is called in the client's thread each time it is about to send what was emitted, some five times a
    second while the server is there, and may emit. It mustn't raise, and what it waits for, delivery waits for.

    `clock` (seconds since the epoch), `monotonic`, `random`, `stream_id` and `connect` are for tests; defaults are
    bound here rather than looked up later, so that a suite that freezes `time` doesn't freeze the client.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        queue_events: int = DEFAULT_QUEUE_EVENTS,
        queue_characters: int = DEFAULT_QUEUE_CHARACTERS,
        before_sending: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[], float] | None = None,
        stream_id: Callable[[], str] = new_stream_id,
        connect: Connect | None = None,
    ) -> None:
        self._url = url
        self._token = token
        self._before_sending = before_sending
        self._clock = clock
        self._monotonic = monotonic
        self._random = random or Random().random  # not the global one, which suites seed
        self._stream_id = stream_id
        self._connect = connect
        self._outbox = Outbox(max_events=queue_events, max_characters=queue_characters)
        self._ledger: Ledger | None = None
        self._sender: Sender | None = None
        self._delivery: Delivery | None = None
        self._pid = os.getpid()
        self._lifecycle = threading.RLock()  # `close` may come from two threads, or from a signal handler within itself

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end_run()
        self.close()

    def start_run(
        self,
        *,
        run_id: str | None = None,
        name: str | None = None,
        key: str | None = None,
        project: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the run `run_id`, or join it if it runs; return before anything has happened.

        With a `key` and no `run_id`, the run of that key is joined, and the server gives the id. With neither, a new
        id is made here. A second call does nothing.
        """
        if os.getpid() != self._pid or self._ledger is not None:
            return
        if run_id is None and key is None:
            run_id = os.urandom(16).hex()  # as unique as a UUID, without an import
        run = RunRequest(
            run_id=run_id,
            name=name,
            key=key,
            project=project,
            metadata=dict(metadata) if metadata else None,
        )
        self._ledger = Ledger(run, self._outbox, Stream(self._stream_id()))
        self._sender = Sender(
            self._ledger,
            self._connector(),
            monotonic=self._monotonic,
            random=self._random,
            before_sending=self._before_sending,
        )
        self._sender.start()

    def emit(self, type: str, payload: Mapping[str, Any], *, timestamp: int | None = None) -> None:
        """Queue an event and return: its texts are counted, it is encoded later. Don't change the payload afterwards.

        `timestamp` is in milliseconds since the epoch, now by default. What the queue has no room for, and what comes
        after `end_run` or `close`, is counted as dropped.
        """
        if os.getpid() == self._pid:
            if timestamp is None:
                timestamp = int(self._clock() * 1000)
            self._outbox.put(Emitted(type, payload, timestamp, characters_in(payload)))

    def end_run(self) -> None:
        """End this client's part of the run once everything emitted so far is confirmed; return at once.

        The server then gives its receipt, and takes no event any more.
        """
        if os.getpid() == self._pid and self._ledger is not None:
            self._outbox.close()  # before the flag: what the sender finds in the queue from then on is the rest
            self._ledger.is_ending = True

    def close(self, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS) -> Delivery:
        """Wait until all is confirmed, and say how it went.

        Waits for `deadline_seconds` at most, and for 1.5 s at most where the server isn't there. Idempotent. Unless
        `end_run` was called, this client's part of the run isn't ended: there is no receipt, and to the server the
        client is lost. In a forked child it returns an empty delivery.
        """
        if os.getpid() != self._pid:
            return Delivery(run_id=None, sent=0, confirmed=0, refused=0, dropped=0, unconfirmed=0)
        with self._lifecycle:
            if self._delivery is None:
                self._delivery = self._finish(deadline_seconds)
            return self._delivery

    def _finish(self, deadline_seconds: float) -> Delivery:
        self._outbox.close()
        ledger, sender = self._ledger, self._sender
        if ledger is None or sender is None:
            return Delivery(
                run_id=None,
                sent=0,
                confirmed=0,
                refused=0,
                dropped=self._outbox.dropped,
                unconfirmed=len(self._outbox),
                error="no run was started",
            )
        ledger.is_closing = True
        sender.hurry()
        is_in_time = self._wait_for(sender, deadline_seconds)
        error = ledger.error or ledger.stream.contradiction
        if not is_in_time:
            sender.abandon()
            error = error or f"the server did not confirm everything within {deadline_seconds:g} s"
        return ledger.delivery(None if error is None else f"{redacted(self._url)}: {error}")

    def _wait_for(self, sender: Sender, deadline_seconds: float) -> bool:
        """True once the sender has finished; False after the deadline, or sooner if nobody is there."""
        started = self._monotonic()
        while not sender.finished.wait(_POLL_SECONDS):
            now = self._monotonic()
            absent_since = sender.absent_since_seconds
            if now - started >= deadline_seconds:
                return False
            is_absent = absent_since is not None and not sender.is_restarting
            if is_absent and absent_since is not None and now - max(started, absent_since) >= ABSENT_SECONDS:
                return False
        return True

    def _connector(self) -> Connect:
        # Imported only now: what doesn't report shouldn't pay for `websockets`. And in the caller's thread, not in
        # ours: an import beside the suite's own could meet whatever the suite has patched.
        if self._connect is not None:
            return self._connect
        try:
            from testorch_client.transport import connector

            return connector(self._url, self._token)
        except Exception as error:  # A broken environment, for one: reported like a server that can't be reached.
            return _unable(f"`websockets` could not be used: `{type(error).__name__}`: {error}")


def _unable(sentence: str) -> Connect:
    def open_link(open_timeout_seconds: float) -> AbstractContextManager[Link]:
        raise Rejected(sentence)

    return open_link
