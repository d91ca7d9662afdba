"""A token's text: whose it says that it is, what its header asks for, and its claims once the signature is right.

Before the signature is verified nothing of a token is believed; what is read is only used to find out whether it is for
us at all, and which key to try. Keys and addresses of keys in the header (`jwk`, `jku`, `x5c`, `x5u`) are never looked at.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from jwt import PyJWS
from jwt.exceptions import PyJWTError

from testorch_plugins.security.oidc_auth.claims import ALGORITHMS, TokenRefusedError
from testorch_plugins.security.oidc_auth.keys import Key

MAX_TOKEN_CHARACTERS: Final = 16 * 1024
"""Those of CI systems have 1,500 to 3,000."""

MAX_KID_CHARACTERS: Final = 200

_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_SIGNATURES: Final = PyJWS(algorithms=list(ALGORITHMS))
"""Knows no HMAC and no `none`, whatever a token asks for."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is needed of a token's header to choose a key."""

    algorithm: str
    kid: str | None


def issuer_of(token: str) -> str | None:
    """Who the token says has made it, which nobody has verified; None for what isn't a JWT. Raises nothing."""
    if len(token) > MAX_TOKEN_CHARACTERS or not _SHAPE.fullmatch(token):
        return None
    try:
        issuer = _object_in(_decoded(token.split(".")[1])).get("iss")
    except ValueError:
        return None
    return issuer if isinstance(issuer, str) else None


def header_of(token: str, algorithms: Collection[str]) -> Header:
    """What the token's header asks for. Raises `TokenRefusedError`."""
    try:
        header = _object_in(_decoded(token.split(".")[0]))
    except ValueError:
        raise TokenRefusedError("its header can't be read") from None
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise TokenRefusedError("its algorithm is not one of `algorithms`")
    if "crit" in header or "b64" in header:
        raise TokenRefusedError("its header asks for an extension")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID_CHARACTERS):
        raise TokenRefusedError("its `kid` is no text")
    return Header(algorithm, kid)


def verified_claims(token: str, header: Header, key: Key) -> dict[str, Any]:
    """The claims, with the signature verified. Raises `TokenRefusedError`."""
    try:
        payload = _SIGNATURES.decode(token, key.public, algorithms=[header.algorithm])
    except (PyJWTError, ValueError, TypeError):
        # ValueError and TypeError: what cryptography says of a signature or a key that PyJWT has not looked at.
        raise TokenRefusedError("its signature is not right") from None
    try:
        return _object_in(payload)
    except ValueError:
        raise TokenRefusedError("its claims can't be read") from None


def _decoded(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _object_in(text: bytes) -> dict[str, Any]:
    """The JSON object in UTF-8 text: no name twice (RFC 7519, 4), no NaN. Raises ValueError."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
