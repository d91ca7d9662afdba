"""The OIDC policy keeps the contract of security policies, with its keys in a file and at a URL."""

import pytest
from security.oidc_issuer import GIVEN, endpoint, jwks, says

from testorch_core.testing import SecurityPolicyContract
from testorch_plugins.security.oidc_auth.options import OidcOptions
from testorch_plugins.security.oidc_auth.plugin import OidcAuth


class TestWithAFile(SecurityPolicyContract):
    @pytest.fixture(autouse=True)
    def _keys(self, tmp_path):
        (tmp_path / "keys.json").write_bytes(jwks())
        self.options = OidcOptions.load(GIVEN, folder=tmp_path)

    def make_plugin(self):
        return OidcAuth("github", self.options)


class TestWithAUrl(SecurityPolicyContract):
    @pytest.fixture(autouse=True)
    def _keys(self, tmp_path):
        with endpoint(says(jwks())) as server:
            given = {name: value for name, value in GIVEN.items() if name != "jwks_file"}
            self.options = OidcOptions.load({**given, "jwks_url": server.url}, folder=tmp_path)
            yield

    def make_plugin(self):
        return OidcAuth("github", self.options)
