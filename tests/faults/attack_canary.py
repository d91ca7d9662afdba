"""Those who must notice nothing of an attack: a client at work, and clients that come in the middle of it."""

from __future__ import annotations

import os
import ssl
import threading
import time
import uuid
from pathlib import Path

from faults.stream_clients import Wire
from websockets.exceptions import WebSocketException

PAUSE_SECONDS = 0.05
VISIT_SECONDS = 0.1
"""How long after one newcomer the next one comes."""

OPEN_SECONDS = 10.0
ANSWER_SECONDS = 10.0


class Watch(threading.Thread):
    """Does something over and over, and knows what it took at the longest since it was last asked."""

    def __init__(self, address: str, context: ssl.SSLContext | None, name: str, pause_seconds: float) -> None:
        super().__init__(name=name, daemon=True)
        self.failure = ""
        self.done = 0
        self._address = address
        self._context = context
        self._pause = pause_seconds
        self._ended = threading.Event()
        self._longest = 0.0
        self._since: float | None = None

    def run(self) -> None:
        try:
            self.begin()
            while not self._ended.wait(self._pause):
                self._since = time.monotonic()
                self.act()
                self._longest = max(self._longest, time.monotonic() - self._since)
                self._since = None
                self.done += 1
            self.end()
        except (OSError, EOFError, WebSocketException, AssertionError) as failure:
            self.failure = f"{self.name}: {type(failure).__name__}: {failure}"

    def forget(self) -> None:
        """Measure anew from here."""
        self._longest = 0.0

    def longest_seconds(self) -> float:
        """The longest that it took, or has been taking until now."""
        since = self._since
        return max(self._longest, 0.0 if since is None else time.monotonic() - since)

    def stop(self) -> None:
        self._ended.set()
        self.join(OPEN_SECONDS + ANSWER_SECONDS)

    def begin(self) -> None:
        """Called once, in the thread."""

    def act(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """Called once, if nothing has failed."""

    def connected(self) -> Wire:
        return Wire(self._address, ssl=self._context, open_timeout=OPEN_SECONDS, close_timeout=1)


class Canary(Watch):
    """A stream that has an event acknowledged twenty times a second."""

    def __init__(self, address: str, context: ssl.SSLContext | None) -> None:
        super().__init__(address, context, "the canary", PAUSE_SECONDS)

    def begin(self) -> None:
        self._wire = self.connected()
        # Another stream each time: a server that was killed may have a canary of its life before in the database.
        self._wire.ask("hello", {"streamId": str(uuid.uuid4()), "runId": "canary"})

    def act(self) -> None:
        payload = {"testId": "t", "text": "tweet"}
        seq = self.done + 1
        self._wire.send(
            "event", {"id": f"c{seq}", "type": "test/output", "timestamp": 1, "seq": seq, "payload": payload}
        )
        while (message := self._wire.receive(ANSWER_SECONDS))["type"] != "ack":
            assert message["type"] != "error", message

    def end(self) -> None:
        self._wire.close()


class Newcomers(Watch):
    """One client after another that connects, asks, is answered and leaves."""

    def __init__(self, address: str, context: ssl.SSLContext | None) -> None:
        super().__init__(address, context, "a newcomer", VISIT_SECONDS)

    def act(self) -> None:
        wire = self.connected()
        wire.ask("getActiveRuns")
        wire.close()


class Bystander(Watch):
    """Has nothing to do with the server: writes a word to the same disk and waits until it is there.

    What that takes is the machine's doing, and may come on top of what the others wait.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("", None, "a bystander", PAUSE_SECONDS)
        self._path = folder / "bystander"

    def act(self) -> None:
        with self._path.open("wb") as file:
            file.write(b"tweet")
            file.flush()
            os.fsync(file.fileno())
