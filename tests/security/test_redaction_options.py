"""The options of redaction: what is refused at the start, in whole sentences, without a secret in any of them."""

import random
import re
import string
import time
from pathlib import Path
from typing import Any

import pytest

from testorch_core.config import construct, parse_configuration
from testorch_core.errors import ConfigurationError
from testorch_core.options import OptionsError
from testorch_core.testing import SecurityPolicyContract
from testorch_plugins.security.redaction import plugin
from testorch_plugins.security.redaction.bounds import MAX_STEPS, UnboundedError, steps_of, word_of
from testorch_plugins.security.redaction.options import RedactionOptions
from testorch_plugins.security.redaction.patterns import BUILTIN
from testorch_plugins.security.redaction.plugin import Redaction

SECRET = "correct-horse-battery"
SAMPLE = Path(plugin.__file__).with_name("sample.toml")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DEPLOY_KEY", SECRET)
    monkeypatch.setenv("SHORT", "hunter2")
    monkeypatch.delenv("MISSING", raising=False)


def loaded(folder: Path = Path(), **given: Any) -> RedactionOptions:
    return RedactionOptions.load(given, folder=folder)


def problems(folder: Path = Path(), **given: Any) -> list[str]:
    with pytest.raises(OptionsError) as refused:
        loaded(folder, **given)
    assert SECRET not in str(refused.value)
    return [one.problem for one in refused.value.problems]


def redacted(options: RedactionOptions, text: str) -> str:
    event = {"id": "e", "type": "test/output", "timestamp": 1, "payload": {"text": text}}
    return str(Redaction("redaction", options).amend(event)["payload"]["text"])


class TestRedactionWithSecrets(SecurityPolicyContract):
    def make_plugin(self):
        return Redaction(
            "redaction", loaded(literals={"key": {"env": "DEPLOY_KEY"}}, without=["jwt"], max_string_characters=2000)
        )


class TestRedactionOfNothing(SecurityPolicyContract):
    def make_plugin(self):
        return Redaction("redaction", loaded(builtin=False))


def test_the_sample_is_sound():
    text = f'[storage]\nuse = "memory"\n{SAMPLE.read_text()}'
    (redaction,) = construct(parse_configuration(text, source="sample", folder=Path())).security
    assert redaction.options.without == ["google_api_key"]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("(", "`own` is not a regular expression: missing ), unterminated subpattern at position 0"),
        ("", "`own` matches the empty string; write what must stand there"),
        ("a?", "`own` matches the empty string; write what must stand there"),
        (r"\b", "`own` matches the empty string; write what must stand there"),
        ("(a+)+$", "`own` repeats without an upper bound (`*`, `+`, `{n,}`); write one, such as `{1,200}`"),
        ("a.*", "`own` repeats without an upper bound (`*`, `+`, `{n,}`); write one, such as `{1,200}`"),
        ("a(?=b*)", "`own` repeats without an upper bound (`*`, `+`, `{n,}`); write one, such as `{1,200}`"),
        (r"(a)\1", "`own` refers back to a group, which has no bound on its time; write it without"),
        (r"(a)?b(?(1)c|d)", "`own` refers back to a group, which has no bound on its time; write it without"),
        ("redac[a-z]{3}", "`own` matches the mark that it would leave; write what tells a secret from it"),
        ("w{4294967296}", "`own` is not a regular expression: it is too deep or too large"),
        (3, "`own` must be a regular expression, as a string"),
    ],
)  # fmt: skip
def test_a_pattern_that_would_do_harm_is_refused_with_a_sentence(expression: Any, words: str):
    assert problems(patterns={"own": expression}) == [f"`patterns`: {words}"]


@pytest.mark.parametrize(
    "expression",
    ["(a{1,20}){1,20}$", "(a|a){1,40}$", "(?:a|ab|b){1,30}c", "(a?){30}a{30}", "x{0,99}x{0,99}y", "(?:a{0,9}?b{0,9}){1,9}c", "(?:.{1,50}){2,3}"],
)  # fmt: skip
def test_a_pattern_with_too_many_ways_is_refused(expression: str):
    assert steps_of(expression) > MAX_STEPS
    (words,) = problems(patterns={"own": expression})
    assert words.endswith("lower the bounds, or make repetitions possessive (`{1,200}+`)")


GOOD = {
    "cust-[0-9]{8,12}": "cust-",
    "session_id=(?P<secret>[A-Za-z0-9]{16,64}+)": "session_id=",
    "(?i)corp-[a-z]{10}": None,
    "(?:ab|cd){1,40}x": None,
    "(?:[a-z]{1,20}+-){1,20}+key": "key",
    "[a-z]{1,60}+=[a-z]{1,60}+": None,
    "(tok)en_[a-z]{3}(?!-)": "token_",
    "a(?i:bcd)e": None,
    'x"yz"w': 'x"yz"w',
}


@pytest.mark.parametrize("expression", GOOD)
def test_a_pattern_with_bounds_is_taken_and_its_word_is_looked_for_first(expression: str):
    options = loaded(patterns={"own": expression})
    assert options.chosen()[0].words == (() if GOOD[expression] is None else (GOOD[expression],))


def test_a_pattern_with_a_quote_in_its_word_is_found_in_the_encoded_event():
    assert redacted(loaded(patterns={"own": 'x"yz"w'}), 'ax"yz"wb') == "a[redacted:own]b"
    assert redacted(loaded(patterns={"own": "kölner[0-9]"}), "kölner7") == "[redacted:own]"


def test_the_bound_on_steps_is_one_on_time():
    """As many steps as are taken at every one of a million places."""
    expression = f"[a-z]{{1,{MAX_STEPS - 1}}}+="
    assert steps_of(expression) == MAX_STEPS
    options = loaded(builtin=False, patterns={"own": expression})
    begun = time.process_time()
    assert redacted(options, "a" * 200_000) == "a" * 200_000
    assert time.process_time() - begun < 20


def test_steps_grow_with_the_time_that_the_engine_takes():
    """The count bites: what it refuses takes the engine longer with each character."""

    def seconds(length: int) -> float:
        begun = time.process_time()
        re.search("(a{1,30}){1,30}$", "a" * length + "b")
        return time.process_time() - begun

    assert seconds(17) > 4 * seconds(11)
    with pytest.raises(UnboundedError):
        steps_of("(a+)+$")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"key": {"env": "MISSING"}}, "`literals.key`: the environment variable `MISSING` is not set"),
        ({"key": {"file": "none"}}, "`literals.key`: the file `none` can't be read: No such file or directory"),
        ({"key": {"env": "SHORT"}}, "`literals.key`: has fewer than 8 characters; so short a text is found in ordinary words"),
        ({"key": SECRET}, '`literals.key`: must be a reference, `{ env = "NAME" }` or `{ file = "path" }`, not the secret itself'),
        ({"key": {"env": "DEPLOY_KEY", "file": "a"}}, '`literals.key`: a table here must be a reference, `{ env = "NAME" }` or `{ file = "path" }`'),
        ({"A key": {"env": "DEPLOY_KEY"}}, "`literals.A key`: is not a name: a small letter, and up to 39 small letters, digits, `_` and `-`"),
        ({"jwt": {"env": "DEPLOY_KEY"}}, "`literals.jwt`: the name is taken, by a built-in pattern or another table; choose another"),
        ("x", "`literals`: not a valid mapping type"),
    ],
)  # fmt: skip
def test_a_literal_that_can_not_be_used_is_refused_with_a_sentence(given: Any, words: str, tmp_path: Path):
    assert problems(tmp_path, literals=given) == [words]


def test_everything_that_is_wrong_comes_at_once_and_without_a_secret():
    found = problems(
        without=["jwtt"], patterns={"A": "a", "b": "b*"}, literals={"c": SECRET, "d": {"env": "MISSING"}}, max_string_characters=1
    )  # fmt: skip
    assert len(found) == 6
    assert "`without.0`: `jwtt` is none; they are: private_key, github_token" in "".join(found)


def test_a_name_in_two_tables_is_refused():
    found = problems(patterns={"key": "abc"}, literals={"key": {"env": "DEPLOY_KEY"}})
    assert [one.split(":")[0] for one in found] == ["`patterns.key`", "`literals.key`"]


def test_a_literal_from_a_file_is_replaced_in_every_form(tmp_path: Path):
    (tmp_path / "key").write_text("p/ss word+\u00e4\n")
    options = loaded(tmp_path, literals={"key": {"file": "key"}})
    for form in (
        "p/ss word+\u00e4",
        "p%2Fss%20word%2B%C3%A4",
        "p%2fss+word%2b%c3%a4",
        "cC9zcyB3b3JkK8Ok",
        "p/ss word+\\u00e4",
    ):
        assert redacted(options, f"<{form}>") == "<[redacted:key]>"


def test_a_secret_shows_in_no_repr_and_no_error():
    options = loaded(literals={"key": {"env": "DEPLOY_KEY"}})
    assert SECRET not in f"{options!r} {options} {Redaction('redaction', options)!r}"
    text = (
        '[storage]\nuse = "memory"\n[security.redaction]\nbuiltin = 3\n[security.redaction.literals]\nkey = "'
        + SECRET
        + '"\n'
    )
    with pytest.raises(ConfigurationError) as refused:
        construct(parse_configuration(text, source="t", folder=Path()))
    assert SECRET not in str(refused.value)
    assert "security.redaction: `literals.key`: must be a reference" in str(refused.value)


def test_the_builtin_patterns_can_be_left_out_one_by_one_or_all():
    token = "npm_" + "".join(random.Random(1).choices(string.ascii_letters, k=36))
    assert redacted(loaded(), token) == "[redacted:npm_token]"
    assert redacted(loaded(without=["npm_token"]), token) == token
    assert redacted(loaded(builtin=False), token) == token
    assert len(loaded(without=["jwt"]).chosen()) == len(BUILTIN) - 1


def test_words_are_only_what_every_match_holds():
    assert word_of("abc|def") is None
    assert word_of("(?:abc){0,1}x") is None
    assert word_of("ab[cd]efg") == "efg"
