"""Who a token lets in, and what becomes of tokens that somebody has made to get in: nobody, one line, no exception."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from security.oidc_issuer import (
    CLAIMS,
    ISSUER,
    NOW,
    bearing,
    ec_key,
    encoded,
    jwk_of,
    jwks,
    policy,
    public_pem,
    rsa_key,
    signed,
    token,
)

from testorch_core.interfaces.security import Principal
from testorch_core.testing import plugin_context
from testorch_plugins.security.oidc_auth.keys import key_set_of
from testorch_plugins.security.oidc_auth.tokens import MAX_TOKEN_CHARACTERS, header_of, issuer_of, verified_claims


class Log:
    """A log that remembers."""

    def __init__(self):
        self.seen = structlog.testing.LogCapture()
        self.log = structlog.wrap_logger(structlog.PrintLogger(), processors=[self.seen])

    def reasons(self) -> list[str]:
        return [one["reason"] for one in self.seen.entries if one["event"] == "token_refused"]


@pytest.fixture
def log():
    return Log()


@pytest.fixture
async def auth(nursery, tmp_path, log) -> AsyncIterator[object]:
    made = policy(tmp_path, algorithms=["RS256", "ES256"])
    await made.start(plugin_context(nursery, folder=tmp_path, log=log.log))
    yield made
    await made.aclose()


async def test_a_good_token_is_a_principal_of_its_rule(auth, log):
    assert await auth.authenticate(bearing(token())) == Principal(
        name="github:acme/web",
        scopes=frozenset({"ingest"}),
        projects=frozenset({"acme/web"}),
        roles=frozenset(),
        issuer="github",
        credential=hashlib.sha256(json.dumps([CLAIMS["iss"], CLAIMS["sub"], CLAIMS["jti"]]).encode()).hexdigest()[:32],
        expires_at=NOW + 6 * 3600,
    )
    assert log.reasons() == []


async def test_a_token_may_be_signed_with_an_elliptic_curve(auth):
    assert await auth.authenticate(bearing(token(kid="ec", alg="ES256"))) is not None


async def test_a_rule_gives_scopes_roles_and_projects(nursery, tmp_path):
    rules = [
        {"claims": {"ref": "refs/tags/*", "repository": "acme/*"}, "projects": ["releases"], "roles": ["release"]},
        {
            "claims": {"repository": "acme/*"},
            "projects": ["{repository}", "{repository_owner}:all"],
            "scopes": ["ingest", "observe"],
        },
    ]
    auth = policy(tmp_path, rules=rules)
    await auth.start(plugin_context(nursery, folder=tmp_path))
    tagged = await auth.authenticate(bearing(token({"ref": "refs/tags/v1"})))
    assert (tagged.projects, tagged.scopes, tagged.roles) == ({"releases"}, {"ingest"}, {"release"})
    other = await auth.authenticate(bearing(token()))
    assert (other.projects, other.scopes, other.roles) == ({"acme/web", "acme:all"}, {"ingest", "observe"}, set())


async def test_who_was_let_in_may_stay_for_a_session_and_no_longer(auth):
    principal = await auth.authenticate(bearing(token()))
    for later, stays in [(0, True), (291 + 60, True), (6 * 3600 - 1, True), (6 * 3600, False), (10**9, False)]:
        auth.wall_clock = lambda later=later: NOW + later
        assert (auth.current(principal) is principal) is stays
    auth.wall_clock = lambda: NOW + 291 + 60
    assert await auth.authenticate(bearing(token())) is None, "coming back takes a token that is still good"


async def test_without_a_session_a_connection_stays_as_long_as_its_token_is_good(nursery, tmp_path):
    auth = policy(tmp_path, session_seconds=0)
    await auth.start(plugin_context(nursery, folder=tmp_path))
    principal = await auth.authenticate(bearing(token()))
    assert principal.expires_at == CLAIMS["exp"] + 60
    auth.wall_clock = lambda: CLAIMS["exp"] + 59.0
    assert auth.current(principal) is principal
    assert await auth.authenticate(bearing(token())) is not None
    auth.wall_clock = lambda: CLAIMS["exp"] + 60.0
    assert auth.current(principal) is None
    assert await auth.authenticate(bearing(token())) is None


def test_a_principal_without_an_end_is_not_ours_to_end(tmp_path):
    principal = Principal(name="somebody")
    assert policy(tmp_path).current(principal) is principal


def forged(header: object, claims: object = CLAIMS, signature: bytes = b"x" * 256) -> str:
    return f"{encoded(header)}.{encoded(claims)}.{encoded(signature)}"


def by_secret(secret: bytes, alg: str = "HS256", kid: str = "rsa") -> str:
    """A token signed with a "secret" that everybody knows: the public key."""
    text = f"{encoded({'alg': alg, 'kid': kid, 'typ': 'JWT'})}.{encoded(CLAIMS)}"
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), alg.replace('HS', 'sha')))}"


def own_key_in_header() -> list[str]:
    mine = rsa_key(number=2)
    return [
        token(key=mine, kid="rsa", jwk=jwk_of(mine, "rsa")),
        token(key=mine, kid="rsa", jku="http://127.0.0.1:9/keys"),
        token(key=mine, kid="rsa", x5u="http://127.0.0.1:9/keys"),
        token(key=mine, kid="rsa", x5c=["MIIB"]),
        token(key=mine, kid=None, jwk=jwk_of(mine, None)),
    ]


def hostile_tokens() -> list[tuple[str, str]]:
    """(token, the reason that the log has)."""
    claims = json.dumps(CLAIMS).encode()
    good = token().split(".")
    last = good[2]
    signature, key, alg, ext, kid = (
        "its signature is not right", "the issuer has no such key", "its algorithm is not one of `algorithms`",
        "its header asks for an extension", "its `kid` is no text",
    )  # fmt: skip
    return [
        (forged({"alg": "none"}), alg),
        (forged({"alg": "none"}, signature=b""), alg),
        (forged({"alg": "None", "kid": "rsa"}), alg),
        (forged({"alg": ["RS256"], "kid": "rsa"}), alg),
        (forged({"alg": None, "kid": "rsa"}), alg),
        (forged({"kid": "rsa"}), alg),
        (forged({"alg": "RS512", "kid": "rsa"}), alg),
        (by_secret(public_pem(rsa_key())), alg),
        (by_secret(json.dumps(jwk_of(rsa_key(), "rsa")).encode(), "HS512"), alg),
        (by_secret(b""), alg),
        (forged({"alg": "RS256", "kid": "rsa"}), signature),
        (forged({"alg": "ES256", "kid": "ec"}), signature),
        (forged({"alg": "ES256", "kid": "ec"}, signature=b"\x00" * 64), signature),
        (forged({"alg": "RS256", "kid": "rsa"}, signature=b""), signature),
        (f"{good[0]}.{encoded({**CLAIMS, 'repository': 'acme/other'})}.{last}", signature),
        *((one, signature) for one in own_key_in_header()[:4]),
        (own_key_in_header()[4], signature),
        (token(kid="ec"), key),
        (token(kid="rsa", alg="ES256"), key),
        (token(kid="unknown"), key),
        (token(kid="RSA"), key),
        (token(kid="../../../../dev/null"), key),
        (token(kid="' OR 1=1; --"), key),
        (forged({"alg": "RS256", "kid": "\x00"}), key),
        (forged({"alg": "RS256", "kid": 5}), kid),
        (forged({"alg": "RS256", "kid": {"a": 1}}), kid),
        (forged({"alg": "RS256", "kid": ""}), kid),
        (forged({"alg": "RS256", "kid": "k" * 5000}), kid),
        (token(crit=["exp"], exp=1), ext),
        (signed(b'{"alg":"RS256","kid":"rsa","crit":["b64"],"b64":false}', claims), ext),
        (signed(b'{"alg":"RS256","kid":"rsa","b64":true}', claims), ext),
        (signed(b'{"alg":"RS256","kid":"rsa","kid":"ec"}', claims), "its header can't be read"),
        (signed(b"[" * 3000, claims), "its header can't be read"),
        (signed(b"null", claims), "its header can't be read"),
        (signed(b"\xff\xfe", claims), "its header can't be read"),
        (token({"aud": "other"}), "it was made for another audience"),
        (token({"aud": None}), "its audience is missing or is no text"),
        (token({"exp": None}), "it has no `exp`"),
        (token({"exp": int(NOW) - 61}), "it has expired"),
        (token({"nbf": int(NOW) + 61}), "its `nbf` is in the future; are the clocks right?"),
        (token({"iat": int(NOW) + 61}), "its `iat` is in the future; are the clocks right?"),
        (token({"exp": True}), "its `exp` is not a time"),
        (token({"repository": "evil/web"}), "no rule matches its claims"),
        (token({"repository": "acme/*"}), "the claim `repository` has characters that can't be in a name"),
        (token({"repository": "acme/../evil/web"}), "the claim `repository` has characters that can't be in a name"),
        (token({"repository": "acme/we\x00b"}), "the claim `repository` has characters that can't be in a name"),
        (token({"repository": ["acme/web"]}), "the claim `repository`, which a name needs, is missing or is no text"),
        (token({"jti": 5}), "its `sub` or its `jti` is no text"),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(hostile_tokens())))
async def test_a_hostile_token_lets_nobody_in_and_is_one_line_without_the_token(auth, log, number):
    text, reason = hostile_tokens()[number]
    assert await auth.authenticate(bearing(text)) is None
    assert log.reasons() == [reason]
    written = json.dumps(log.seen.entries)
    assert not any(part and part in written for part in text.split("."))


async def test_the_subject_of_a_refused_token_is_told_only_when_the_issuer_has_signed_it(auth, log):
    await auth.authenticate(bearing(token({"aud": "other"})))
    await auth.authenticate(bearing(token({"aud": "other"}, key=rsa_key(number=2))))
    await auth.authenticate(bearing(token({"aud": "other", "sub": "two\nlines"})))
    assert [one.get("subject") for one in log.seen.entries if one["event"] == "token_refused"] == [
        CLAIMS["sub"],
        None,
        None,
    ]


OTHERS = [
    None, "", ".", "..", "a.b", "a.b.c", "a.b.c.d", "torch_0123456789", "Bearer x", "é.é.é", "\x00", "a" * 100_000,
    "." * 100_000, token({"iss": "https://gitlab.com"}), token({"iss": None}), token({"iss": ISSUER + "/"}),
    token({"iss": ISSUER.upper()}), token({"iss": f" {ISSUER}"}), "x.y.z",
    f" {token()}", f"{token()}\n", f"{token()}=", token().replace(".", " . "), f"{token()}.{token()}",
    token({"filler": "x" * MAX_TOKEN_CHARACTERS}),
    signed(b'{"alg":"RS256","kid":"rsa"}', b'{"iss":"https://evil","iss":"%s"}' % ISSUER.encode()),
    signed(b'{"alg":"RS256","kid":"rsa"}', b'{"iss":"%s","exp":NaN}' % ISSUER.encode()),
    signed(b'{"alg":"RS256","kid":"rsa"}', b'{"iss":"%s","exp":Infinity}' % ISSUER.encode()),
    signed(b'{"alg":"RS256","kid":"rsa"}', b'{"a":' * 2000 + b"1" + b"}" * 2000),
    signed(b'{"alg":"RS256","kid":"rsa"}', b'["%s"]' % ISSUER.encode()),
    signed(b'{"alg":"RS256","kid":"rsa"}', b'{"iss":["%s"]}' % ISSUER.encode()),
    signed(b'{"alg":"RS256","kid":"rsa"}', b'{"iss":"%s","exp":%s}' % (ISSUER.encode(), b"9" * 5000)),
    signed(b'{"alg":"RS256","kid":"rsa"}', b"\xff"),
    signed(b'{"alg":"RS256","kid":"rsa"}', json.dumps(CLAIMS).encode("utf-16-le")),
    signed(b'{"alg":"RS256","kid":"rsa"}', json.dumps(CLAIMS).encode("utf-8-sig")),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(OTHERS)))
async def test_what_is_no_token_of_the_issuer_is_somebody_elses_and_not_worth_a_line(auth, log, number):
    assert await auth.authenticate(bearing(OTHERS[number])) is None
    assert log.reasons() == []


def test_a_token_that_is_too_long_is_not_even_parsed(monkeypatch):
    def fails(*_: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(json, "loads", fails)
    assert issuer_of("a" * 6000 + "." + "b" * 6000 + "." + "c" * 6000) is None


async def test_a_token_without_a_kid_is_tried_with_the_only_key_that_it_can_mean(auth, tmp_path, nursery):
    assert await auth.authenticate(bearing(token(kid=None))) is not None
    (tmp_path / "keys.json").write_bytes(jwks(one=rsa_key(), two=rsa_key(number=2)))
    await auth.reload()
    assert await auth.authenticate(bearing(token(kid=None))) is None
    assert await auth.authenticate(bearing(token(kid="one"))) is not None


SOUND = token()


EDIT = st.tuples(
    st.integers(0, len(SOUND)), st.integers(0, 3), st.text(max_size=3) | st.sampled_from([".", "=", "A", "-", "_"])
)


@given(st.lists(EDIT, min_size=1, max_size=3))
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
async def test_no_change_of_a_token_gets_in_and_none_raises(auth, edits):
    """Any few characters replaced, left out or put in. Only the very token that was signed is taken."""
    text = SOUND
    for at, cut, put in edits:
        text = text[:at] + put + text[at + cut :]
    principal = await auth.authenticate(bearing(text))
    assert principal is None or text == SOUND


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku", "jwk", "x5c", "cty", "zip"]), JSON),
    st.dictionaries(st.sampled_from(sorted(CLAIMS)), JSON),
)
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
async def test_signed_claims_of_any_kind_give_no_exception_and_no_odd_project(auth, header, claims):
    """Even a token that the issuer has signed opens nothing but what its rule means."""
    header = {"alg": "RS256", "kid": "rsa", **header}
    text = signed(json.dumps(header).encode(), json.dumps({**CLAIMS, **claims}).encode())
    principal = await auth.authenticate(bearing(text))
    if principal is not None:
        (project,) = principal.projects
        assert project.startswith("acme/")
        assert project == claims.get("repository", CLAIMS["repository"])
        assert principal.name == f"github:{project}"


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
@settings(max_examples=200)
def test_bytes_of_any_kind_are_no_token(one, two, three):
    issuer_of(f"{encoded(one)}.{encoded(two)}.{encoded(three)}")


def test_algorithms_and_keys_go_together():
    """A header is matched with `algorithms` and with what the key is for; the verifier itself knows no others either."""
    keys = key_set_of(jwks(rsa=rsa_key(), p384=ec_key(ec.SECP384R1)))
    for alg, kid in [("RS256", "rsa"), ("RS512", "rsa"), ("PS256", "rsa"), ("ES384", "p384")]:
        text = token(alg=alg, kid=kid, key=rsa_key() if kid == "rsa" else ec_key(ec.SECP384R1))
        header = header_of(text, {alg})
        assert verified_claims(text, header, keys.find(kid, alg))["iss"] == ISSUER
    assert keys.find("p384", "ES256") is None
    assert keys.find("rsa", "HS256") is None
    assert jwt.get_unverified_header(token())["alg"] == "RS256"
