"""Options of the rate limit policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marshmallow import fields, validate

from testorch_core.acceptor import Real, Whole
from testorch_core.options import Options, option


def _rate(default: float, *, help: str) -> Any:
    field = Real(validate=validate.Range(min=0, max=1e12))
    return option(field, default=default, help=f"{help}; 0 for no limit")


def _burst(help: str) -> Any:
    field: fields.Field[Any] = Whole(validate=validate.Range(min=1, max=10**12))
    return option(field, default=None, help=f"{help}; as much as two seconds bring where it is not given")


@dataclass(frozen=True, kw_only=True)
class RateLimitOptions(Options):
    events_per_second: float = _rate(
        20_000.0, help="what one principal may send for ever; an anonymous client's address stands for its principal"
    )
    events_burst: int | None = _burst("events that a principal may send at once after a pause")
    bytes_per_second: float = _rate(20_000_000.0, help="bytes of events that one principal may send for ever")
    bytes_burst: int | None = _burst("bytes that a principal may send at once after a pause")
    address_events_per_second: float = _rate(50_000.0, help="what all clients of one address may send for ever")
    address_events_burst: int | None = _burst("events that an address may send at once after a pause")
    address_bytes_per_second: float = _rate(50_000_000.0, help="bytes of events that one address may send for ever")
    address_bytes_burst: int | None = _burst("bytes that an address may send at once after a pause")
    connection_events_per_second: float = _rate(10_000.0, help="what one connection may send for ever")
    connection_events_burst: int | None = _burst("events that a connection may send at once after a pause")
    connection_bytes_per_second: float = _rate(
        10_000_000.0, help="bytes of events that one connection may send for ever"
    )
    connection_bytes_burst: int | None = _burst("bytes that a connection may send at once after a pause")
    max_delay_seconds: float = option(
        Real(validate=validate.Range(min=0, max=60)),
        default=1.0,
        help="how far beyond the burst a client is slowed down, before it is refused and told when to send again",
    )
    max_early_messages: int = option(
        Whole(validate=validate.Range(min=1)),
        default=1_000,
        help="messages in ten seconds that a connection may send before the time that it was told; more close it with 4429",
    )
    max_remembered: int = option(
        Whole(validate=validate.Range(min=1, max=1_000_000)),
        default=10_000,
        help="principals, addresses and connections of which it is known at once what they have sent",
    )
