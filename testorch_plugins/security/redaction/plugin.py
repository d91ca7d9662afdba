"""The redaction policy: what looks like a secret is replaced before anything is stored, shown or sent on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from testorch_core.events import WireEvent
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.security import SecurityPolicy
from testorch_core.options import Options
from testorch_plugins.security.redaction.options import RedactionOptions
from testorch_plugins.security.redaction.redactor import Redactor


class Redaction(SecurityPolicy):
    """Changes events; refuses none. What was replaced is counted by the pattern's name, and written nowhere."""

    summary: ClassVar[str] = "replaces tokens, keys and a team's own secrets before anything is stored"
    options_type: ClassVar[type[Options]] = RedactionOptions
    options: RedactionOptions

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self._redactor = Redactor(self.options.chosen(), max_string_characters=self.options.max_string_characters)

    async def start(self, context: PluginContext) -> None:
        """Nothing to acquire."""

    async def aclose(self) -> None:
        """Nothing to release."""

    def amend(self, event: WireEvent) -> WireEvent:
        """The event with every match as `[redacted:NAME]`; the same object where there is none."""
        return self._redactor.amend(event)

    def counts(self) -> Mapping[str, int]:
        """How many matches were replaced since the start, by the pattern's name."""
        return dict(self._redactor.counts)
