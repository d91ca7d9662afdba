"""The event validation policy: holds what is inside an event against the schema of its type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

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
_acceptors = {kind: compile_acceptor(schema) for kind, schema in _schemas.items()}


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
        kind, payload = event["type"], event["payload"]
        accepts = _acceptors.get(kind)
        if accepts is None:
            return self._unknown(kind)
        if not accepts(payload):
            problems = problems_of(_schemas[kind], payload, "payload")
            if problems:
                return problems
        if kind == ev.TEST_OUTPUT and len(payload["text"]) > self.options.max_output_characters:
            most = self.options.max_output_characters
            return [Problem("payload.text", f"has {len(payload['text'])} characters; at most {most} are taken")]
        return ()

    def _unknown(self, kind: str) -> Sequence[Problem]:
        if self.options.unknown_types == "store" or kind in ev.PRESENCE_TYPES:
            return ()
        return [Problem("type", f"`{kind}` is not a type that testorch knows, and `unknown_types` is `refuse`")]
