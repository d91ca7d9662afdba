"""What redaction replaces, and what it leaves: known tokens in any surroundings, ordinary output, every place of an event."""

import base64
import copy
import hashlib
import json
import random
import re
import string
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testorch_core.testing import SecurityPolicyContract
from testorch_plugins.security.redaction.literals import forms_of, literal
from testorch_plugins.security.redaction.options import RedactionOptions
from testorch_plugins.security.redaction.patterns import BUILTIN
from testorch_plugins.security.redaction.plugin import Redaction
from testorch_plugins.security.redaction.redactor import Redactor
from testorch_plugins.security.redaction.triggers import Triggers, as_json

LITERAL = 'p"ä\\ß/+w0rd?&x'
REDACTOR = Redactor([literal("deploy_key", LITERAL), *BUILTIN], max_string_characters=16 * 1024 * 1024)


def run_of(alphabet: str, length: int, *, seed: int = 7) -> str:
    """Random characters, the same every time; nothing in this file looks like a token of anybody's."""
    return "".join(random.Random(seed).choices(alphabet, k=length))


WORDS = string.ascii_letters + string.digits
URLSAFE = WORDS + "_-"
BODY = "\n".join([run_of(WORDS, 64, seed=n) for n in range(12)])
PEM = f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{BODY}\nab==\n-----END RSA PRIVATE KEY-----"

TOKENS: list[tuple[str, str, str]] = [
    *[("github_token", f"gh{kind}_" + run_of(WORDS, 36), "") for kind in "pousr"],
    ("github_token", "ghs_" + run_of(URLSAFE + ".", 300), ""),
    ("github_token", "github_pat_" + run_of(WORDS, 22) + "_" + run_of(WORDS, 59), ""),
    ("gitlab_token", "glpat-" + run_of(URLSAFE, 20), ""),
    ("gitlab_token", "glcbt-64_" + run_of(URLSAFE, 20), ""),
    ("gitlab_token", "glpat-" + run_of(URLSAFE, 40) + ".01." + "0abcdefg1", ""),
    ("slack_token", "xoxb-123456789012-1234567890123-" + run_of(WORDS, 24), ""),
    ("slack_token", "xoxe.xoxp-1-" + run_of(WORDS, 140), ""),
    ("slack_token", "xapp-1-A0123456789-1234567890123-" + run_of("abcdef0123456789", 64), ""),
    ("slack_webhook", "T0123456789/B0123456789/" + run_of(WORDS, 24), "https://hooks.slack.com/services/"),
    ("aws_access_key_id", "AKIA" + run_of(string.ascii_uppercase + "234567", 16), ""),
    *[
        ("aws_secret_access_key", run_of(WORDS + "/+", 40), before)
        for before in ("aws_secret_access_key = ", 'AWS_SECRET_ACCESS_KEY="', '"SecretAccessKey": "', "'secretAccessKey': '")
    ],
    ("google_api_key", "AIza" + run_of(URLSAFE, 35), ""),
    ("stripe_key", "sk_live_" + run_of(WORDS, 24), ""),
    ("stripe_key", "rk_live_" + run_of(WORDS, 99), ""),
    ("npm_token", "npm_" + run_of(WORDS, 36), ""),
    ("pypi_token", "pypi-AgEIcHlwaS5vcmc" + run_of(URLSAFE, 150), ""),
    ("jwt", "eyJ" + run_of(URLSAFE, 33) + ".eyJ" + run_of(URLSAFE, 70) + "." + run_of(URLSAFE, 43), ""),
    ("private_key", PEM, ""),
    ("private_key", PEM.replace("\n", "\\n"), ""),
    ("private_key", PEM.replace("RSA PRIVATE KEY", "PRIVATE KEY"), ""),
    ("private_key", PEM.replace("RSA PRIVATE KEY", "OPENSSH PRIVATE KEY"), ""),
    ("private_key", PEM.replace("RSA PRIVATE KEY", "PGP PRIVATE KEY BLOCK"), ""),
    *[
        ("authorization", value, before)
        for value, before in (
            ("abc.DEF-123", "Authorization: Bearer "),
            ("dXNlcjpwYXNzd29yZA==", "authorization: basic "),
            ("dXNlcjpwYXNzd29yZA==", "{'Authorization': 'Basic "),
            ("dXNlcjpwYXNzd29yZA==", '\\"Authorization\\": \\"Basic '),
            ("dXNlcjpwYXNzd29yZA==", "(b'authorization', b'Basic "),
        )
    ],
    ("bearer_token", run_of(WORDS, 30) + "9", "curl -H 'X-Auth: Bearer "),
    ("url_password", "s3cret", "postgresql://app:"),
    ("url_password", "p@ss:word", "redis://:"),
    ("ai_api_key", "sk-ant-api03-" + run_of(URLSAFE, 93) + "AA", ""),
    ("ai_api_key", "sk-proj-" + run_of(URLSAFE, 120), ""),
    ("ai_api_key", "sk-" + run_of(WORDS, 20) + "T3BlbkFJ" + run_of(WORDS, 20), ""),
    ("testorch_token", "tot_" + run_of(URLSAFE, 43) + run_of(WORDS, 6), ""),
    *[("deploy_key", form, "") for form in sorted(forms_of(LITERAL))],
]  # fmt: skip
"""(pattern, secret, what must stand before it)"""

AFTER = {"url_password": "@db.example.org/x"}

ORDINARY = [
    "",
    "tests/test_login.py::TestLogin::test_user_can_log_in[chrome-https://localhost:8000/] PASSED",
    Path(__file__).read_text("utf-8").split("BODY =")[0],
    '  File "/usr/lib/python3.11/site-packages/task-runner/disk-usage.py", line 3, in test_get_secret_access\n'
    "E   AssertionError: assert 'sk-learn' == 'risk-assessment-report-generator-for-all'",
    " ".join(str(uuid.UUID(int=random.Random(n).getrandbits(128))) for n in range(500)),
    " ".join(f"task-{uuid.UUID(int=random.Random(n).getrandbits(128))}" for n in range(100)),
    " ".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(500)),
    " ".join(f"task-{hashlib.sha256(str(n).encode()).hexdigest()}" for n in range(100)),
    "data:image/png;base64," + base64.b64encode(random.Random(1).randbytes(500_000)).decode(),
    '!function(e,t){"use strict";var n=e.npm_config_registry||"https://registry.example.org/:"+t+"@"+e.ghs_x;n.xoxo()}(a,b)',
    "npm_config_user_agent=npm/10 npm_lifecycle_event=test GITHUB_TOKEN= AWS_SECRET_ACCESS_KEY=*** gho_st ghp_short",
    "-----BEGIN CERTIFICATE-----\n" + BODY + "\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\n" + BODY + "\n-----END PUBLIC KEY-----",
    "Authorization: Basic authentication is required; the bearer authentication_scheme_of_this_server is missing",
    "git@github.com:team/repo.git ssh://git@example.org:22/x http://[::1]:8080/@user mailto:a@b.org https://h:80/p?q=a@b",
    "mask-composite-source-over-destination-in-all-browsers sk-skeleton-loading-placeholder-animation",
    "sk_test_" + run_of(WORDS, 24) + " pk_live_" + run_of(WORDS, 24),
    "const eyJ = 'eyJ.eyJ.eyJ'; tot_al = test_tot_al_of_all_things_that_were_counted_in_this_very_long_run",
]  # fmt: skip


def event_with(text: Any, kind: str = "test/output") -> dict[str, Any]:
    return {"id": "e1", "type": kind, "timestamp": 1, "runId": "r", "payload": {"testId": "t", "text": text}}


class TestRedaction(SecurityPolicyContract):
    def make_plugin(self):
        return Redaction("redaction", RedactionOptions(patterns={"own": "corp-[0-9]{4,9}", "any": "[0-9]{30}"}))


@pytest.mark.parametrize(("name", "secret", "before"), TOKENS, ids=[f"{n}-{one[0]}" for n, one in enumerate(TOKENS)])
def test_a_token_becomes_a_mark_and_is_counted_by_its_name(name: str, secret: str, before: str):
    redactor = Redactor([literal("deploy_key", LITERAL), *BUILTIN], max_string_characters=10_000)
    text = redactor.amend(event_with(f"x {before}{secret}{AFTER.get(name, '')} y"))["payload"]["text"]
    assert text.startswith(f"x {before}[redacted:{name}]")
    assert text.endswith(f"{AFTER.get(name, '')} y")
    assert redactor.counts == {name: 1}


@given(st.sampled_from(TOKENS), st.text(max_size=30), st.text(max_size=30))
def test_no_surroundings_let_a_token_through(token: tuple[str, str, str], left: str, right: str):
    name, secret, before = token
    amended = REDACTOR.amend(event_with(f"{left}{before}{secret}{AFTER.get(name, '')}{right}"))
    assert secret not in amended["payload"]["text"]
    assert "[redacted:" in amended["payload"]["text"]


@given(st.lists(st.sampled_from([f"{before}{secret}{AFTER.get(name, '')}" for name, secret, before in TOKENS]
       + ["[redacted:jwt]", " ", "://a:", "@", "\\", '"', "Bearer ", "eyJ", "AIza", "x", "9", "=", "sk-"]), max_size=6))  # fmt: skip
def test_what_was_redacted_once_stays_as_it_is(parts: list[str]):
    once = REDACTOR.amend(event_with("".join(parts)))
    assert REDACTOR.amend(once) is once


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(string.ascii_lowercase + " /.:", max_size=40),
       lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)))  # fmt: skip
def test_an_event_without_a_secret_stays_the_same_object(value: Any):
    event = event_with(value)
    assert REDACTOR.amend(event) is event


@pytest.mark.parametrize("text", ORDINARY, ids=range(len(ORDINARY)))
def test_ordinary_output_is_left_alone(text: str):
    event = event_with(text)
    assert Redactor(BUILTIN, max_string_characters=2**24).amend(event) is event


@settings(max_examples=300)
@given(st.text(alphabet=WORDS + "_-./:@ +=\\\"'\n[]", max_size=200))
def test_the_words_looked_for_are_in_everything_that_a_pattern_matches(noise: str):
    for one in BUILTIN:
        for match in one.regex.finditer(noise):
            assert any(word in match.group() for word in one.words)


@pytest.mark.parametrize(("name", "secret", "before"), TOKENS, ids=[f"{n}-{one[0]}" for n, one in enumerate(TOKENS)])
def test_the_quick_look_finds_every_pattern_by_itself(name: str, secret: str, before: str):
    patterns = [one for one in (literal("deploy_key", LITERAL), *BUILTIN) if one.name == name]
    text = as_json(f"{before}{secret}{AFTER.get(name, '')}")
    assert Triggers(patterns).may_be_in(text)
    assert not Triggers(patterns).may_be_in('{"testId":"a::b","status":"ok"}')


SECRET = "npm_" + run_of(WORDS, 36)
MARKED = "[redacted:npm_token]"


def test_every_place_of_a_payload_is_searched_and_nothing_else_changes():
    event = {
        **event_with("", "test/end"),
        "seq": 3,
        "other": SECRET,
        "payload": {
            "testId": f"t[{SECRET}]",
            "suitePath": ["a", SECRET],
            "errors": [{"message": f"m {SECRET}", "stack": f"s\n{SECRET}\n", "line": 3}],
            "labels": {"a": {"b": [[SECRET]]}},
            "properties": [["k", SECRET]],
            SECRET: 1,
            "ok": False,
        },
    }
    before = copy.deepcopy(event)
    amended = REDACTOR.amend(event)
    assert event == before
    assert amended == json.loads(json.dumps(event).replace(SECRET, MARKED))


def test_what_addresses_an_event_stays_even_where_it_looks_like_a_secret():
    event = {"id": SECRET, "type": SECRET, "timestamp": 1, "runId": SECRET, "project": SECRET, "payload": {"a": SECRET}}
    assert REDACTOR.amend(event) == {**event, "payload": {"a": MARKED}}


def test_two_keys_that_are_secrets_stay_two():
    amended = REDACTOR.amend(event_with({SECRET: 1, SECRET[:-1] + "_": 2, "npm_" + run_of(WORDS, 36, seed=8): 3}))
    assert amended["payload"]["text"] == {MARKED: 1, SECRET[:-1] + "_": 2, f"{MARKED} (2)": 3}


def test_the_name_of_a_field_can_say_that_it_holds_a_secret():
    key = run_of(WORDS + "/+", 40)
    labels = {"AWS_SECRET_ACCESS_KEY": key, "Authorization": "Basic dXNlcjpwYXNz", "other": key}
    amended = REDACTOR.amend({**event_with(""), "payload": {"labels": labels}})
    assert amended["payload"]["labels"] == {
        "AWS_SECRET_ACCESS_KEY": "[redacted:aws_secret_access_key]",
        "Authorization": "Basic [redacted:authorization]",
        "other": key,
    }


def test_a_tests_identity_is_the_same_at_its_start_and_at_its_end_and_never_too_long():
    redactor = Redactor([literal("a_rather_long_name_for_a_secret", "hunter22")], max_string_characters=2000)
    test_id = "hunter22" * 128
    starts, ends = (
        redactor.amend({**event_with("hunter22", kind), "payload": {"testId": test_id}})
        for kind in ("test/start", "test/end")
    )
    assert starts["payload"]["testId"] == ends["payload"]["testId"]
    assert len(ends["payload"]["testId"]) == 1024


def test_text_in_an_attachment_is_searched_and_its_facts_fit_again():
    content = f"log of {SECRET}".encode()
    payload = {
        "name": "a.log",
        "body": base64.b64encode(content).decode(),
        "sizeBytes": len(content),
        "sha256": "0" * 64,
    }
    amended = REDACTOR.amend({**event_with("", "test/attachment"), "payload": payload})["payload"]
    found = base64.b64decode(amended["body"])
    assert found == f"log of {MARKED}".encode()
    assert amended["sizeBytes"] == len(found)
    assert amended["sha256"] == hashlib.sha256(found).hexdigest()


@pytest.mark.parametrize(
    "body", [base64.b64encode(random.Random(3).randbytes(300_000)).decode(), "", "no base64!", None, 3]
)
def test_an_attachment_without_text_stays_the_same_object(body: Any):
    event = {**event_with("", "test/attachment"), "payload": {"name": "a.png", "body": body}}
    assert REDACTOR.amend(event) is event


def test_a_secret_beside_an_attachments_body_is_found():
    event = {**event_with("", "test/attachment"), "payload": {"name": SECRET, "body": "YWJj"}}
    assert REDACTOR.amend(event)["payload"] == {"name": MARKED, "body": "YWJj"}


@pytest.mark.parametrize("before", range(5))
def test_a_literal_is_found_in_base64_wherever_it_begins(before: int):
    encoded = base64.b64encode(b"u" * before + LITERAL.encode() + b"tail").decode()
    text = REDACTOR.amend(event_with(encoded))["payload"]["text"]
    assert "[redacted:deploy_key]" in text
    assert len(text.replace("[redacted:deploy_key]", "")) < len(encoded) - 4 * (len(LITERAL.encode()) - 2) // 3


def test_each_long_line_of_a_literal_is_found_by_itself():
    lines = ["-----BEGIN KEY-----", run_of(WORDS, 64), run_of(WORDS, 40, seed=9), "ab=="]
    redactor = Redactor([literal("key", "\n".join(lines))], max_string_characters=2000)
    assert (
        redactor.amend(event_with(f"E   {lines[2]}\nE   {lines[3]}"))["payload"]["text"]
        == "E   [redacted:key]\nE   ab=="
    )


def test_a_key_that_is_cut_off_loses_its_whole_lines_and_ordinary_text_after_it_stays():
    text = REDACTOR.amend(event_with(PEM.split("-----END")[0].replace("Proc-Type: 4,ENCRYPTED\n\n", "")))["payload"][
        "text"
    ]
    assert text == "[redacted:private_key]\nab==\n"
    text = REDACTOR.amend(event_with("expected -----BEGIN PRIVATE KEY----- in the file but found words"))["payload"][
        "text"
    ]
    assert text == "expected [redacted:private_key] in the file but found words"


def test_a_string_that_is_too_long_is_replaced_as_a_whole():
    redactor = Redactor(BUILTIN, max_string_characters=2000)
    assert redactor.amend(event_with("x" * 2001))["payload"]["text"] == "[redacted:too_long]"
    assert redactor.counts == {"too_long": 1}


HOSTILE = ["eyJ", "eyJ" + "a" * 20 + ".", "-----BEGIN PRIVATE KEY-----", "-----BEGIN " + "A " * 9, "://", "://a:b", "Bearer a", "ghp_", "glpat-a", "xoxa-", "sk-", "sk-proj-",
           "aws_secret_access_key=", "Authorization: Bearer a", "AKIA", "AIza", "npm_a", "pypi-AgE", "tot_", "hooks.slack.com/services/", "@ ://", "-----BEGIN PRIVATE KEY-----\n" + "A" * 60 + "\n"]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_megabyte_made_to_be_slow_is_not(piece: str):
    text = piece * (1_000_000 // len(piece)) + "@"
    begun = time.process_time()
    Redactor(BUILTIN, max_string_characters=2**24).amend(event_with(text))
    assert time.process_time() - begun < 10


def test_nothing_that_was_found_is_kept_but_its_count():
    plugin = Redaction("redaction", RedactionOptions())
    plugin.amend(event_with(f"{SECRET} {SECRET}"))
    assert plugin.counts() == {"npm_token": 2}
    assert SECRET not in repr(vars(plugin)) + repr(vars(plugin._redactor))


def test_a_pattern_of_the_team_without_a_word_is_tried_everywhere():
    plugin = Redaction(
        "redaction", RedactionOptions(builtin=False, patterns={"card": "[0-9]{16}", "s": "k=(?P<secret>x{3})"})
    )
    assert plugin.amend(event_with("1234567890123456 k=xxx"))["payload"]["text"] == "[redacted:card] k=[redacted:s]"
    assert plugin.amend(event := event_with("123")) is event


def test_every_builtin_pattern_is_tried_here_and_has_a_word():
    assert {one.name for one in BUILTIN} | {"deploy_key"} == {name for name, _, _ in TOKENS}
    assert all(one.words for one in BUILTIN)
    assert all(re.fullmatch("[a-z_]+", one.name) for one in BUILTIN)


def test_a_request_that_opens_a_run_is_redacted_like_any_event():
    event = {
        "id": "",
        "type": "run/start",
        "payload": {"name": f"nightly {SECRET}", "metadata": {"branch": "main", "t": SECRET}},
    }
    amended = REDACTOR.amend(event)
    assert amended["payload"] == {"name": f"nightly {MARKED}", "metadata": {"branch": "main", "t": MARKED}}
    assert REDACTOR.amend(amended) is amended
