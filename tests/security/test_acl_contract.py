"""The access control list keeps the contract of security policies, whatever its rules are."""

from pathlib import Path
from typing import Any

import pytest

from testorch_core.interfaces.security import ALLOW, AccessRequest, Principal, Refuse
from testorch_core.interfaces.transport import Handshake
from testorch_core.testing import SecurityPolicyContract
from testorch_core.testing.contracts.security import hostile_requests
from testorch_core.testing.fakes import plugin_context
from testorch_plugins.security.acl.options import AclOptions
from testorch_plugins.security.acl.plugin import AccessControlList

WILD = {"deny": ["*"], "principals": ["*a*b*?*", "[x"], "roles": ["*"], "projects": ["*-*"], "runs": ["?*?"]}
MANY = [{"deny": ["report"], "principals": [f"ci-{number}"], "reason": "not\nthis one"} for number in range(100)]


@pytest.mark.parametrize("rules", [[{"allow": ["*"]}], [WILD, {"allow": ["*"], "runs": ["*"]}], MANY], ids=str)
class TestAccessControlList(SecurityPolicyContract):
    @pytest.fixture(autouse=True)
    def _setting(self, rules: list[Any]) -> None:
        self.rules = rules

    def make_plugin(self) -> AccessControlList:
        return AccessControlList("acl", AclOptions.load({"rules": self.rules}, folder=Path.cwd()))

    async def test_what_is_explained_is_what_is_decided(self, plugin: Any) -> None:
        for request in hostile_requests():
            said = plugin.admit(request)
            explanation = plugin.explain(request)
            assert explanation.decision == said
            assert (explanation.place is None) or explanation.place.startswith("rules.")
            if isinstance(said, Refuse):
                for name in (request.project, request.principal.name):
                    assert name not in said.reason or name == " "


async def test_rules_that_name_people_where_nobody_is_known_are_a_warning(
    nursery: Any, tmp_path: Path, caplog: Any
) -> None:
    named = AclOptions.load({"rules": [{"allow": ["*"], "roles": ["a"]}]}, folder=tmp_path)
    unnamed = AclOptions.load({"rules": [{"allow": ["*"], "projects": ["a"]}]}, folder=tmp_path)
    for options, authenticates, warns in ((named, False, True), (named, True, False), (unnamed, False, False)):
        caplog.clear()
        await AccessControlList("acl", options).start(
            plugin_context(nursery, folder=tmp_path, authenticates=authenticates)
        )
        assert ("no_policy_authenticates" in caplog.text) is warns


def test_a_policy_that_made_another_kind_of_set_of_roles_does_not_break_it():
    plugin = AccessControlList("acl", AclOptions.load({"rules": [{"allow": ["*"], "roles": ["a"]}]}, folder=Path.cwd()))
    principal = Principal(name="n", roles={"a"})  # type: ignore[arg-type]
    request = AccessRequest(
        principal=principal, handshake=Handshake(address="a", transport="t"), action="event", project="p"
    )
    assert plugin.admit(request) == ALLOW
