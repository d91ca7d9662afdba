"""The rate limit policy: holds principals, addresses and connections to a rate of events and of bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, ClassVar, Final

from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.security import ALLOW, ANONYMOUS, AccessRequest, Admission, Principal, SecurityPolicy
from testorch_core.options import Options
from testorch_plugins.security.rate_limit.bucket import Limits, Rate
from testorch_plugins.security.rate_limit.limiter import Levels, Limiter
from testorch_plugins.security.rate_limit.options import RateLimitOptions

BURST_SECONDS: Final = 2.0
"""The burst where the options name none, as a time at the rate."""

MAX_KEY_CHARACTERS: Final = 200
IPV6_NETWORK_BITS: Final = 64
"""Who has one IPv6 address has all of its /64, as a rule."""


class RateLimit(SecurityPolicy):
    """Slows down who sends too much, then refuses, and closes at last; see `limiter.py`."""

    summary = "limits events and bytes a second, per principal, address and connection"
    options_type: ClassVar[type[Options]] = RateLimitOptions
    options: RateLimitOptions

    def __init__(self, name: str, options: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name, options)
        self._clock = clock
        self._limiter = Limiter(
            _levels(self.options),
            max_delay_seconds=self.options.max_delay_seconds,
            max_early=self.options.max_early_messages,
            most=self.options.max_remembered,
        )

    async def start(self, context: PluginContext) -> None:
        """Nothing to acquire: what clients have sent is kept in memory, and begins anew with the server."""

    async def aclose(self) -> None:
        """Nothing to release."""

    def admit(self, request: AccessRequest) -> Admission:
        """Requests, and messages without an event that is new, count as one event."""
        if request.asking:
            return ALLOW
        address = network_of(request.handshake.address)
        keys = (_payer(request.principal, address), address, request.connection or None)
        return self._limiter.ask(keys, self._clock(), request.events or 1, request.size_bytes)


def _payer(principal: Principal, address: str) -> Hashable:
    """Whom the principal's level counts. All that are anonymous have one name, so it is their address."""
    if principal.name == ANONYMOUS.name and principal.issuer is None:
        return address
    return principal.issuer, principal.name


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Whom the address's level counts: an IPv4 address, the /64 of an IPv6 address, or whatever a host calls a client."""
    try:
        known = ip_address(address)
    except ValueError:
        return address[:MAX_KEY_CHARACTERS]
    if not isinstance(known, IPv6Address):
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    prefix = int(known) >> (128 - IPV6_NETWORK_BITS) << (128 - IPV6_NETWORK_BITS)
    return f"{IPv6Address(prefix)}/{IPV6_NETWORK_BITS}"


def _levels(options: RateLimitOptions) -> Levels:
    return (
        _limits("principal", options.events_per_second, options.events_burst,
                options.bytes_per_second, options.bytes_burst),
        _limits("address", options.address_events_per_second, options.address_events_burst,
                options.address_bytes_per_second, options.address_bytes_burst),
        _limits("connection", options.connection_events_per_second, options.connection_events_burst,
                options.connection_bytes_per_second, options.connection_bytes_burst),
    )  # fmt: skip


def _limits(name: str, events: float, events_burst: int | None, bytes: float, bytes_burst: int | None) -> Limits:
    return Limits(name, _rate(events, events_burst), _rate(bytes, bytes_burst))


def _rate(per_second: float, burst: int | None) -> Rate | None:
    if not per_second:
        return None
    return Rate(per_second, max(1.0, BURST_SECONDS * per_second) if burst is None else burst)
