"""The event validation policy keeps the contract of security policies, under every setting."""

import pytest

from testorch_core.testing import SecurityPolicyContract
from testorch_plugins.security.event_validation.options import EventValidationOptions
from testorch_plugins.security.event_validation.plugin import EventValidation


@pytest.mark.parametrize("unknown_types", ["store", "refuse"])
class TestEventValidation(SecurityPolicyContract):
    @pytest.fixture(autouse=True)
    def _setting(self, unknown_types):
        self.unknown_types = unknown_types

    def make_plugin(self):
        return EventValidation("validation", EventValidationOptions(unknown_types=self.unknown_types))
