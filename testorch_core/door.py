"""The local administrative door: how a command beside a running server has it do what only who holds the store can do.

A socket in a folder that nobody else may enter, and a secret that only who may read the store's lock file knows. One
request a connection, a JSON object on a line, and one answer.
"""

from __future__ import annotations

import hmac
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson
import trio

from testorch_core.errors import OpeningError, TestorchError, UsageError

MAX_REQUEST_BYTES: Final = 64 * 1024
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
REQUEST_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0

Administer = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class Door:
    """Listens while the server runs. `word` is what the store leaves for commands: the socket's path and the secret."""

    def __init__(self, administer: Administer, log: Any) -> None:
        self._administer = administer
        self._log = log
        self._secret = secrets.token_urlsafe(32)
        self._folder = Path(tempfile.mkdtemp(prefix="testorch-"))  # only its owner may enter it

    @property
    def word(self) -> dict[str, str]:
        return {"socket": str(self._folder / "door"), "secret": self._secret}

    def close(self) -> None:
        """Remove the socket. Works twice."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer until cancelled; one bad request costs only itself."""
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with listener:
            await listener.bind(self.word["socket"])
            os.chmod(self.word["socket"], 0o600)
            listener.listen(8)
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    accepted, _ = await listener.accept()
                    nursery.start_soon(self._answer, trio.SocketStream(accepted))

    async def _answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                with trio.fail_after(REQUEST_SECONDS):
                    request = orjson.loads(await _line(stream, MAX_REQUEST_BYTES))
                answer = await self._done(request)
                with trio.fail_after(REQUEST_SECONDS):
                    await stream.send_all(orjson.dumps(answer) + b"\n")
            except (trio.TooSlowError, trio.BrokenResourceError, ValueError, TypeError) as failure:
                self._log.warning("administration_failed", error=type(failure).__name__)

    async def _done(self, request: Any) -> dict[str, Any]:
        known = isinstance(request, dict) and isinstance(request.get("secret"), str)
        if not known or not hmac.compare_digest(request["secret"].encode(), self._secret.encode()):
            return {"error": "this is not the secret of this server"}
        try:
            return {"answer": await self._administer(str(request["operation"]), request["arguments"])}
        except TestorchError as failure:
            return {"error": str(failure)}
        except Exception as failure:  # a plugin's defect: its words may hold anything, so only the kind is told
            self._log.error("administration_failed", error=type(failure).__name__)
            return {"error": f"it failed with {type(failure).__name__}; the server's log says when"}


async def ask(word: Mapping[str, str], operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Have the server behind a door do something. Raises `UsageError` with its words, `OpeningError` if it isn't there."""
    request = {"secret": word["secret"], "operation": operation, "arguments": arguments}
    try:
        with trio.fail_after(ANSWER_SECONDS):
            async with await trio.open_unix_socket(word["socket"]) as stream:
                await stream.send_all(orjson.dumps(request) + b"\n")
                answer = orjson.loads(await _line(stream, MAX_ANSWER_BYTES))
    except (OSError, trio.TooSlowError, trio.BrokenResourceError, ValueError) as failure:
        raise OpeningError("the running server doesn't answer at its administrative door") from failure
    if "error" in answer:
        raise UsageError(str(answer["error"]))
    found: Mapping[str, Any] = answer["answer"]
    return found


async def _line(stream: trio.SocketStream, most: int) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        data = await stream.receive_some()
        if not data or len(received) > most:
            raise ValueError("no whole line")
        received += data
    return bytes(received)


def word_in(text: str) -> dict[str, str] | None:
    """What a store has left for commands, read again; None for anything else."""
    with suppress(ValueError, KeyError, TypeError):
        found = orjson.loads(text)
        return {"socket": str(found["socket"]), "secret": str(found["secret"])}
    return None
