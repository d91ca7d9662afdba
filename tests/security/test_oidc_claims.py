"""What claims mean: patterns, templates, rules, times. Pure, so every corner is tried."""

import contextlib
import fnmatch
import itertools
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testorch_plugins.security.oidc_auth.claims import (
    Pattern,
    Rule,
    Template,
    TokenRefusedError,
    credential_of,
    is_safe,
    require_audience,
    require_in_time,
    rule_for,
)

NOW = 1_900_000_000.0


def filled(template: str, **claims: object) -> str:
    return Template.parse(template).fill(claims)


@pytest.mark.parametrize(
    ("pattern", "claim", "is_match"),
    [
        ("acme/*", "acme/web", True),
        ("acme/*", "acme/a/b", True),
        ("acme/*", "acme/", True),
        ("acme/*", "acme", False),
        ("acme/*", "Acme/web", False),
        ("acme/*", "evil/acme/web", False),
        ("acme/web", "acme/web\n", False),
        ("acme/w?b", "acme/web", True),
        ("acme/w?b", "acme/wb", False),
        ("*/web", "acme/web", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("a*a", "a", False),
        ("refs/heads/*", "refs/heads/x\ny", True),
        ("[a-z].+", "a.b", False),
        ("[a-z].+", "[a-z].+", True),
        ("true", True, True),
        ("1", True, False),
        ("17", 17, True),
        ("17", 17.0, False),
        ("*", None, False),
        ("*", {"a": 1}, False),
        ("admins", ["users", "admins"], True),
        ("admins", ["users", ["admins"]], False),
        ("*", [], False),
    ],
)
def test_a_pattern_is_held_against_the_whole_claim(pattern, claim, is_match):
    assert Pattern(pattern).matches(claim) is is_match


@given(st.text("ab/*?", min_size=1, max_size=12), st.text("ab/\n", max_size=12))
def test_stars_and_question_marks_mean_what_they_mean_to_a_shell(pattern, claim):
    assert Pattern(pattern).matches(claim) == fnmatch.fnmatchcase(claim, pattern)


def test_a_pattern_of_many_stars_takes_no_time():
    begun = time.perf_counter()
    assert not Pattern("*a" * 30 + "b").matches("a" * 16_000)
    assert time.perf_counter() - begun < 1


def test_a_name_is_made_of_words_and_claims():
    assert filled("github:{repository}@{ref}", repository="acme/web", ref="refs/heads/main") == (
        "github:acme/web@refs/heads/main"
    )
    assert filled("fixed") == "fixed"
    assert filled("job-{id}", id=17) == "job-17"


@pytest.mark.parametrize(
    "value",
    ["", "*", "acme/*", "?", "..", "../web", "acme/../web", "./web", "acme//web", "/acme", "acme/", "a b", "a\x00b", "a\nb",
     "a\x1b[31m", "\u202eweb", "wеb", "{repository}", "a\\b", "<b>", "a'b", 'a"b', "a|b", "\ud800", "x" * 201],
)  # fmt: skip
def test_a_claim_with_strange_contents_gives_no_name(value):
    assert not is_safe(value)
    with pytest.raises(TokenRefusedError, match="characters that can't be in a name"):
        filled("ci:{repository}", repository=value)


@pytest.mark.parametrize("value", [None, 1.5, float("nan"), ["acme/web"], {"a": "b"}, 2**60])
def test_a_claim_that_is_no_text_gives_no_name(value):
    with pytest.raises(TokenRefusedError, match="missing or is no text"):
        filled("ci:{repository}", repository=value)


def test_a_name_that_is_too_long_is_refused():
    assert len(filled("ci:{a}", a="x" * 197)) == 200
    with pytest.raises(TokenRefusedError, match="too long"):
        filled("ci:{a}", a="x" * 198)


@pytest.mark.parametrize("between", [":", "-", "--", "-:", ":a:"])
def test_two_sets_of_claims_never_give_the_same_name(between):
    values = ["".join(one) for length in (1, 2, 3) for one in itertools.product("a:-", repeat=length)]
    template = Template.parse(f"ci:{{one}}{between}{{two}}")
    given: dict[str, tuple[str, str]] = {}
    for one, two in itertools.product(values, repeat=2):
        with contextlib.suppress(TokenRefusedError):
            name = template.fill({"one": one, "two": two})
            assert given.setdefault(name, (one, two)) == (one, two)
    assert f"ci:a{between}a" in given


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "1 to 200 characters"),
        ("x" * 201, "1 to 200 characters"),
        ("a{b", "brace without its partner"),
        ("a}b", "brace without its partner"),
        ("a{}", "brace without its partner"),
        ("{{a}}", "brace without its partner"),
        ("{a}{b}", "two claims side by side"),
        ("a\x00", "can't be shown"),
        ("a\nb", "can't be shown"),
        ("*", "stand for nothing"),
        ("acme/*", "stand for nothing"),
    ],
)
def test_a_template_that_can_mean_nothing_says_why(text, words):
    with pytest.raises(ValueError, match=words):
        Template.parse(text)


def rule(project: str, **claims: str) -> Rule:
    return Rule(
        claims={name: Pattern(text) for name, text in claims.items()},
        projects=(Template.parse(project),),
        scopes=frozenset({"ingest"}),
        roles=frozenset(),
    )


def test_the_first_rule_that_matches_counts():
    rules = [
        rule("one", repository="acme/web", ref="refs/tags/*"),
        rule("two", repository="acme/*"),
        rule("three", ref="*"),
    ]
    assert rule_for({"repository": "acme/web", "ref": "refs/tags/1"}, rules) is rules[0]
    assert rule_for({"repository": "acme/web", "ref": "refs/heads/x"}, rules) is rules[1]
    with pytest.raises(TokenRefusedError, match="no rule matches"):
        rule_for({"repository": "evil/web"}, rules)


@pytest.mark.parametrize("given", ["testorch", ["testorch"], ["other", "testorch"]])
def test_an_audience_may_be_one_of_a_list(given):
    require_audience({"aud": given}, "testorch")


@pytest.mark.parametrize("given", [None, "", "test", "testorchard", "Testorch", [], ["other"], [["testorch"]], ["testorch", 1], 1,
                                   {"testorch": 1}, True])  # fmt: skip
def test_a_token_for_another_audience_is_refused(given):
    with pytest.raises(TokenRefusedError, match="audience"):
        require_audience({} if given is None else {"aud": given}, "testorch")


def test_times_have_a_leeway_and_no_more():
    def expires(now: float, **claims: object) -> float:
        return require_in_time({"exp": NOW, **claims}, now, leeway_seconds=60)

    assert expires(NOW + 59.9) == NOW
    assert expires(NOW - 60, nbf=NOW, iat=NOW) == NOW
    assert expires(NOW - 0.5, nbf=NOW - 1.5) == NOW
    for now, claims, words in [
        (NOW + 60, {}, "has expired"),
        (NOW - 61, {"nbf": NOW}, "`nbf` is in the future"),
        (NOW - 61, {"iat": NOW}, "`iat` is in the future"),
    ]:
        with pytest.raises(TokenRefusedError, match=words):
            expires(now, **claims)
    with pytest.raises(TokenRefusedError, match="has no `exp`"):
        require_in_time({}, NOW, leeway_seconds=60)


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "time",
    [True, False, "1900000000", None, [], {}, float("nan"), float("inf"), -float("inf"), 10**30, 10**400, -1e300],
)
def test_what_is_no_time_is_refused(name, time):
    with pytest.raises(TokenRefusedError, match=f"`{name}` is not a time"):
        require_in_time({"exp": NOW + 60, name: time}, NOW, leeway_seconds=60)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["iss", "sub", "jti", "aud", "exp", "nbf", "iat", "a"]), JSON))
def test_claims_of_any_kind_are_refused_or_taken_and_nothing_else(claims):
    for work in (
        lambda: require_audience(claims, "testorch"),
        lambda: require_in_time(claims, NOW, leeway_seconds=60),
        lambda: rule_for(claims, [rule("{a}", a="*x*")]),
        lambda: Template.parse("ci:{a}").fill(claims),
        lambda: credential_of(claims),
    ):
        with contextlib.suppress(TokenRefusedError):
            work()


def test_a_credential_tells_tokens_apart_and_nothing_of_them():
    whole = {"iss": "https://ci", "sub": "job", "jti": "1"}
    others = [{**whole, "jti": "2"}, {**whole, "sub": "jo"}, {"iss": "https://ci", "sub": "job"}]
    found = [credential_of(one) for one in (whole, *others)]
    assert len(set(found)) == 4
    assert not any(word in found[0] for word in json.dumps(whole).split('"') if len(word) > 3)
    with pytest.raises(TokenRefusedError, match="`jti` is no text"):
        credential_of({**whole, "jti": 5})
