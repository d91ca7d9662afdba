"""Who are you: tokens that the server made, and tokens that stand in the configuration."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import trio

from testorch_core.errors import StorageFailedError, UsageError
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.security import Principal, SecurityPolicy
from testorch_core.interfaces.storage import Documents
from testorch_core.interfaces.transport import Handshake
from testorch_core.options import Options
from testorch_plugins.security.token_auth.options import TokenOptions
from testorch_plugins.security.token_auth.slowing import Slowing
from testorch_plugins.security.token_auth.tokens import SCOPES, Token, fingerprint, is_token, new_token, read_token

REVISION = "revision"
"""A document that changes with every token, so that looking for news is one small read."""


class TokenAuth(SecurityPolicy):
    """Knows principals by bearer tokens. What is stored of a token is its SHA-256."""

    summary = "tokens with scopes, projects and an expiry; `testorch token` makes them"
    options_type: ClassVar[type[Options]] = TokenOptions
    options: TokenOptions
    authenticates = True
    operations = frozenset({"token create", "token list", "token revoke"})

    def __init__(self, name: str, options: TokenOptions, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(name, options)
        self._clock = clock
        self._documents: Documents | None = None
        self._static = {
            f"static:{one}": Token(
                id=f"static:{one}",
                name=one,
                fingerprint=fingerprint(given.token.reveal()),
                scopes=tuple(given.scopes),
                projects=None if given.projects is None else tuple(given.projects),
                roles=tuple(given.roles),
            )
            for one, given in (options.static or {}).items()
        }
        self._by_id: dict[str, Token] = {}
        self._by_fingerprint: dict[str, Token] = {}
        self._revision: Any = None
        self._log: Any = None
        self._slowing = Slowing()
        self._take(())

    async def start(self, context: PluginContext) -> None:
        self._log = context.log
        self._documents = context.services.documents if context.services is not None else None
        if self._documents is not None:
            await self._refresh()
            context.spawn(self._look_for_news, name="look for new tokens")

    async def aclose(self) -> None:
        self._documents = None
        await trio.lowlevel.checkpoint()

    # Deciding.

    async def authenticate(self, handshake: Handshake) -> Principal | None:
        text = handshake.token
        if text is None:
            return None
        wanted = fingerprint(text)
        token = self._by_fingerprint.get(wanted)
        if token is not None and hmac.compare_digest(token.fingerprint, wanted) and token.is_good(self._clock()):
            return token.principal(self.name)
        if text.count(".") != 2 or is_token(text):  # what looks like a signed token may be another policy's
            await trio.sleep(self._slowing.failed(handshake.address, trio.current_time()))
        return None

    def current(self, principal: Principal) -> Principal | None:
        token = self._by_id.get(principal.credential or "")
        if token is None or not token.is_good(self._clock()):
            return None
        return token.principal(self.name)

    # Administering.

    async def administer(self, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._documents is None:
            raise UsageError("the store keeps no tokens here")
        await self._refresh()
        if operation == "token create":
            return await self._create(self._documents, arguments)
        if operation == "token revoke":
            return await self._revoke(self._documents, str(arguments["token"]))
        now = self._clock()
        return {"tokens": [one.shown(now) for one in sorted(self._by_id.values(), key=lambda one: one.created_at)]}

    async def _create(self, documents: Documents, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        text, now = new_token(), self._clock()
        seconds = arguments.get("expiresInSeconds")
        projects = arguments.get("projects")
        token = Token(
            id=secrets.token_hex(4),
            name=_name(arguments.get("name")),
            fingerprint=fingerprint(text),
            scopes=_scopes(arguments.get("scopes") or ["ingest", "observe"]),
            projects=tuple(projects) if projects else None,
            roles=tuple(arguments.get("roles") or ()),
            created_at=now,
            expires_at=None if seconds is None else now + float(seconds),
        )
        await documents.put(token.id, token.document(), expected_version=0)
        await self._announce(documents)
        return {"token": text, **token.shown(now)}

    async def _revoke(self, documents: Documents, wanted: str) -> Mapping[str, Any]:
        found = [one for one in self._by_id.values() if wanted in (one.id, one.name)]
        if not found:
            raise UsageError(f"no token has the id or the name `{wanted}`; `testorch token list` shows them")
        if len({one.id for one in found}) > 1 and wanted not in {one.id for one in found}:
            ids = ", ".join(f"`{one.id}`" for one in found)
            raise UsageError(f"several tokens have the name `{wanted}`; name one by its id: {ids}")
        token = next((one for one in found if one.id == wanted), found[0])
        if token.id in self._static:
            raise UsageError(f"`{wanted}` stands in the configuration; take it out there, and restart the server")
        gone = token.revoked(self._clock())
        await documents.put(gone.id, gone.document())
        await self._announce(documents)
        return gone.shown(self._clock())

    async def _announce(self, documents: Documents) -> None:
        await documents.put(REVISION, {"revision": secrets.token_hex(8)})
        await self._refresh()

    # Knowing.

    async def _look_for_news(self) -> None:
        while True:
            await trio.sleep(self.options.refresh_seconds)
            try:
                await self._refresh()
            except StorageFailedError as failure:  # what is known stays good until it is back
                self._log.warning("tokens_not_read", error=str(failure))

    async def _refresh(self) -> None:
        documents = self._documents
        if documents is None:
            return
        found = await documents.get(REVISION)
        revision = None if found is None else found[0]["revision"]
        if revision == self._revision:
            return
        tokens: list[Token] = []
        after: str | None = None
        while True:
            page = await documents.page(after=after, limit=500)
            tokens += [read_token(key, one) for key, one in page.rows if key != REVISION]
            if page.next is None:
                break
            after = page.next
        self._take(tokens)
        self._revision = revision

    def _take(self, tokens: Any) -> None:
        self._by_id = {one.id: one for one in tokens} | self._static
        self._by_fingerprint = {one.fingerprint: one for one in self._by_id.values()}


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
        raise UsageError("a token needs a name of 1 to 200 characters: who will use it")
    return value


def _scopes(given: Any) -> tuple[str, ...]:
    unknown = [one for one in given if one not in SCOPES]
    if unknown:
        raise UsageError(f"`{unknown[0]}` is not a scope; there are " + ", ".join(f"`{one}`" for one in SCOPES))
    return tuple(dict.fromkeys(given))
