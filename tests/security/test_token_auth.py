"""The token policy: how tokens look, what is kept of them, and its promises as a plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from testorch_core.interfaces.plugin import Services
from testorch_core.interfaces.transport import Handshake
from testorch_core.options import OptionsError
from testorch_core.testing import plugin_context
from testorch_plugins.security.token_auth.options import TokenOptions
from testorch_plugins.security.token_auth.plugin import TokenAuth
from testorch_plugins.security.token_auth.slowing import FREE_FAILURES, MAX_ADDRESSES, MOST_SECONDS, Slowing
from testorch_plugins.security.token_auth.tokens import LENGTH, Token, fingerprint, is_token, new_token, read_token
from testorch_plugins.storage.memory.plugin import MemoryStore


def test_a_token_has_a_prefix_256_bits_and_a_checksum():
    made = {new_token() for _ in range(200)}
    assert len(made) == 200
    assert all(one.startswith("tot_") and len(one) == LENGTH and is_token(one) for one in made)


@given(st.integers(4, LENGTH - 1), st.characters(codec="ascii"))
def test_a_mistyped_token_is_known_for_one_without_asking_anybody(place: int, other: str):
    token = new_token()
    changed = token[:place] + other + token[place + 1 :]
    assert is_token(changed) is (changed == token)


@given(st.text(max_size=60))
def test_no_text_trips_the_check(text: str):
    assert not is_token(text)
    assert len(fingerprint(text)) == 64


def test_what_is_stored_comes_back_and_holds_no_token():
    token = Token(
        id="a", name="ci", fingerprint="f", scopes=("ingest",), projects=("web",), roles=("r",), created_at=5.0
    )
    assert read_token("a", token.document()) == token
    text = new_token()
    stored = Token(id="a", name="ci", fingerprint=fingerprint(text), scopes=("ingest",)).document()
    assert text not in str(stored)
    assert text[4:-6] not in str(stored)


def test_a_token_is_good_until_it_expires_or_is_revoked():
    token = Token(id="a", name="ci", fingerprint="f", scopes=("ingest",), expires_at=100.0)
    assert token.is_good(99.9)
    assert not token.is_good(100.0)
    assert not token.revoked(50.0).is_good(60.0)
    assert [token.state(0), token.state(200), token.revoked(1).state(0)] == ["good", "expired", "revoked"]
    assert token.revoked(1).revoked(2).revoked_at == 1


def test_failures_are_forgiven_after_a_while_and_memory_is_bounded():
    slowing = Slowing()
    assert [slowing.failed("a", 0.0) for _ in range(FREE_FAILURES)] == [0.0] * FREE_FAILURES
    assert slowing.failed("a", 0.0) > 0
    assert slowing.failed("b", 0.0) == 0
    assert slowing.failed("a", 61.1) == 0
    for number in range(MAX_ADDRESSES + 10):
        slowing.failed(str(number), 70.0)
    assert len(slowing._failures) == MAX_ADDRESSES
    assert max(slowing.failed("flood", 80.0) for _ in range(100)) == MOST_SECONDS


def options(**static: Any) -> TokenOptions:
    return TokenOptions.load({"static": static}, folder=Path())


async def test_static_tokens_come_by_reference_and_never_show_themselves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI_TOKEN", "a-canary-secret-of-the-config")
    loaded = options(ci={"token": {"env": "CI_TOKEN"}, "scopes": ["ingest"], "projects": ["web"]})
    assert "canary" not in repr(loaded)
    policy = TokenAuth("tokens", loaded)
    assert "canary" not in repr(vars(policy))
    principal = await policy.authenticate(Handshake(address="a", transport="t", token="a-canary-secret-of-the-config"))
    assert principal is not None
    assert (principal.name, principal.scopes, principal.projects) == ("ci", {"ingest"}, {"web"})
    assert policy.current(principal) == principal
    assert "canary" not in repr(Handshake(address="a", transport="t", token="a-canary-secret-of-the-config"))


@pytest.mark.parametrize(
    ("static", "words"),
    [
        ({"ci": {"token": "short"}}, "ci"),
        ({"ci": {"token": {"env": "NOT_SET_ANYWHERE"}}}, "NOT_SET_ANYWHERE"),
        ({"ci": {}}, "`token` is required"),
        ({"ci": {"token": "x" * 30, "scopes": ["root"]}}, "scopes"),
        ({"ci": {"token": "x" * 30, "scope": ["ingest"]}}, "did you mean `scopes`"),
        ({"ci": "x" * 30}, "must be a table"),
    ],
)
def test_a_mistake_in_a_static_token_is_a_sentence_that_says_where(static: Any, words: str):
    with pytest.raises(OptionsError, match=words) as raised:
        options(**static)
    assert "xxxxx" not in str(raised.value)


async def test_tokens_outlive_the_server_and_another_one_sees_them():
    """Two policies over one store, as two nodes would be: what one makes or revokes the other knows within seconds."""
    store = MemoryStore("store", MemoryStore.options_type())
    async with trio.open_nursery() as nursery:
        await store.start(plugin_context(nursery, folder=Path()))
        services = Services(documents=store.documents("tokens"))
        one, other = TokenAuth("tokens", options()), TokenAuth("tokens", options())
        await one.start(plugin_context(nursery, folder=Path(), services=services))
        made = await one.administer("token create", {"name": "ci", "scopes": ["ingest"]})
        await other.start(plugin_context(nursery, folder=Path(), services=services))
        shown = Handshake(address="a", transport="t", token=made["token"])
        principal = await other.authenticate(shown)
        assert principal is not None
        await one.administer("token revoke", {"token": made["id"]})
        await other._refresh()
        assert other.current(principal) is None
        assert await other.authenticate(shown) is None
        assert made["token"] not in str(store.__dict__)
        nursery.cancel_scope.cancel()


def test_a_name_that_several_tokens_have_is_not_enough_to_revoke_one():
    async def main() -> None:
        store = MemoryStore("store", MemoryStore.options_type())
        async with trio.open_nursery() as nursery:
            await store.start(plugin_context(nursery, folder=Path()))
            policy = TokenAuth("tokens", options())
            context = plugin_context(nursery, folder=Path(), services=Services(documents=store.documents("tokens")))
            await policy.start(context)
            made = [await policy.administer("token create", {"name": "ci"}) for _ in range(2)]
            with pytest.raises(Exception, match=made[0]["id"]):
                await policy.administer("token revoke", {"token": "ci"})
            await policy.administer("token revoke", {"token": made[0]["id"]})
            listed = (await policy.administer("token list", {}))["tokens"]
            assert [one["state"] for one in listed] == ["revoked", "good"]
            nursery.cancel_scope.cancel()

    trio.run(main)
