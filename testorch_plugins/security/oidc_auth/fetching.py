"""Gets a small document over HTTP, strictly: no redirects, little time, few bytes. Blocks; for a thread."""

from __future__ import annotations

import http.client
import ipaddress
import time
import urllib.error
import urllib.request
from typing import Any, Final
from urllib.parse import urlsplit

FETCH_SECONDS: Final = 5.0
MAX_BYTES: Final = 1024 * 1024
_CHUNK_BYTES: Final = 64 * 1024


class FetchError(Exception):
    """The document could not be had; the words say why, and hold nothing that the other side has said."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any) -> None:
        """None: then the redirect is raised like any other status."""


def url_problem(url: str) -> str | None:
    """Why keys may not be fetched from there, or None: https, or http from this machine itself."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not an address"
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        return "is not an address such as https://ci.example.com/keys"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must have no user, no password and no `#`"
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return None
    return "must begin with https://: who changes the keys on their way lets in whom they like"


def fetch(url: str, *, seconds: float = FETCH_SECONDS, max_bytes: int = MAX_BYTES) -> bytes:
    """The document at `url`. Raises `FetchError`.

    `seconds` is for each step (connecting, a line of the headers) and for the whole of the body. The environment's proxy is
    used, but not for this machine.
    """
    handlers: list[Any] = [_NoRedirect()]
    if _is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        with urllib.request.build_opener(*handlers).open(_request(url), timeout=seconds) as answer:
            if answer.status != http.HTTPStatus.OK:
                raise FetchError(f"it answered with HTTP status {answer.status}")
            return _body(answer, seconds, max_bytes)
    except urllib.error.HTTPError as failure:
        failure.close()
        redirects = 300 <= failure.code < 400
        hint = "; redirects are not followed" if redirects else ""
        raise FetchError(f"it answered with HTTP status {failure.code}{hint}") from None
    except urllib.error.URLError as failure:
        raise FetchError(_words(failure.reason)) from None
    except (OSError, http.client.HTTPException, ValueError) as failure:  # ValueError: headers that are no headers
        raise FetchError(_words(failure)) from None


def _request(url: str) -> urllib.request.Request:
    return urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "testorch"})  # noqa: S310 - `url_problem` has looked at it


def _body(answer: http.client.HTTPResponse, seconds: float, max_bytes: int) -> bytes:
    deadline = time.monotonic() + seconds
    body = bytearray()
    while chunk := answer.read1(_CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise FetchError(f"its answer has more than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise FetchError("its answer took too long")
    if answer.length:
        raise FetchError("its answer ended too early")
    return bytes(body)


def _words(failure: Any) -> str:
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror
    return f"no good answer ({type(failure).__name__})"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
