"""Options of the WebSocket transport."""

from __future__ import annotations

from dataclasses import dataclass

from marshmallow import fields, validate

from testorch_core.acceptor import Real, Whole
from testorch_core.options import Options, option

LOOPBACK = "127.0.0.1"


def _seconds() -> Real:
    return Real(validate=validate.Range(min=0.001))


@dataclass(frozen=True, kw_only=True)
class WebSocketOptions(Options):
    host: str = option(fields.String(), default=LOOPBACK, help="the address to listen on; a name or an IP address")
    port: int = option(
        Whole(validate=validate.Range(0, 65535)), default=8765, help="the port to listen on; 0 takes any free one"
    )
    max_message_characters: int = option(
        Whole(validate=validate.Range(min=1024)),
        # Twice the server's own limit: between the two a message is refused with an error, beyond this one closed upon.
        default=8 * 1024 * 1024,
        help="the largest message that is read at all, in characters; a larger one closes the connection with 1009",
    )
    max_connections: int = option(
        Whole(validate=validate.Range(min=1)), default=10_000, help="connections that may be open at once"
    )
    handshake_seconds: float = option(_seconds(), default=10.0, help="how long a client may take to upgrade")
    send_seconds: float = option(
        _seconds(), default=30.0, help="how long one message may take to be sent; then the connection is closed"
    )
    ping_seconds: float = option(_seconds(), default=20.0, help="how often a silent client is pinged")
    missed_pings: int = option(
        Whole(validate=validate.Range(min=1)), default=2, help="unanswered pings after which the connection is closed"
    )
    close_seconds: float = option(_seconds(), default=3.0, help="how long the closing handshake may take")
