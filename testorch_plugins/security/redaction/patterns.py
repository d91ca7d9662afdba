r"""The built-in patterns: what common tokens and keys look like, each with the source of its form.

A pattern is bounded wherever it repeats, or goes over at once what it has seen, so that the time grows with the text's
length alone. It has no boundary in front (`\b`, a look-behind), so a token is found whatever stands before it. Of a group
`secret`, only that is replaced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from testorch_plugins.security.redaction.bounds import shortest_match

MARK: Final = "[redacted:{}]"
"""What stands in the place of a match, with the pattern's name."""

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")
"""What a pattern may be called; to be matched in full."""

_NOT_MARKED: Final = r"(?!\[redacted:[a-z0-9_-]{1,40}\])"


@dataclass(frozen=True, slots=True)
class Pattern:
    """One thing to be replaced.

    At least one of `words` stands in every match, and the character `gate` in every text with a match; both are looked for
    before the expression is tried. Without words it is tried on every string of at least `least` characters, its shortest
    match. `assigns` says that the expression is a name, a sign and a secret: a key and its value are tried as `key: value`.
    """

    name: str
    regex: re.Pattern[str]
    words: tuple[str, ...] = ()
    gate: str = ""
    assigns: bool = False
    least: int = 1

    @property
    def mark(self) -> str:
        """What its matches become."""
        return MARK.format(self.name)

    def replaced(self, text: str) -> tuple[str, int]:
        """The text without its matches, and how many there were. A match with a group `skip` is only gone over."""
        if not self.regex.groupindex:
            return self.regex.subn(self.mark, text)
        pieces, end = [], 0
        for match in self.regex.finditer(text):
            first, last = self._place(match)
            if first < last:
                pieces += [text[end:first], self.mark]
                end = last
        return ("".join(pieces) + text[end:], len(pieces) // 2) if pieces else (text, 0)

    def _place(self, match: re.Match[str]) -> tuple[int, int]:
        groups = self.regex.groupindex
        if "skip" in groups and match["skip"] is not None:
            return 0, 0
        return match.span("secret") if "secret" in groups and match["secret"] is not None else match.span()


def _pattern(name: str, expression: str, *words: str, gate: str = "", assigns: bool = False) -> Pattern:
    return Pattern(name, re.compile(expression), words, gate, assigns, shortest_match(expression))


_ASSIGNED: Final = r"[\"'\\]{0,4}+\s{0,8}+(?:=>|[=:,])\s{0,8}+b?[\"'\\]{0,4}+"
"""Between a name and its value: in a shell, INI, YAML, JSON (also inside a string of another JSON), Python or HTTP."""

_CREDENTIALS: Final = r"[A-Za-z0-9._~+/=-]"
"""RFC 6750, 2.1: `b64token`; RFC 7617: base64."""

BUILTIN: Final[tuple[Pattern, ...]] = (
    # RFC 7468 and RFC 4880, 6.2. The body ends at the next `-----`. Without an end, whole lines of base64 are taken.
    _pattern(
        "private_key",
        r"-----BEGIN (?:[A-Z0-9]{1,20}+ ){0,4}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:(?:[^-]{1,16384}+|-(?!----)){0,256}+-----END [A-Z0-9 ]{0,80}+-----"
        r"|(?:[\s\\rnE>|]{1,40}+[A-Za-z0-9+/]{40,80}+={0,2}+){0,256}+)",
        "PRIVATE KEY",
    ),
    # github.blog/changelog/2021-03-31-authentication-token-format-updates-are-generally-available: up to 255 characters;
    # github.blog/changelog/2026-05-15-github-app-installation-tokens-per-request-override-header: `ghs_` with dots, dashes.
    _pattern(
        "github_token",
        r"gh(?:[pour]_[A-Za-z0-9_]{36,255}+|s_[A-Za-z0-9._-]{36,1024}+)|github_pat_[A-Za-z0-9_]{36,255}+",
        "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_",
    ),
    # docs.gitlab.com/security/tokens (Token prefixes); routable tokens have dots, as in gitleaks' `gitlab-pat-routable`.
    _pattern(
        "gitlab_token",
        r"gl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|wt|soat|ffct)-[A-Za-z0-9_-]{20,300}+(?:\.[a-z0-9]{2,9}+){0,3}+",
        "glpat-", "gloas-", "gldt-", "glrt-", "glrtr-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-", "glwt-",
        "glsoat-", "glffct-",
    ),
    # docs.slack.dev/authentication/tokens: `xoxb-`, `xoxp-`, `xoxe.xoxp-`, `xapp-`, and gitleaks' list of older ones.
    _pattern(
        "slack_token",
        r"(?:xox[abcdeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,400}+|xapp-[0-9]-[A-Za-z0-9-]{20,400}+)",
        "xox", "xapp-",
        gate="-",
    ),
    # docs.slack.dev/messaging/sending-messages-using-incoming-webhooks: the URL holds the secret.
    _pattern(
        "slack_webhook",
        r"hooks\.slack\.com\\?/(?:services|workflows|triggers)\\?/(?P<secret>[A-Za-z0-9+/\\]{20,200}+)",
        "hooks.slack.com",
    ),
    # docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html (Unique identifiers); base32, as in gitleaks.
    _pattern("aws_access_key_id", r"A(?:KIA|SIA)[A-Z2-7]{16}", "AKIA", "ASIA"),
    # docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html and the answers of STS; 40 characters of base64.
    _pattern(
        "aws_secret_access_key",
        rf"(?:(?:SECRET|secret)_(?:ACCESS|access)_(?:KEY|key)|[Ss]ecretAccessKey){_ASSIGNED}(?P<secret>[A-Za-z0-9/+]{{40,64}}+)",
        "SECRET_", "secret_", "ecretAccessKey",
        assigns=True,
    ),
    # cloud.google.com/docs/authentication/api-keys: 39 characters.
    _pattern("google_api_key", r"AIza[A-Za-z0-9_-]{35}", "AIza"),
    # docs.stripe.com/keys: secret and restricted keys of live mode. Those of test mode hold nothing secret.
    _pattern("stripe_key", r"[rs]k_live_[A-Za-z0-9]{24,255}+", "k_live_"),
    # github.blog/changelog/2021-09-23-npm-has-a-new-access-token-format: 36 characters after the prefix.
    _pattern("npm_token", r"npm_[A-Za-z0-9]{36,255}+", "npm_"),
    # docs.pypi.org/api/secrets-reporting: a macaroon, whose beginning names pypi.org or test.pypi.org.
    _pattern("pypi_token", r"pypi-AgE[A-Za-z0-9_-]{50,1000}+", "pypi-"),
    # RFC 7519 and RFC 7515, 3.1: two JSON objects and a signature, each base64url. What only begins so is gone over at once,
    # lest every `eyJ` in it be tried.
    _pattern(
        "jwt",
        r"eyJ[A-Za-z0-9_-]{8,}+(?:\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{16,}+|(?P<skip>))",
        "eyJ",
    ),
    # RFC 9110, 11.6.2. A word in small letters alone is taken for prose (`Authorization: Basic authentication`).
    _pattern(
        "authorization",
        rf"(?:[Aa]uthorization|AUTHORIZATION){_ASSIGNED}(?i:bearer|basic|token|digest|negotiate)\s{{1,4}}+"
        rf"(?=[a-z._~+/-]{{0,256}}+[A-Z0-9=])(?P<secret>{_CREDENTIALS}{{6,8192}}+)",
        "uthorization", "UTHORIZATION",
        assigns=True,
    ),
    # RFC 6750, 2.1, where the header's name is not beside it. Needs a digit, and 20 characters.
    _pattern(
        "bearer_token",
        rf"[Bb]earer\s{{1,4}}+(?=[A-Za-z._~+/-]{{0,256}}+[0-9])(?P<secret>{_CREDENTIALS}{{20,8192}}+)",
        "earer ",
        gate=" ",
    ),
    # RFC 3986, 3.2.1: `scheme://user:password@host`; the password alone is replaced.
    _pattern(
        "url_password",
        rf"://[^\s/?#:@\"'<>]{{0,256}}+:(?P<secret>{_NOT_MARKED}[^\s/?#\"'<>]{{1,512}})@",
        "://",
        gate="@",
    ),
    # OpenAI and Anthropic publish no grammar; the forms are those of gitleaks (`openai-api-key`, `anthropic-api-key`).
    # Capitals and digits tell them from `task-…` and `disk-…`.
    _pattern(
        "ai_api_key",
        r"sk-(?:ant-[a-z0-9]{1,16}+-[A-Za-z0-9_-]{20,255}+|or-v1-[0-9a-f]{64}"
        r"|(?:proj|svcacct|admin|None)-(?=[a-z0-9_-]{0,64}+[A-Z])[A-Za-z0-9_-]{20,255}+"
        r"|(?=[a-z0-9]{0,48}+[A-Z])(?=[A-Za-z]{0,48}+[0-9])[A-Za-z0-9]{40,255}+)",
        "sk-",
    ),
    # Our own: `tot_`, 43 characters of base64url and a checksum of 6. Capitals or digits tell them from `tot_al_of_…`.
    _pattern("testorch_token", r"tot_(?=[a-z_-]{0,48}+[A-Z0-9])[A-Za-z0-9_-]{49}", "tot_"),
)  # fmt: skip
"""In the order in which they are tried."""
