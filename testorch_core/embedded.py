"""What a host tells an embedded core: of its connections, and of the events that came on them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from testorch_core.errors import Problem, RefusedError, refuse
from testorch_core.gate import invalid_event
from testorch_core.host_values import admitted
from testorch_core.interfaces.transport import Handshake
from testorch_core.protocol import MAX_EVENTS
from testorch_core.vetting import Inadmissible

MAX_HEADER_CHARACTERS: Final = 16 * 1024
"""The longest header or token that is taken from a host; a request's whole head has no more on our own transports."""


def handshake_of(client: Mapping[str, Any]) -> Handshake:
    """What a host tells of a connection. Its library may have decoded headers in whatever way it likes."""
    given = client.get("headers")
    pairs = given.items() if isinstance(given, Mapping) else ()
    headers = {name.lower(): value for name, value in ((_told(name), _told(value)) for name, value in pairs)
               if name is not None and value is not None}  # fmt: skip
    address = client.get("address")
    known = "embedded" if address is None else _told(address) or _told(str(address)) or "unknown"
    return Handshake(address=known, transport="embedded", headers=headers, token=_told(client.get("token")))


def _told(text: Any) -> str | None:
    """Text of a request's head; None for what can't have been in one."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if type(text) is not str or len(text) > MAX_HEADER_CHARACTERS or not text.isprintable():
        return None
    return text


def admitted_events(events: Any, most: int) -> tuple[list[Any], int]:
    """Events as the wire would have brought them, each good or refused by itself, and their size in bytes.

    Raises `RefusedError` for all of them where they are no list or too large together.
    """
    if not isinstance(events, list | tuple):
        raise refuse("invalid_message", "`events`: must be a list of events")
    if len(events) > MAX_EVENTS:
        raise refuse("too_large", f"{len(events)} events; at most {MAX_EVENTS} are taken at once")
    taken: list[Any] = []
    size_bytes = 0
    for event in events:
        try:
            value, size = admitted(event, max_bytes=most - size_bytes)
            taken.append(value)
            size_bytes += size + 1
        except RefusedError as refused:
            if refused.refusal.code == "too_large":
                raise refuse("too_large", f"more than {most} bytes as JSON; at most {most} are taken at once") from None
            taken.append(
                Inadmissible(invalid_event(_named(event), refused.refusal.details or [Problem("", str(refused))]))
            )
    return taken, size_bytes


def _named(event: Any) -> dict[str, Any]:
    """The id of an event that was refused, if it has one."""
    event_id = event.get("id") if type(event) is dict else None
    return {"id": event_id} if type(event_id) is str and event_id.isprintable() else {}
