"""What is wrong with a configuration of the OIDC policy is said at once, in one sentence each, with its place."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from security.oidc_issuer import GIVEN, RULE

import testorch_plugins.security.oidc_auth as package
from testorch_core.config import configuration_of, construct, parse_configuration
from testorch_core.errors import ConfigurationError
from testorch_core.options import OptionsError
from testorch_plugins.security.oidc_auth.options import OidcOptions


def problems(**given: object) -> list[str]:
    options = {name: value for name, value in {**GIVEN, **given}.items() if value is not None}
    try:
        OidcOptions.load(options, folder=Path())
    except OptionsError as failure:
        return [one.problem for one in failure.problems]
    return []


def rules(**changed: object) -> dict[str, object]:
    return {"rules": [RULE, {name: value for name, value in {**RULE, **changed}.items() if value is not None}]}


def test_the_options_of_these_tests_are_good():
    assert problems() == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"jwks_url": "https://x/keys"}, "one of `jwks_url` and `jwks_file` is needed, and not both"),
        ({"jwks_file": None}, "one of `jwks_url` and `jwks_file` is needed, and not both"),
        ({"jwks_file": None, "jwks_url": "http://x/keys"},
         "`jwks_url`: `http://x/keys` must begin with https://: who changes the keys on their way lets in whom they like"),
        ({"algorithms": ["HS256"]}, "`algorithms.0`: must be one of: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512"),
        ({"algorithms": ["RS256", "none"]}, "`algorithms.1`: must be one of: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512"),
        ({"algorithms": []}, "`algorithms`: shorter than minimum length 1"),
        ({"leeway_seconds": 301}, "`leeway_seconds`: must be greater than or equal to 0 and less than or equal to 300"),
        ({"jwks_seconds": 29}, "`jwks_seconds`: must be greater than or equal to 30 and less than or equal to 86400"),
        ({"name": "{repository}"}, "`name`: `{repository}` begins with a claim; begin with a word, such as `ci:{repository}`,"
                                   " so that no token gives somebody else's name"),
        ({"name": "ci:{a}{b}"}, "`name`: `ci:{a}{b}` has two claims side by side; put a character between them, such as `:`"),
        ({"rules": []}, "`rules`: shorter than minimum length 1"),
        ({"rules": RULE}, "`rules`: a table here must be a reference, `{ env = \"NAME\" }` or `{ file = \"path\" }`"),
        ({"rules": ["x"]}, "`rules.0._schema`: must be a table with `claims`, `projects`, `scopes`, `roles`"),
        (rules(project="x"), "`rules.1.project`: is not a key of a rule; its keys: `claims`, `projects`, `scopes`, `roles`"),
        (rules(claims=None), '`rules.1.claims`: is required, such as `{ repository = "acme/*" }`'),
        (rules(claims="x"), "`rules.1.claims`: not a valid mapping type"),
        (rules(claims={}), "`rules.1.claims`: would let in every token of the issuer; say of at least one claim what must be in it"),
        (rules(claims={"repository": "*", "ref": "**?"}),
         "`rules.1.claims`: would let in every token of the issuer; say of at least one claim what must be in it"),
        (rules(claims={"ref_protected": True}), "`rules.1.claims`: `ref_protected` must be a pattern, such as `acme/*`"),
        (rules(projects=None), '`rules.1.projects`: is required, such as `["{repository}"]`'),
        (rules(projects=[]), "`rules.1.projects`: shorter than minimum length 1"),
        (rules(projects=["a", "*"]), "`rules.1.projects.1`: `*` has a `*` or a `?`, which stand for nothing in a name"),
        (rules(projects=["a{"]), "`rules.1.projects.0`: `a{` has a brace without its partner; a claim is written `{name}`"),
        (rules(scopes=["write"]), "`rules.1.scopes.0`: must be one of: ingest, observe, admin"),
        (rules(scopes=[]), "`rules.1.scopes`: shorter than minimum length 1"),
        (rules(roles=[""]), "`rules.1.roles.0`: length must be between 1 and 200"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_its_place(given, said):
    assert problems(**given) == [said]


def test_all_mistakes_are_told_at_once():
    found = problems(issuer=None, jwks_file=None, **rules(claims={}, scopes=["x"]))
    assert len(found) == 4


def test_the_configuration_tells_which_table_it_is():
    text = '[storage]\nuse = "memory"\n[security.github]\nuse = "oidc_auth"\nissuer = "https://ci"\naudence = "x"\n'
    with pytest.raises(ConfigurationError) as refused:
        construct(parse_configuration(text, source="testorch.toml", folder=Path()))
    assert "security.github (oidc_auth): `audence` is not an option of this plugin; did you mean `audience`?" in str(
        refused.value
    )


def test_the_sample_is_a_good_configuration(tmp_path):
    sample = tomllib.loads((Path(package.__file__ or "").parent / "sample.toml").read_text())
    plugins = construct(
        configuration_of({**sample, "storage": {"use": "memory"}}, source="sample.toml", folder=tmp_path)
    )
    assert [one.name for one in plugins.security] == ["github"]


WITHOUT_PYJWT = """
import sys
sys.modules["jwt"] = None
from pathlib import Path
from testorch_core.config import construct, parse_configuration
from testorch_core.errors import ConfigurationError
import testorch_plugins.security.oidc_auth.plugin
try:
    construct(parse_configuration(Path(sys.argv[1]).read_text(), source="t.toml", folder=Path()))
except ConfigurationError as failure:
    print(failure)
"""


def test_without_pyjwt_only_the_configuration_of_this_plugin_is_refused(tmp_path):
    sample = (Path(package.__file__ or "").parent / "sample.toml").read_text()
    (tmp_path / "t.toml").write_text('[storage]\nuse = "memory"\n' + sample)
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYJWT, str(tmp_path / "t.toml")], capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
    assert "needs PyJWT with cryptography, which is not installed: `pip install 'testorch[oidc]'`" in ran.stdout
    assert len(ran.stdout.strip().splitlines()) == 1


def test_the_libraries_are_imported_only_when_the_plugin_is_configured():
    code = "import sys, testorch_plugins.security.oidc_auth.plugin; print([n for n in ('jwt', 'cryptography') if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
