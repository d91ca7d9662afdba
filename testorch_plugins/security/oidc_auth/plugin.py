"""The OIDC policy: lets CI jobs in by the signed token that their CI system gives them, without a secret of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from testorch_core.errors import OpeningError
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.security import Principal, SecurityPolicy
from testorch_core.interfaces.transport import Handshake
from testorch_core.options import Options
from testorch_plugins.security.oidc_auth.claims import (
    Claims,
    Template,
    TokenRefusedError,
    credential_of,
    is_safe,
    require_audience,
    require_in_time,
    rule_for,
)
from testorch_plugins.security.oidc_auth.options import OidcOptions, libraries_problem

if TYPE_CHECKING:  # PyJWT and cryptography are an extra, and take a tenth of a second to import
    from testorch_plugins.security.oidc_auth.sources import KeySource


class OidcAuth(SecurityPolicy):
    """Knows the bearer of a JWT that the configured issuer has signed, if a rule matches its claims.

    A token that is none of this issuer's is nobody's business here. For one that is and isn't good, the log has the
    reason; the client gets the same answer whatever it was.
    """

    summary: ClassVar[str] = "lets in CI jobs (GitHub Actions, GitLab) by the token that their CI system signs"
    options_type: ClassVar[type[Options]] = OidcOptions
    options: OidcOptions
    authenticates = True

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self.wall_clock: Callable[[], float] = time.time
        """Seconds since the epoch; tests put another in its place."""
        self._name = Template.parse(options.name)
        self._keys: KeySource | None = None
        self._log: Any = None

    async def start(self, context: PluginContext) -> None:
        problem = libraries_problem()
        if problem is not None:
            raise OpeningError(f"`{self.name}` {problem}")
        keys = self._source(context)
        await keys.start()
        self._keys, self._log = keys, context.log

    async def aclose(self) -> None:
        """Nothing to release: a fetch that is under way belongs to the core, which cancels it."""

    async def reload(self) -> None:
        if self._keys is not None:
            await self._keys.reload()

    async def authenticate(self, handshake: Handshake) -> Principal | None:
        from testorch_plugins.security.oidc_auth.tokens import issuer_of

        token = handshake.token
        if token is None or issuer_of(token) != self.options.issuer:
            return None
        claims: Claims = {}
        try:
            claims = await self._claims(token)
            return self._principal(claims)
        except TokenRefusedError as refused:
            subject = claims.get("sub")  # shown only when the issuer has signed it
            known = {"subject": subject} if isinstance(subject, str) and is_safe(subject) else {}
            self._log.info("token_refused", reason=refused.reason, address=handshake.address, **known)
            return None

    def current(self, principal: Principal) -> Principal | None:
        """The same until its session ends, which `expires_at` says; then None."""
        until = principal.expires_at
        return principal if until is None or self.wall_clock() < until else None

    async def _claims(self, token: str) -> Claims:
        """The claims of a token with a good signature. Raises `TokenRefusedError`."""
        from testorch_plugins.security.oidc_auth.tokens import header_of, verified_claims

        assert self._keys is not None, "the core calls nothing before `start` has returned"
        header = header_of(token, self.options.algorithms)
        key = await self._keys.find(header.kid, header.algorithm)
        if key is None:
            raise TokenRefusedError("the issuer has no such key")
        # Not in a thread: the hop there and back costs about as much as verifying (0.2 and 0.3 ms; see the README).
        return verified_claims(token, header, key)

    def _principal(self, claims: Claims) -> Principal:
        """Who the claims make it. Raises `TokenRefusedError`."""
        now = self.wall_clock()
        if claims.get("iss") != self.options.issuer:
            raise TokenRefusedError("it is of another issuer")
        require_audience(claims, self.options.audience)
        expires = require_in_time(claims, now, leeway_seconds=self.options.leeway_seconds)
        rule = rule_for(claims, self.options.rules)
        return Principal(
            name=self._name.fill(claims),
            scopes=rule.scopes,
            projects=frozenset(one.fill(claims) for one in rule.projects),
            roles=rule.roles,
            issuer=self.name,
            credential=credential_of(claims),
            expires_at=max(expires + self.options.leeway_seconds, now + self.options.session_seconds),
        )

    def _source(self, context: PluginContext) -> KeySource:
        from testorch_plugins.security.oidc_auth.sources import FileKeys, UrlKeys

        if self.options.jwks_file is not None:
            return FileKeys(context.folder / self.options.jwks_file, context)
        if self.options.jwks_url is None:
            raise OpeningError(f"`{self.name}` needs `jwks_url` or `jwks_file`")
        return UrlKeys(self.options.jwks_url, context, fresh_seconds=self.options.jwks_seconds)
