"""An echo server on one of our transports, for the fuzzing client: `python -m autobahn.echo_server NAME FOLDER`.

Prints its address, and ends when its standard input does. Logs to standard error. The folder is the plugin's to use.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio
import trio_websocket
import websockets.exceptions

from testorch_core.errors import ConnectionClosedError
from testorch_core.interfaces.transport import Connection, Transport
from testorch_core.loading import load_plugin
from testorch_core.testing.fakes import plugin_context

OPTIONS: Final[dict[str, Any]] = {
    "port": 0,
    # The cases of group 9 send messages of 16 MiB, and of 4 MiB in fragments of 64 bytes.
    "max_message_bytes": 32 * 1024 * 1024,
    "max_message_characters": 32 * 1024 * 1024,
    "max_fragments": 1_000_000,
    "message_seconds": 600.0,
    "send_seconds": 600.0,
    # The suite takes a ping of ours for an answer that it did not expect.
    "ping_seconds": 600.0,
    "max_control_frames": 1_000_000,
}
"""What the suite needs; a plugin is given those that it has."""

_GONE = (ConnectionClosedError, trio_websocket.ConnectionClosed, websockets.exceptions.ConnectionClosed)


def echo_transport(name: str, folder: Path) -> Transport:
    """The transport of this name, not started, echoing text and binary. Raises what `load_plugin` raises."""
    plugin: Any = load_plugin("transport", name)
    echoing = type(f"Echoing{plugin.__name__}", (plugin,), {"takes_binary": True})
    known = {spec.name for spec in plugin.options_type.specs()}
    given = {option: value for option, value in OPTIONS.items() if option in known}
    transport: Transport = echoing(name, plugin.options_type.load(given, folder=folder))
    transport.serve = echo
    return transport


async def echo(connection: Connection) -> None:
    """Send every message back as it came, until the client goes."""
    try:
        while True:
            message = await connection.receive()
            if isinstance(message, str):
                await connection.send(message.encode())
            else:
                await _send_binary(connection, message)
    except _GONE:
        pass
    finally:
        await connection.aclose()


async def _send_binary(connection: Any, message: bytes) -> None:
    """Past `Connection.send`, which only knows text: by the library's own connection."""
    socket = connection._socket
    send = socket.send_message if isinstance(socket, trio_websocket.WebSocketConnection) else socket.send
    await send(bytes(message))


@asynccontextmanager
async def serving(name: str, folder: Path) -> AsyncIterator[str]:
    """An echo server on the transport of this name; gives its address."""
    transport = echo_transport(name, folder)
    async with trio.open_nursery() as nursery:
        await transport.start(plugin_context(nursery, folder=folder))
        try:
            yield transport.addresses[0]
        finally:
            await transport.aclose()
            nursery.cancel_scope.cancel()


async def main(name: str, folder: Path) -> None:
    async with serving(name, folder) as address:
        print(address, flush=True)
        await trio.lowlevel.wait_readable(sys.stdin)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    trio.run(main, sys.argv[1], Path(sys.argv[2]))
