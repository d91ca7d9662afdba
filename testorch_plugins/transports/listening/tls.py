"""Certificates: read at the start, and again when the operator says so."""

from __future__ import annotations

import ssl
from pathlib import Path

from testorch_core.errors import OpeningError
from testorch_plugins.transports.listening.options import ListeningOptions


def tls_context(options: ListeningOptions, folder: Path) -> ssl.SSLContext | None:
    """A server's context with the configured certificate, TLS 1.2 or newer; None where none is configured.

    Reads files. Raises `OpeningError` for what can't be read or doesn't fit together.
    """
    if options.tls_certificate is None:
        return None
    certificate = folder / options.tls_certificate
    key = folder / options.tls_key if options.tls_key is not None else None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (certificate, key or certificate):
        if not path.is_file():
            raise OpeningError(f"can't read the certificate: there is no file `{path}`")
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError) as failure:
        where = f"`{certificate}`" + (f" with the key `{key}`" if key else "")
        raise OpeningError(f"can't use the certificate {where}: {_words(failure)}") from failure
    return context


def _no_password() -> str:
    """OpenSSL would ask on the terminal."""
    return ""


def _words(failure: OSError) -> str:
    if isinstance(failure, ssl.SSLError):
        reason = (failure.reason or str(failure)).lower().replace("_", " ")
        known = {"key values mismatch": "they don't belong together"}
        if "decrypt" in reason or "password" in reason:
            return "the key is encrypted; give one without a password"
        return (
            "it is not in the PEM format"
            if "pem lib" in reason or "start line" in reason
            else known.get(reason, reason)
        )
    return failure.strerror or str(failure)
