"""What can end a connection to the server; none of it ever leaves the client."""

from __future__ import annotations


class LinkError(Exception):
    """A connection can't be made or has ended. `sentence` says why, without the address."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class Unreachable(LinkError):
    """The server isn't there, or isn't ready: worth another try."""


class Rejected(LinkError):
    """The server, or what answers in its place, will not have us: another try would end the same way."""


class Closed(LinkError):
    """The connection has ended with a close code; 1006 if it was simply lost."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the connection was closed with code {code}" + (f" ({reason})" if reason else ""))
        self.code = code
