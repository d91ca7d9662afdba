"""The event validation policy: holds what is inside an event against the schema of its type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from testorch_core import events as ev
from testorch_core.acceptor import compile_acceptor
from testorch_core.errors import Problem
from testorch_core.events import WireEvent
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.security import SecurityPolicy
from testorch_core.options import Options
from testorch_core.protocol import problems_of
from testorch_plugins.security.event_validation.options import EventValidationOptions
from testorch_plugins.security.event_validation.schemas import SCHEMAS

_schemas = {kind: schema() for kind, schema in SCHEMAS.items()}
_acceptors = {kind: compile_acceptor(schema) for kind, schema in _schemas.items() if kind != ev.TEST_OUTPUT}
"""What is good whatever the options say; outputs are held against `max_output_characters`, too."""
_output_is_fine = compile_acceptor(_schemas[ev.TEST_OUTPUT])


class EventValidation(SecurityPolicy):
    """Refuses events that break the event model. Good events pass a compiled check; the schema finds the words."""

    summary = "refuses events that break the event model; on by default"
    options_type: ClassVar[type[Options]] = EventValidationOptions
    options: EventValidationOptions

    async def start(self, context: PluginContext) -> None:
        """Nothing to acquire."""

    async def aclose(self) -> None:
        """Nothing to release."""

    def validate(self, event: WireEvent) -> Sequence[Problem]:
        accepts = _acceptors.get(event["type"])
        if accepts is not None and accepts(event["payload"]):
            return ()
        return self._problems(event["type"], event["payload"])

    def _problems(self, kind: str, payload: Any) -> Sequence[Problem]:
        if kind not in _schemas:
            return self._unknown(kind)
        if kind != ev.TEST_OUTPUT:
            return problems_of(_schemas[kind], payload, "payload")
        problems = [] if _output_is_fine(payload) else problems_of(_schemas[kind], payload, "payload")
        return problems or self._too_long(payload["text"])

    def _too_long(self, text: str) -> Sequence[Problem]:
        most = self.options.max_output_characters
        if len(text) <= most:
            return ()
        return [Problem("payload.text", f"has {len(text)} characters; at most {most} are taken")]

    def _unknown(self, kind: str) -> Sequence[Problem]:
        if self.options.unknown_types == "store" or kind in ev.PRESENCE_TYPES:
            return ()
        return [Problem("type", f"`{kind}` is not a type that testorch knows, and `unknown_types` is `refuse`")]
