"""The keys of an issuer: a JWKS document (RFC 7517) as the public keys in it that can be used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

MIN_RSA_BITS: Final = 2048
"""NIST SP 800-57: less is not good beyond 2013."""

MAX_RSA_BITS: Final = 8192
"""Verifying takes time by the square of this, and is done in the event loop."""

RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
EC_ALGORITHMS: Final[Mapping[str, str]] = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
"""The one algorithm that goes with a curve (RFC 7518, 3.4)."""


class KeySetError(Exception):
    """A document is no key set, or no key in it can be used; the words are a sentence's end."""


class _UnusableError(Exception):
    """Why one key is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A public key, and the algorithms that it may be used with, whatever a token says."""

    kid: str | None
    algorithms: frozenset[str]
    public: RSAPublicKey | EllipticCurvePublicKey


class KeySet:
    """The usable keys of an issuer. `left_out` says why others are not among them."""

    def __init__(self, keys: Iterable[Key], *, left_out: Iterable[str] = ()) -> None:
        self._keys = tuple(keys)
        self.left_out = tuple(left_out)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key with this id. A token that names none gets the only key that its algorithm could mean, if it is one."""
        fitting = [one for one in self._keys if algorithm in one.algorithms]
        if kid is None:
            return fitting[0] if len(fitting) == 1 else None
        return next((one for one in fitting if one.kid == kid), None)


def key_set_of(document: bytes) -> KeySet:
    """The key set in a JWKS document. Raises `KeySetError`."""
    try:
        value = json.loads(document)
    except (ValueError, RecursionError):
        raise KeySetError("is not JSON") from None
    listed = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise KeySetError("is not a JWKS document: an object with a list `keys`")
    keys: list[Key] = []
    left_out: dict[str, None] = {}
    for one in listed:
        try:
            keys.append(_key_of(one))
        except _UnusableError as reason:
            left_out[str(reason)] = None
    if not keys:
        reasons = f" ({'; '.join(left_out)})" if left_out else ""
        raise KeySetError(f"holds no key that can be used{reasons}")
    return KeySet(keys, left_out=left_out)


def _key_of(jwk: Any) -> Key:
    """One usable key. Raises `_UnusableError`. Members of private keys are not looked at."""
    if not isinstance(jwk, dict) or jwk.get("kty") not in ("RSA", "EC"):
        raise _UnusableError("a key is neither RSA nor EC")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise _UnusableError("a key is not for signatures")
    if not isinstance(jwk.get("kid", ""), str):
        raise _UnusableError("a `kid` is no text")
    try:
        public, fitting = _rsa(jwk) if jwk["kty"] == "RSA" else _elliptic(jwk)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, OverflowError):
        # All that PyJWT and cryptography raise for numbers that are none or make no key.
        raise _UnusableError("a key can't be read") from None
    algorithms = fitting & {jwk["alg"]} if isinstance(jwk.get("alg"), str) else fitting
    if not algorithms:
        raise _UnusableError("a key's `alg` does not go with it")
    return Key(kid=jwk.get("kid"), algorithms=algorithms, public=public)


def _rsa(jwk: Mapping[str, Any]) -> tuple[RSAPublicKey, frozenset[str]]:
    key = RSAAlgorithm.from_jwk({name: str(jwk[name]) for name in ("kty", "n", "e")})
    if not isinstance(key, RSAPublicKey):
        raise _UnusableError("a key can't be read")
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise _UnusableError(f"an RSA key has {key.key_size} bits, not {MIN_RSA_BITS} to {MAX_RSA_BITS}")
    return key, RSA_ALGORITHMS


def _elliptic(jwk: Mapping[str, Any]) -> tuple[EllipticCurvePublicKey, frozenset[str]]:
    if jwk["crv"] not in EC_ALGORITHMS:
        raise _UnusableError("an EC key has an unknown curve")
    key = ECAlgorithm.from_jwk({name: str(jwk[name]) for name in ("kty", "crv", "x", "y")})
    if not isinstance(key, EllipticCurvePublicKey):
        raise _UnusableError("a key can't be read")
    return key, frozenset({EC_ALGORITHMS[jwk["crv"]]})
