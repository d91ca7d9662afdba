"""Who asks to come in: reading the request of an upgrade, judging it, and what is said to those who are turned away.

The WebSocket library never sees what the client wrote. It gets a request that is written here from what was judged,
because bytes in headers that no library expects are the shortest way to make one fall over.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

import h11
import trio

from testorch_core.interfaces.transport import Handshake
from testorch_core.protocol import SUBPROTOCOL
from testorch_plugins.transports.listening.options import ListeningOptions, is_trusted, parsed

MAX_REQUEST_BYTES: Final = 16 * 1024
_END: Final = b"\r\n\r\n"
_START: Final = b"GET "
_SECRETS: Final = frozenset({"token", "access_token", "ticket", "authorization"})
_KEY_BYTES: Final = 16
TICKET: Final = "testorch.ticket."
_OURS: Final = SUBPROTOCOL.split(".", 1)[0] + "."
_KEPT_APART: Final = frozenset({"authorization", "cookie", "proxy-authorization", "sec-websocket-protocol"})
_PHRASES: Final = {
    400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
    426: "Upgrade Required", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}  # fmt: skip


class RejectedError(Exception):
    """The client is turned away before the upgrade, with an HTTP status and a line that says why."""

    def __init__(self, status: int, words: str) -> None:
        self.status = status
        self.words = words
        super().__init__(words)


class EndedError(Exception):
    """The client has gone before its request was complete."""


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """A request that may be upgraded. Header names are in lower case; values of repeated ones are joined by commas."""

    path: str
    headers: Mapping[str, str] = field(repr=False)
    key: str
    subprotocols: tuple[str, ...]

    @property
    def subprotocol(self) -> str | None:
        """Ours, if it is offered."""
        return SUBPROTOCOL if SUBPROTOCOL in self.subprotocols else None

    @property
    def offers_only_unknown(self) -> bool:
        """Whether only versions of our subprotocol are offered that this server doesn't speak."""
        versions = [one for one in self.subprotocols if one.startswith(_OURS) and not one.startswith(TICKET)]
        return self.subprotocol is None and bool(versions)

    @property
    def ticket(self) -> str | None:
        """A one-time ticket, which a browser can only send as a second subprotocol. It is never echoed."""
        return next((one.removeprefix(TICKET) for one in self.subprotocols if one.startswith(TICKET)), None)

    def as_written(self) -> bytes:
        """The request that a WebSocket library gets: the same upgrade in the fewest words."""
        offered = f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n" if self.subprotocol else ""
        return (
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {self.key}\r\n{offered}\r\n"
        ).encode()


async def read_request(stream: trio.abc.Stream) -> tuple[bytes, bytes]:
    """(the request up to its empty line, what came after it). The caller bounds the time.

    Raises `RejectedError` as soon as it can't become a request any more, `EndedError` when the client goes.
    """
    received = bytearray()
    while (end := received.find(_END)) < 0:
        if not received.startswith(_START[: len(received)]):
            raise _not_a_get(received)
        if len(received) > MAX_REQUEST_BYTES:
            raise RejectedError(431, f"a request may have {MAX_REQUEST_BYTES} bytes")
        try:
            data = await stream.receive_some(MAX_REQUEST_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise EndedError from None
        if not data:
            raise EndedError
        received += data
    if end + len(_END) > MAX_REQUEST_BYTES:
        raise RejectedError(431, f"a request may have {MAX_REQUEST_BYTES} bytes")
    cut = end + len(_END)
    return bytes(received[:cut]), bytes(received[cut:])


def _not_a_get(received: bytearray) -> RejectedError:
    if received[:1] == b"\x16":
        return RejectedError(400, "a TLS client on a port without TLS; use ws://, or configure `tls_certificate`")
    method, space, _ = received[:8].partition(b" ")
    if space and method.isalpha() and method.isupper():
        return RejectedError(405, "only GET is answered here, and only to become a WebSocket")
    return RejectedError(400, "not an HTTP request")


def judged(raw: bytes, options: ListeningOptions, *, port: int) -> UpgradeRequest:
    """The request, if it may be upgraded on a server that listens on `port`. Raises `RejectedError`."""
    request = _parsed(raw)
    headers: dict[str, str] = {}
    for name, value in request.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    path, _, query = request.target.decode("ascii").partition("?")
    if any(name.lower() in _SECRETS for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise RejectedError(400, "no tokens in the address, which logs keep; send `Authorization: Bearer`, or `hello`")
    if path != options.path:
        raise RejectedError(404, f"nothing here; WebSocket clients are served at {options.path}")
    _require_upgrade(headers)
    _require_origin(headers.get("origin"), options, port)
    offered = _listed(headers.get("sec-websocket-protocol", ""))
    return UpgradeRequest(path, headers, headers["sec-websocket-key"], offered)


def _parsed(raw: bytes) -> h11.Request:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
    try:
        parser.receive_data(raw)
        event = parser.next_event()
    except h11.RemoteProtocolError as failure:
        raise RejectedError(400, f"not a sound HTTP request: {failure}"[:200]) from None
    if not isinstance(event, h11.Request):
        raise RejectedError(400, "not a sound HTTP request")
    return event


def _require_upgrade(headers: Mapping[str, str]) -> None:
    for name in ("host", "connection", "upgrade", "sec-websocket-protocol", "sec-websocket-extensions"):
        if not headers.get(name, "").isascii():
            raise RejectedError(400, f"the header `{name}` holds bytes that are not ASCII")
    if not _is_host(headers.get("host", "")):
        raise RejectedError(400, "the header `host` is not a host's name")
    named = {one.lower() for one in _listed(headers.get("connection", ""))}
    if "upgrade" not in named or headers.get("upgrade", "").lower() != "websocket":
        raise RejectedError(426, "this is a testorch server; it speaks WebSocket, so connect a WebSocket client")
    if headers.get("sec-websocket-version") != "13":
        raise RejectedError(426, "WebSocket in version 13 is spoken here")
    try:
        size = len(base64.b64decode(headers.get("sec-websocket-key", ""), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != _KEY_BYTES:
        raise RejectedError(400, "the header `sec-websocket-key` must be 16 bytes in base64")


def _is_host(text: str) -> bool:
    name = text.rsplit(":", 1)[0] if not text.endswith("]") else text
    if not name or set(text) & set("/?#@\\ \t<>\"'"):
        return False
    try:
        name.encode("idna")  # empty and overlong labels
        name.encode("ascii").decode("idna")  # what only says that it is encoded
    except UnicodeError:
        return False
    return True


def _require_origin(origin: str | None, options: ListeningOptions, port: int) -> None:
    """A browser says from which page it connects; pages of anybody else's must not use what this server holds."""
    if origin is None or origin in options.allowed_origins:
        return
    scheme = "http" if options.tls_certificate is None else "https"
    if origin in {f"{scheme}://{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")}:
        return
    raise RejectedError(403, f"pages from {_visible(origin)} may not connect; `allowed_origins` names those that may")


def _visible(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()[:100]


def _listed(value: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in value.split(",") if one.strip())


def client_address(address: str, headers: Mapping[str, str], options: ListeningOptions) -> str:
    """The client's own address: behind trusted proxies the last in X-Forwarded-For that isn't one of them.

    What stands before it the client may have written itself. What is no address counts as the proxy that said it.
    """
    found = address
    for one in reversed(_listed(headers.get("x-forwarded-for", ""))):
        if not is_trusted(found, options.proxies):
            break
        bare = one.removeprefix("[").partition("]")[0] if one.startswith("[") else one
        if one.count(":") == 1 and not one.startswith("["):
            bare = one.partition(":")[0]
        number = parsed(bare)
        if number is None:
            break
        found = str(number)
    return found


def handshake_of(request: UpgradeRequest, address: str, transport: str, deadline: float) -> Handshake:
    """What the core is told of the client."""
    bearer = request.headers.get("authorization", "").split(" ", 1)
    token = bearer[1].strip() if len(bearer) == 2 and bearer[0].lower() == "bearer" else None
    return Handshake(
        address=address,
        transport=transport,
        headers={name: value for name, value in request.headers.items() if name not in _KEPT_APART},
        path=request.path,
        token=token,
        ticket=request.ticket,
        deadline=deadline,
    )


def response(status: int, words: str) -> bytes:
    """The whole HTTP response for a client that is turned away."""
    body = f"{words}\n".encode()
    extra = {
        426: "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", 429: "Retry-After: 5\r\n", 503: "Retry-After: 5\r\n",
    }.get(status, "")  # fmt: skip
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    )
    return head.encode("ascii", "replace") + body
