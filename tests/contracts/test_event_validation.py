"""The event validation policy keeps the contract of security policies, under every setting."""

import pytest

from testorch_core.testing import SecurityPolicyContract
from testorch_plugins.security.event_validation.options import EventValidationOptions
from testorch_plugins.security.event_validation.plugin import EventValidation

SETTINGS = {
    "store": {"unknown_types": "store"},
    "refuse": {"unknown_types": "refuse"},
    "types": {"types": ["test/*", "x/unknown"], "unknown_types": "refuse"},
    "required": {
        "required": {"test/end": ["errors.message", "labels.a", "shard.index"], "x/unknown": ["anything.deep"]}
    },
    "sizes": {"max_event_bytes": 500, "max_string_characters": 10, "max_error_characters": 5, "max_keys": 3},
}


@pytest.mark.parametrize("setting", sorted(SETTINGS))
class TestEventValidation(SecurityPolicyContract):
    @pytest.fixture(autouse=True)
    def _setting(self, setting):
        self.setting = SETTINGS[setting]

    def make_plugin(self):
        return EventValidation("validation", EventValidationOptions(**self.setting))
