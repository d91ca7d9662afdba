"""What a token's claims mean: which rule they match, which names they give, whether they hold now. Pure.

What a claim may put into a name is an allow-list, so that no token makes a name that means something else: no wildcard,
no path trick, no control character, and no two sets of claims that give the same name by a shifted separator.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

MAX_NAME_CHARACTERS: Final = 200
"""Of a principal's name and of a project's, as the core has it."""

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Signatures with a public key. No HMAC: its secret would have to be shared. Never `none`."""

_SAFE: Final = re.compile(r"[A-Za-z0-9._@:+#=~%/-]+")
_PART: Final = re.compile(r"\{([^{}]+)\}|([^{}]+)")
_LARGEST: Final = 2**53 - 1

Claims = Mapping[str, Any]


class TokenRefusedError(Exception):
    """A token is not good. The reason is in our own words: nothing of what the token says."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Pattern:
    """A pattern over a whole claim: `*` is any run of characters (`/` too), `?` is one; letter case counts."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.is_open = not text.strip("*?")
        self._match = re.compile(_expression(text), re.DOTALL).fullmatch

    def matches(self, claim: Any) -> bool:
        """Whether a claim matches; of a list, any element."""
        if isinstance(claim, list):
            return any(self._matches_one(one) for one in claim)
        return self._matches_one(claim)

    def _matches_one(self, claim: Any) -> bool:
        text = text_of(claim)
        return text is not None and self._match(text) is not None


def _expression(pattern: str) -> str:
    first, *rest = (re.escape(part).replace(r"\?", ".") for part in re.split(r"\*+", pattern))
    if not rest:
        return first
    # Atomic groups: the first place where a part fits is the right one, so nothing is ever tried again.
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
    return f"{first}{middle}.*{rest[-1]}"


def text_of(claim: Any) -> str | None:
    """A claim as text: a string, `true`, `false`, a whole number; None for everything else."""
    if isinstance(claim, str):
        return claim
    if isinstance(claim, bool):
        return "true" if claim else "false"
    if isinstance(claim, int) and abs(claim) <= _LARGEST:
        return str(claim)
    return None


class Template:
    """A name with claims in it, such as `github:{repository}`."""

    def __init__(self, parts: Sequence[tuple[str | None, str]]) -> None:
        self._parts = tuple(parts)
        """(claim, "") or (None, literal text), in their order; no two claims are neighbours."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError with a sentence that says what is wrong."""
        if not 0 < len(text) <= MAX_NAME_CHARACTERS:
            raise ValueError(f"must have 1 to {MAX_NAME_CHARACTERS} characters")
        if not text.isprintable():
            raise ValueError("has a character that can't be shown")
        found = list(_PART.finditer(text))
        if "".join(one[0] for one in found) != text:
            raise ValueError("has a brace without its partner; a claim is written `{name}`")
        parts = [(one[1], "") if one[1] else (None, one[2]) for one in found]
        if any("*" in literal or "?" in literal for _, literal in parts):
            raise ValueError("has a `*` or a `?`, which stand for nothing in a name")
        if any(one[0] and two[0] for one, two in itertools.pairwise(parts)):
            raise ValueError("has two claims side by side; put a character between them, such as `:`")
        return cls(parts)

    @property
    def begins_with_claim(self) -> bool:
        return self._parts[0][0] is not None

    def fill(self, claims: Claims) -> str:
        """The name that these claims give. Raises `TokenRefusedError`."""
        name = "".join(
            text if claim is None else self._value(at, claim, claims) for at, (claim, text) in enumerate(self._parts)
        )
        if len(name) > MAX_NAME_CHARACTERS:
            raise TokenRefusedError("the claims give a name that is too long")
        return name

    def _value(self, at: int, claim: str, claims: Claims) -> str:
        value = text_of(claims.get(claim))
        if value is None:
            raise TokenRefusedError(f"the claim `{claim}`, which a name needs, is missing or is no text")
        if not is_safe(value) or not self._ends_where_it_should(at, value):
            raise TokenRefusedError(f"the claim `{claim}` has characters that can't be in a name")
        return value

    def _ends_where_it_should(self, at: int, value: str) -> bool:
        """Whether the text that follows can't be mistaken for a part of the value: `a:b`, `c` is not `a`, `b:c`."""
        if not any(claim for claim, _ in self._parts[at + 1 :]):
            return True
        _, separator = self._parts[at + 1]
        return (value + separator).index(separator) == len(value)


def is_safe(value: str) -> bool:
    """Whether a claim may stand in a name: ASCII letters, digits and `._@:+#=~%-`, in parts that `/` separates."""
    if not 0 < len(value) <= MAX_NAME_CHARACTERS or not _SAFE.fullmatch(value):
        return False
    return all(part not in ("", ".", "..") for part in value.split("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Who is let in (all of `claims` must match), and to what."""

    claims: Mapping[str, Pattern]
    projects: tuple[Template, ...]
    scopes: frozenset[str]
    roles: frozenset[str]

    def matches(self, claims: Claims) -> bool:
        return all(name in claims and pattern.matches(claims[name]) for name, pattern in self.claims.items())


def rule_for(claims: Claims, rules: Sequence[Rule]) -> Rule:
    """The first rule that matches. Raises `TokenRefusedError` where none does."""
    for rule in rules:
        if rule.matches(claims):
            return rule
    raise TokenRefusedError("no rule matches its claims")


def require_audience(claims: Claims, audience: str) -> None:
    """Hold the token against who it was made for. Raises `TokenRefusedError`."""
    named = claims.get("aud")
    listed = named if isinstance(named, list) else [named]
    if not all(isinstance(one, str) for one in listed):
        raise TokenRefusedError("its audience is missing or is no text")
    if audience not in listed:
        raise TokenRefusedError("it was made for another audience")


def require_in_time(claims: Claims, now: float, *, leeway_seconds: float) -> float:
    """When the token expires, in seconds since the epoch. Raises `TokenRefusedError` for one that isn't good now."""
    expires = _time_in(claims, "exp")
    if expires is None:
        raise TokenRefusedError("it has no `exp`")
    if now >= expires + leeway_seconds:
        raise TokenRefusedError("it has expired")
    for name in ("nbf", "iat"):
        begins = _time_in(claims, name)
        if begins is not None and begins > now + leeway_seconds:
            raise TokenRefusedError(f"its `{name}` is in the future; are the clocks right?")
    return expires


def _time_in(claims: Claims, name: str) -> float | None:
    if name not in claims:
        return None
    time = claims[name]
    if isinstance(time, bool) or not isinstance(time, int | float) or not _is_reasonable(time):
        raise TokenRefusedError(f"its `{name}` is not a time")
    return float(time)


def _is_reasonable(time: float) -> bool:
    """Not NaN, not infinite, and no integer so large that no float can hold it."""
    return abs(time) <= _LARGEST and math.isfinite(time)


def credential_of(claims: Claims) -> str:
    """What a token is known by without being told: a hash of issuer, subject and id. Raises `TokenRefusedError`."""
    known = [claims.get(name) for name in ("iss", "sub", "jti")]
    if not all(one is None or isinstance(one, str) for one in known):
        raise TokenRefusedError("its `sub` or its `jti` is no text")
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]
