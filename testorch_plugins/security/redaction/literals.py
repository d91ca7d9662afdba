"""The forms in which a secret of the team may be written: as it is, and as base64, URLs and JSON write it. Pure."""

from __future__ import annotations

import base64
import json
import re
from typing import Final
from urllib.parse import quote, quote_plus

from testorch_plugins.security.redaction.patterns import Pattern

MIN_CHARACTERS: Final = 8
"""The shortest secret that is looked for; a shorter one would be found in ordinary words."""

MIN_LINE_CHARACTERS: Final = 16
"""The shortest line of a secret with several lines that is looked for by itself."""


def literal(name: str, secret: str) -> Pattern:
    """A pattern that finds every form of a secret."""
    forms = sorted(forms_of(secret), key=lambda form: (-len(form), form))  # the longest first: one may hold another
    return Pattern(name, re.compile("|".join(map(re.escape, forms))), tuple(forms), least=len(forms[-1]))


def forms_of(secret: str) -> set[str]:
    """Every form that is looked for.

    Of base64 the characters that depend on the secret alone, for each of the three places where it may begin; what its
    neighbours have a share in, at most one character at each end, is left.
    """
    lines = [line.strip() for line in secret.splitlines()]
    parts = {secret, *(line for line in lines if len(line) >= MIN_LINE_CHARACTERS and not line.startswith("-----"))}
    return {form for part in parts for form in (part, *_written(part), *_base64(part))}


def _written(part: str) -> set[str]:
    quoted = {quote(part, safe=""), quote(part), quote_plus(part)}
    lowered = {re.sub("%[0-9A-F]{2}", lambda match: match.group().lower(), one) for one in quoted}
    as_json = {json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]}
    return quoted | lowered | as_json | {repr(part)[1:-1]}


def _base64(part: str) -> set[str]:
    raw = part.encode()
    found = set()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        first, end = (8 * before + 5) // 6, 8 * (before + len(raw)) // 6
        inner = encoded[first:end]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found
