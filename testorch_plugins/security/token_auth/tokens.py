"""Tokens: how they look, what is kept of them, and what they allow. Pure."""

from __future__ import annotations

import hashlib
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from testorch_core.interfaces.security import Principal

PREFIX: Final = "tot_"
"""Scanners for leaked secrets, and people, know a token by it."""

SECRET_BYTES: Final = 32
CHECKSUM_CHARACTERS: Final = 6
LENGTH: Final = len(PREFIX) + 43 + CHECKSUM_CHARACTERS
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SCOPES: Final = ("ingest", "observe", "admin")


def new_token() -> str:
    """A token of 256 random bits: prefix, secret in base64url, checksum.

    The checksum is the CRC-32 of what stands before it, in six digits of base 62, as GitHub's tokens have it: whoever
    finds something that looks like a token can tell without asking whether it is one.
    """
    body = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    return body + _checksum(body)


def is_token(text: str) -> bool:
    """Whether a text has the form of a token, checksum included."""
    if len(text) != LENGTH or not text.startswith(PREFIX) or not text.isascii():
        return False
    return _checksum(text[:-CHECKSUM_CHARACTERS]) == text[-CHECKSUM_CHARACTERS:]


def _checksum(body: str) -> str:
    rest, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARACTERS):
        rest, digit = divmod(rest, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits


def fingerprint(text: str) -> str:
    """What is kept of a token. It needs no salt and no slow hash: nobody guesses 256 random bits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is known of a token. Times are in seconds since the epoch; `projects` None means all."""

    id: str
    name: str
    fingerprint: str
    scopes: tuple[str, ...]
    projects: tuple[str, ...] | None = None
    roles: tuple[str, ...] = ()
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_good(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def state(self, now: float) -> str:
        """`good`, `expired` or `revoked`, for people."""
        return "good" if self.is_good(now) else "expired" if self.revoked_at is None else "revoked"

    def revoked(self, now: float) -> Token:
        return self if self.revoked_at is not None else replace(self, revoked_at=now)

    def principal(self, issuer: str) -> Principal:
        return Principal(
            name=self.name,
            scopes=frozenset(self.scopes),
            projects=None if self.projects is None else frozenset(self.projects),
            roles=frozenset(self.roles),
            issuer=issuer,
            credential=self.id,
            expires_at=self.expires_at,
        )

    def document(self) -> dict[str, Any]:
        """The form in which it is stored. Never holds the token itself."""
        return {
            "name": self.name, "fingerprint": self.fingerprint, "scopes": list(self.scopes),
            "projects": None if self.projects is None else list(self.projects), "roles": list(self.roles),
            "createdAt": self.created_at, "expiresAt": self.expires_at, "revokedAt": self.revoked_at,
        }  # fmt: skip

    def shown(self, now: float) -> dict[str, Any]:
        """What an administrator is shown."""
        facts = self.document()
        del facts["fingerprint"]
        return {"id": self.id, **facts, "state": self.state(now)}


def read_token(token_id: str, document: Mapping[str, Any]) -> Token:
    """A stored token."""
    return Token(
        id=token_id,
        name=document["name"],
        fingerprint=document["fingerprint"],
        scopes=tuple(document["scopes"]),
        projects=_listed(document["projects"]),
        roles=tuple(document.get("roles", ())),
        created_at=document["createdAt"],
        expires_at=document["expiresAt"],
        revoked_at=document["revokedAt"],
    )


def _listed(value: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)
