"""Where keys come from: a file that is read again on reload, or a URL whose answer is kept for a while."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import trio

from testorch_core.errors import OpeningError
from testorch_core.interfaces.plugin import PluginContext
from testorch_plugins.security.oidc_auth.fetching import FETCH_SECONDS, MAX_BYTES, FetchError, fetch
from testorch_plugins.security.oidc_auth.keys import Key, KeySet, KeySetError, key_set_of

RETRY_SECONDS: Final = 30.0
"""Between two fetches, whatever strangers send: tokens with made-up key ids must not make us a burden to the issuer."""

WAIT_SECONDS: Final = FETCH_SECONDS + 1.0
"""How long a client waits for a fetch; then what is there has to do."""


class KeySource(Protocol):
    """Finds keys."""

    async def start(self) -> None:
        """Raises `OpeningError`."""

    async def reload(self) -> None:
        """Read the keys again; keeps the old ones, and logs, where that fails."""

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key that a token asks for."""


class FileKeys:
    """The keys in a JWKS file."""

    def __init__(self, path: Path, context: PluginContext) -> None:
        self._path = path
        self._context = context
        self._keys = KeySet([])

    async def start(self) -> None:
        try:
            await self._read()
        except (OSError, KeySetError) as failure:
            raise OpeningError(f"`jwks_file`: {self._problem(failure)}") from failure

    async def reload(self) -> None:
        try:
            await self._read()
        except (OSError, KeySetError) as failure:
            self._context.log.error("keys_kept", error=self._problem(failure))

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        return self._keys.find(kid, algorithm)

    async def _read(self) -> None:
        self._keys = await self._context.in_thread(lambda: key_set_of(_contents(self._path)))
        _tell_of(self._keys, self._context)

    def _problem(self, failure: OSError | KeySetError) -> str:
        reason = f"can't be read: {failure.strerror or failure}" if isinstance(failure, OSError) else str(failure)
        return f"the file `{self._path}` {reason}"


class UrlKeys:
    """The keys at a URL. Fetched in the background; all who wait for a fetch wait for the same one.

    Keys older than `fresh_seconds` are used only while the issuer gives no new ones. Nothing is fetched within
    `RETRY_SECONDS` of the last fetch's beginning.
    """

    def __init__(
        self, url: str, context: PluginContext, *, fresh_seconds: float, get: Callable[[str], bytes] = fetch
    ) -> None:
        self._url = url
        self._context = context
        self._fresh_seconds = fresh_seconds
        self._get = get
        self._keys = KeySet([])
        self._fetched_at = -math.inf
        self._began_at = -math.inf
        self._fetching: trio.Event | None = None

    async def start(self) -> None:
        """Does not wait for the keys: the issuer may be away for a moment, and then the server is to listen all the same."""
        if not self._context.read_only:
            self._begin()

    async def reload(self) -> None:
        if self._fetching is None:
            self._begin()
        await self._refresh()

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        key = self._keys.find(kid, algorithm)
        if key is None or trio.current_time() - self._fetched_at >= self._fresh_seconds:
            await self._refresh()
            key = self._keys.find(kid, algorithm)
        return key

    async def _refresh(self) -> None:
        """Wait for the fetch that is under way, or for a new one if it is time for one."""
        if self._fetching is None and trio.current_time() - self._began_at >= RETRY_SECONDS:
            self._begin()
        if self._fetching is not None:
            with trio.move_on_after(WAIT_SECONDS):
                await self._fetching.wait()

    def _begin(self) -> None:
        # A task of the plugin's and not of the client's that asks first: that one may hang up, and others wait, too.
        self._began_at = trio.current_time()
        self._fetching = trio.Event()
        self._context.spawn(self._fetch, name="fetch keys")

    async def _fetch(self) -> None:
        try:
            self._keys = await self._context.in_thread(lambda: key_set_of(self._get(self._url)))
            self._fetched_at = trio.current_time()
            _tell_of(self._keys, self._context)
        except (FetchError, KeySetError) as failure:
            words = str(failure) if isinstance(failure, FetchError) else f"what it answered {failure}"
            self._context.log.warning("keys_not_fetched", url=self._url, error=words, old_keys=len(self._keys))
        except Exception as failure:  # whatever an answer trips must not end the server, as a failing task would
            kind = type(failure).__name__
            self._context.log.error("keys_not_fetched", url=self._url, error=kind, old_keys=len(self._keys))
        finally:
            assert self._fetching is not None
            self._fetching.set()
            self._fetching = None


def _tell_of(keys: KeySet, context: PluginContext) -> None:
    context.log.debug("keys_read", keys=len(keys))
    for reason in keys.left_out:
        context.log.warning("key_left_out", reason=reason)


def _contents(path: Path) -> bytes:
    with path.open("rb") as file:
        contents = file.read(MAX_BYTES + 1)
    if len(contents) > MAX_BYTES:
        raise KeySetError(f"has more than {MAX_BYTES} bytes")
    return contents
