"""Keys: which are taken from a JWKS document, where it comes from, and how often it is asked for."""

import json
import threading

import pytest
import structlog
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from security.oidc_issuer import GIVEN, NOW, bearing, ec_key, endpoint, jwk_of, jwks, policy, rsa_key, says, token

from testorch_core.errors import OpeningError
from testorch_core.testing import plugin_context
from testorch_plugins.security.oidc_auth.fetching import FetchError, fetch, url_problem
from testorch_plugins.security.oidc_auth.keys import KeySetError, key_set_of
from testorch_plugins.security.oidc_auth.options import OidcOptions
from testorch_plugins.security.oidc_auth.plugin import OidcAuth
from testorch_plugins.security.oidc_auth.sources import RETRY_SECONDS, WAIT_SECONDS, UrlKeys


def document(*keys: object) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


# Which keys are taken.


@pytest.mark.parametrize(
    ("jwk", "reason"),
    [
        (jwk_of(rsa_key(1024), "weak"), "an RSA key has 1024 bits, not 2048 to 8192"),
        ({"kty": "oct", "kid": "secret", "k": "c2VjcmV0"}, "a key is neither RSA nor EC"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "AA"}, "a key is neither RSA nor EC"),
        (jwk_of(rsa_key(), "e", use="enc"), "a key is not for signatures"),
        (jwk_of(rsa_key(), "e", key_ops=["encrypt"]), "a key is not for signatures"),
        (jwk_of(rsa_key(), "e", key_ops="verify"), "a key is not for signatures"),
        (jwk_of(rsa_key(), "e", alg="HS256"), "a key's `alg` does not go with it"),
        (jwk_of(rsa_key(), "e", alg="none"), "a key's `alg` does not go with it"),
        (jwk_of(rsa_key(), "e", alg="ES256"), "a key's `alg` does not go with it"),
        (jwk_of(ec_key(), "e", alg="ES384"), "a key's `alg` does not go with it"),
        (jwk_of(ec_key(ec.SECP256K1), "e"), "an EC key has an unknown curve"),
        (jwk_of(rsa_key(), None) | {"kid": 5}, "a `kid` is no text"),
        (jwk_of(ec_key(), "e") | {"y": "AAAA"}, "a key can't be read"),
        (jwk_of(ec_key(), "e") | {"x": jwk_of(ec_key(), "e")["y"]}, "a key can't be read"),
        (jwk_of(ec_key(), "e") | {"crv": ["P-256"]}, "a key can't be read"),
        (jwk_of(rsa_key(), "e") | {"n": "!!!"}, "a key can't be read"),
        (jwk_of(rsa_key(), "e") | {"e": "AA"}, "a key can't be read"),
        ({"kty": "RSA", "kid": "e"}, "a key can't be read"),
        ("RSA", "a key is neither RSA nor EC"),
        (None, "a key is neither RSA nor EC"),
    ],
)
def test_a_key_that_is_not_good_enough_is_left_out_and_the_others_stay(jwk, reason):
    keys = key_set_of(document(jwk, jwk_of(rsa_key(), "good")))
    assert (len(keys), keys.left_out) == (1, (reason,))
    with pytest.raises(KeySetError, match="holds no key that can be used"):
        key_set_of(document(jwk))


@pytest.mark.parametrize(
    "contents", [b"", b"null", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b"<html>", b"\xff", b"[" * 100_000]
)
def test_what_is_no_key_set_says_so(contents):
    with pytest.raises(KeySetError):
        key_set_of(contents)


def test_members_of_a_private_key_are_not_looked_at():
    private = jwk_of(rsa_key(), "mine") | {"d": "AQAB", "p": "x"}
    key = key_set_of(document(private)).find("mine", "RS256")
    assert key is not None
    assert key.public == rsa_key().public_key()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = ["kty", "n", "e", "kid", "use", "alg", "crv", "x", "y", "key_ops"]


@given(st.dictionaries(st.sampled_from(MEMBERS), JSON), st.booleans())
@settings(max_examples=100)
def test_keys_of_any_kind_are_taken_or_left_out_and_nothing_else(members, is_rsa):
    good = jwk_of(rsa_key() if is_rsa else ec_key(), "k")
    keys = key_set_of(document(good | members, jwk_of(rsa_key(), "good")))
    assert 1 <= len(keys) <= 2


# Over HTTP.


@pytest.mark.parametrize(
    ("url", "is_good"),
    [
        ("https://ci.example.com/keys", True),
        ("https://ci.example.com:8443/keys?a=b", True),
        ("http://127.0.0.1:8000/keys", True),
        ("http://[::1]/keys", True),
        ("http://localhost/keys", True),
        ("http://ci.example.com/keys", False),
        ("http://127.0.0.1.evil.com/keys", False),
        ("http://localhost@evil.com/keys", False),
        ("https://user:password@ci.example.com/keys", False),
        ("https://ci.example.com/keys#x", False),
        ("https:///keys", False),
        ("https://ci.example.com:99999/", False),
        ("https://ci.example.com/a b", False),
        ("https://ci.example.com/\n", False),
        ("https://[::1/keys", False),
        ("file:///etc/passwd", False),
        ("ftp://ci.example.com/keys", False),
        ("keys.json", False),
        ("", False),
    ],
)
def test_keys_come_over_https_or_from_this_machine(url, is_good):
    assert (url_problem(url) is None) is is_good


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (says(b"", 404), "HTTP status 404"),
        (says(b"", 500), "HTTP status 500"),
        (says(b"", 204), "HTTP status 204"),
        (says(b"", 302, Location="http://127.0.0.1:9/keys"), "HTTP status 302; redirects are not followed"),
        (says(b"", 307, Location="file:///etc/passwd"), "HTTP status 307; redirects are not followed"),
        (says(b"x" * 5000), "more than 4096 bytes"),
        (says(b"x", Content_Length="100"), "ended too early"),
        (says(b"zz\r\n", Transfer_Encoding="chunked", Content_Length="0"), "no good answer"),
        (lambda request: request.wfile.write(b"nonsense\r\n\r\n"), "no good answer"),
        (lambda request: request.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"), "no good answer"),
        (lambda request: None, "no good answer"),
    ],
)
def test_an_answer_that_is_not_the_document_says_why(answer, words):
    with endpoint(answer) as server, pytest.raises(FetchError, match=words):
        fetch(server.url, seconds=5, max_bytes=4096)


def test_a_document_is_fetched_without_following_anything():
    with endpoint(says(jwks())) as server:
        assert fetch(server.url) == jwks()
        server.answer = says(b"", 301, Location=server.url + "/other")
        with pytest.raises(FetchError):
            fetch(server.url)
        assert server.asked == ["/keys", "/keys"]


def test_an_endpoint_that_says_nothing_costs_the_time_and_no_more():
    done = threading.Event()
    with endpoint(lambda request: done.wait(30)) as server:
        with pytest.raises(FetchError, match="no answer in time"):
            fetch(server.url, seconds=0.2)
        done.set()


def test_an_endpoint_that_drips_costs_the_time_and_no_more():
    done = threading.Event()

    def drip(request):
        says(b"", Content_Length="1000")(request)
        while not done.wait(0.02):
            request.wfile.write(b" ")

    with endpoint(drip) as server:
        with pytest.raises(FetchError, match="took too long"):
            fetch(server.url, seconds=0.2)
        done.set()


def test_nobody_there_is_said_in_words():
    with endpoint(says(b"")) as server:
        url = server.url
    with pytest.raises(FetchError, match="refused"):
        fetch(url)


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with endpoint(says(jwks())) as server:
        assert fetch(server.url) == jwks()


# How often. Virtual time, and a fetch without threads.


class Counted:
    """Stands for the issuer's endpoint: answers with `document`, or raises it. A gate makes it slow."""

    def __init__(self) -> None:
        self.document: bytes | Exception = jwks()
        self.times = 0
        self.gate = trio.Event()
        self.gate.set()

    def get(self, url: str) -> bytes:
        self.times += 1
        if isinstance(self.document, Exception):
            raise self.document
        return self.document


@pytest.fixture
def issuer():
    return Counted()


@pytest.fixture
def captured():
    return structlog.testing.LogCapture()


@pytest.fixture
def keys(nursery, tmp_path, issuer, captured):
    async def in_thread(work):
        await issuer.gate.wait()
        await trio.lowlevel.checkpoint()
        return work()

    log = structlog.wrap_logger(structlog.PrintLogger(), processors=[captured])
    context = plugin_context(nursery, folder=tmp_path, log=log)
    object.__setattr__(context, "in_thread", in_thread)
    return UrlKeys("https://ci.example.com/keys", context, fresh_seconds=600, get=issuer.get)


async def test_keys_are_fetched_once_and_kept_while_they_are_fresh(keys, autojump_clock, issuer):
    await keys.start()
    for _ in range(5):
        assert await keys.find("rsa", "RS256") is not None
        await trio.sleep(100)
    assert issuer.times == 1
    await trio.sleep(100)
    assert await keys.find("rsa", "RS256") is not None
    assert issuer.times == 2


async def test_all_who_wait_share_one_fetch(keys, autojump_clock, issuer):
    issuer.gate = trio.Event()
    await keys.start()
    found = []

    async def find():
        found.append(await keys.find("rsa", "RS256"))

    async with trio.open_nursery() as waiting:
        for _ in range(50):
            waiting.start_soon(find)
        await trio.testing.wait_all_tasks_blocked()
        assert found == []
        issuer.gate.set()
    assert len([one for one in found if one is not None]) == 50
    assert issuer.times == 1


async def test_one_who_hangs_up_takes_nothing_from_the_others(keys, autojump_clock, issuer):
    issuer.gate = trio.Event()
    with trio.move_on_after(1) as hung_up:
        await keys.find("rsa", "RS256")
    assert hung_up.cancelled_caught
    async with trio.open_nursery() as waiting:
        waiting.start_soon(keys.find, "rsa", "RS256")
        await trio.testing.wait_all_tasks_blocked()
        issuer.gate.set()
    assert await keys.find("rsa", "RS256") is not None
    assert issuer.times == 1


async def test_unknown_key_ids_make_at_most_one_fetch_in_half_a_minute(keys, autojump_clock, issuer):
    await keys.start()
    begun = trio.current_time()
    for number in range(1000):
        assert await keys.find(f"made-up-{number}", "RS256") is None
        await trio.sleep(0.1)
    assert issuer.times <= 1 + (trio.current_time() - begun) / RETRY_SECONDS
    assert issuer.times == 4


async def test_a_new_key_of_the_issuer_is_found_when_it_is_needed(keys, autojump_clock, issuer):
    await keys.start()
    assert await keys.find("next", "RS256") is None
    issuer.document = jwks(next=rsa_key(number=2))
    await trio.sleep(RETRY_SECONDS)
    assert await keys.find("next", "RS256") is not None
    assert await keys.find("rsa", "RS256") is None, "what the issuer no longer shows is no longer good"
    assert issuer.times == 2


@pytest.mark.parametrize("failure", [FetchError("refused"), b"<html>", b'{"keys":[]}', ZeroDivisionError("x")])
async def test_old_keys_are_used_while_there_are_no_new_ones_and_the_log_says_so(
    keys, autojump_clock, issuer, captured, failure
):
    await keys.start()
    assert await keys.find("rsa", "RS256") is not None
    good, issuer.document = issuer.document, failure
    await trio.sleep(10_000)
    for _ in range(10):
        assert await keys.find("rsa", "RS256") is not None
    assert issuer.times == 2
    said = [one for one in captured.entries if one["event"] == "keys_not_fetched"]
    assert [one["old_keys"] for one in said] == [2]
    assert not any("ZeroDivisionError: x" in str(one) for one in said)
    issuer.document = good
    await trio.sleep(RETRY_SECONDS)
    assert await keys.find("rsa", "RS256") is not None
    assert issuer.times == 3


async def test_an_issuer_that_is_away_at_the_start_keeps_nobody_from_starting(keys, autojump_clock, issuer, captured):
    issuer.document = FetchError("no answer in time")
    await keys.start()
    assert await keys.find("rsa", "RS256") is None
    (said,) = captured.entries
    assert (said["log_level"], said["error"], said["old_keys"]) == ("warning", "no answer in time", 0)
    issuer.document = jwks()
    await trio.sleep(RETRY_SECONDS)
    assert await keys.find("rsa", "RS256") is not None


async def test_a_fetch_that_never_ends_is_waited_for_a_while_and_not_repeated(keys, autojump_clock, issuer):
    issuer.gate = trio.Event()
    begun = trio.current_time()
    assert await keys.find("rsa", "RS256") is None
    assert trio.current_time() - begun == pytest.approx(WAIT_SECONDS)
    await trio.sleep(1000)
    assert await keys.find("rsa", "RS256") is None
    issuer.gate.set()
    assert await keys.find("rsa", "RS256") is not None
    assert issuer.times == 1


async def test_the_operator_may_ask_for_new_keys_at_once(keys, autojump_clock, issuer):
    await keys.start()
    await keys.find("rsa", "RS256")
    issuer.document = jwks(next=rsa_key(number=2))
    await keys.reload()
    assert await keys.find("next", "RS256") is not None
    assert issuer.times == 2


# The policy with a real endpoint, and with a file.


async def test_a_token_is_verified_with_keys_from_a_url(nursery, tmp_path):
    with endpoint(says(jwks())) as server:
        given = {**GIVEN, "jwks_url": server.url}
        del given["jwks_file"]
        auth = OidcAuth("github", OidcOptions.load(given, folder=tmp_path))
        auth.wall_clock = lambda: NOW
        await auth.start(plugin_context(nursery, folder=tmp_path))
        assert await auth.authenticate(bearing(token())) is not None
        server.answer = says(b"", 500)
        await auth.reload()
        assert await auth.authenticate(bearing(token())) is not None
        assert server.asked == ["/keys", "/keys"]


async def test_a_file_of_keys_is_read_again_on_reload_and_a_bad_one_changes_nothing(nursery, tmp_path, captured):
    auth = policy(tmp_path)
    log = structlog.wrap_logger(structlog.PrintLogger(), processors=[captured])
    await auth.start(plugin_context(nursery, folder=tmp_path, log=log))
    other = token(kid="next", key=rsa_key(number=2))
    assert await auth.authenticate(bearing(other)) is None
    for bad in (b"{", None, b"x" * 2_000_000):
        (tmp_path / "keys.json").unlink() if bad is None else (tmp_path / "keys.json").write_bytes(bad)
        await auth.reload()
        assert await auth.authenticate(bearing(token())) is not None
    assert [one["event"] for one in captured.entries].count("keys_kept") == 3
    (tmp_path / "keys.json").write_bytes(jwks(next=rsa_key(number=2)))
    await auth.reload()
    assert await auth.authenticate(bearing(other)) is not None
    assert await auth.authenticate(bearing(token())) is None


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "can't be read: No such file"),
        (b"<html>", "is not JSON"),
        (b'{"keys":[]}', "holds no key that can be used"),
    ],
)
async def test_a_file_without_keys_stops_the_start_with_one_sentence(nursery, tmp_path, contents, words):
    auth = policy(tmp_path)
    (tmp_path / "keys.json").unlink() if contents is None else (tmp_path / "keys.json").write_bytes(contents)
    with pytest.raises(OpeningError, match=words) as refused:
        await auth.start(plugin_context(nursery, folder=tmp_path))
    assert str(refused.value).startswith("`jwks_file`: the file `")
