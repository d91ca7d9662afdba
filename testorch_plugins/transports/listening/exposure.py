"""Who would reach a server that listens beyond its own machine."""

from __future__ import annotations

from collections.abc import Sequence

from testorch_core.errors import OpeningError
from testorch_core.interfaces.plugin import PluginContext
from testorch_plugins.transports.listening.options import ListeningOptions, parsed


def require_protection(name: str, options: ListeningOptions, hosts: Sequence[str], context: PluginContext) -> None:
    """Refuse to listen where others can connect while nothing says who may; warn where tokens could be overheard.

    `hosts` are the addresses that are listened on. Raises `OpeningError` with what to do.
    """
    if all(_is_loopback(host) for host in hosts):
        return
    if not (context.authenticates or options.trusted_proxies or options.allow_anonymous):
        raise OpeningError(
            f"`{options.host}` can be reached from other machines, and no policy says who may come: configure a security"
            f" policy that authenticates, or name the reverse proxy that does (`trusted_proxies`), or let everybody in"
            f" with `allow_anonymous = true` in `[transports.{name}]` (`--allow-anonymous`)"
        )
    if context.authenticates and options.tls_certificate is None and not options.trusted_proxies:
        context.log.warning(
            "tokens_in_the_clear", host=options.host, advice="configure `tls_certificate`, or a proxy that ends TLS"
        )


def _is_loopback(host: str) -> bool:
    number = parsed(host)
    return number is not None and number.is_loopback
