"""Options of everything that listens for WebSocket clients."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from marshmallow import ValidationError, fields, validate

from testorch_core.acceptor import Real, Whole
from testorch_core.options import Options, option
from testorch_plugins.transports.listening.frames import FrameLimits

LOOPBACK = "127.0.0.1"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _seconds() -> Real:
    return Real(validate=validate.Range(min=0.001))


def _count(least: int = 1) -> Whole:
    return Whole(validate=validate.Range(min=least))


def _must_be_network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValidationError(f"`{text}` is not an address or a network such as 10.0.0.0/8") from None


def _must_be_origin(text: str) -> None:
    scheme, _, rest = text.partition("://")
    if scheme not in ("http", "https") or not rest or set(rest) & set("/*?# "):
        raise ValidationError(
            f"`{text}` is not an origin; write scheme, host and port as a browser does, such as https://ci.example.com"
        )


@dataclass(frozen=True, kw_only=True)
class ListeningOptions(Options):
    """Where to listen, who may connect, and what one connection, and all of them, may take."""

    host: str = option(fields.String(), default=LOOPBACK, help="the address to listen on; a name or an IP address")
    port: int = option(
        Whole(validate=validate.Range(0, 65535)), default=8765, help="the port to listen on; 0 takes any free one"
    )
    path: str = option(
        fields.String(validate=validate.Regexp(r"/[!-~]*\Z")), default="/", help="the path that clients ask for"
    )
    allow_anonymous: bool = option(
        fields.Boolean(truthy={True}, falsy={False}),
        default=False,
        help="listen beyond this machine although no policy says who may come",
    )
    allowed_origins: Sequence[str] = option(
        fields.List(fields.String(validate=_must_be_origin)),
        default=(),
        help="origins of web pages that may connect, besides this server's own on this machine",
    )
    trusted_proxies: Sequence[str] = option(
        fields.List(fields.String(validate=_must_be_network)),
        default=(),
        help="addresses and networks of reverse proxies whose X-Forwarded-For is believed",
    )
    tls_certificate: str | None = option(
        fields.String(), default=None, help="a PEM file with the certificate and its chain; read again on SIGHUP"
    )
    tls_key: str | None = option(
        fields.String(), default=None, help="the PEM file of the certificate's key, if it is not in the same file"
    )
    max_connections: int = option(_count(), default=10_000, help="connections that may be open at once")
    max_connections_per_address: int = option(
        _count(), default=2_000, help="connections of one address that may be open at once"
    )
    max_handshakes: int = option(
        _count(), default=1_000, help="connections that may be on their way in at once; more have to wait"
    )
    handshake_seconds: float = option(
        _seconds(), default=10.0, help="how long a client may take from connecting until it is let in"
    )
    hurried_handshake_seconds: float = option(
        _seconds(), default=2.0, help="the same for the oldest while all `max_handshakes` places are taken"
    )
    max_message_bytes: int = option(
        # Twice the server's own limit: between the two a message is refused with an error, beyond this one closed upon.
        _count(1024),
        default=8 * 1024 * 1024,
        help="the largest message that is read at all; a larger one closes the connection with 1009",
    )
    max_fragments: int = option(_count(), default=4096, help="fragments of one message; more close with 1009")
    max_partial_bytes: int = option(
        _count(1024),
        default=256 * 1024 * 1024,
        help="bytes of unfinished messages over all connections; who goes beyond is closed with 1013",
    )
    max_control_frames: int = option(
        _count(), default=1_000, help="pings and pongs of one connection in one second; more close with 4429"
    )
    message_seconds: float = option(
        _seconds(), default=60.0, help="how long a message may take from its first byte to its last; else 4408"
    )
    send_seconds: float = option(
        _seconds(), default=30.0, help="how long one message may take to be sent; then the connection is cut"
    )
    ping_seconds: float = option(_seconds(), default=20.0, help="how often a silent client is pinged")
    missed_pings: int = option(_count(), default=2, help="unanswered pings after which the connection is closed")
    close_seconds: float = option(
        _seconds(), default=3.0, help="how long a connection lingers so that the last word arrives"
    )

    @cached_property
    def frame_limits(self) -> FrameLimits:
        return FrameLimits(self.max_message_bytes, self.max_fragments, self.max_control_frames)

    @cached_property
    def proxies(self) -> tuple[Network, ...]:
        return tuple(ipaddress.ip_network(one) for one in self.trusted_proxies)

    @property
    def scheme(self) -> str:
        return "ws" if self.tls_certificate is None else "wss"


def is_trusted(address: str, proxies: tuple[Network, ...]) -> bool:
    """Whether an address is one of the trusted proxies."""
    found: Any = parsed(address)
    return found is not None and any(found in network for network in proxies)


def parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as a number; IPv4 within IPv6 as IPv4; None for what is none."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found
