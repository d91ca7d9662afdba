"""The event validation policy: holds what is inside an event against the schema of its type, and a team's own rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from marshmallow import Schema

from testorch_core import events as ev
from testorch_core.acceptor import Acceptor, compile_acceptor
from testorch_core.errors import OpeningError, Problem
from testorch_core.events import WireEvent
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.security import SecurityPolicy
from testorch_core.options import Options
from testorch_core.protocol import problems_of
from testorch_plugins.security.event_validation.extras import SchemasError, load_schemas
from testorch_plugins.security.event_validation.limits import Limits
from testorch_plugins.security.event_validation.options import EventValidationOptions
from testorch_plugins.security.event_validation.rules import KNOWN, is_listed, missing_fields
from testorch_plugins.security.event_validation.schemas import SCHEMAS

_schemas = {kind: schema() for kind, schema in SCHEMAS.items()}
_acceptors = {kind: compile_acceptor(schema) for kind, schema in _schemas.items()}


class EventValidation(SecurityPolicy):
    """Refuses events that break the event model. Good events pass a compiled check; the schema finds the words.

    The compiled check alone decides about types for which no option asks for more.
    """

    summary = "refuses events that break the event model; on by default"
    options_type: ClassVar[type[Options]] = EventValidationOptions
    options: EventValidationOptions

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self._limits = Limits(
            event_bytes=self.options.max_event_bytes,
            string_characters=self.options.max_string_characters,
            error_characters=self.options.max_error_characters,
            keys=self.options.max_keys,
        )
        self._required: Mapping[str, Sequence[str]] = self.options.required or {}
        self._know(_schemas, {**_acceptors, ev.TEST_OUTPUT: self._output_is_fine})

    async def start(self, context: PluginContext) -> None:
        """Loads the schemas that other distributions contribute."""
        if not self.options.schemas:
            return
        try:
            extra = load_schemas(self.options.schemas)
        except SchemasError as failure:
            raise OpeningError(f"`schemas`: {failure}") from failure
        acceptors = {kind: compile_acceptor(schema) for kind, schema in extra.items()}
        self._know({**_schemas, **extra}, {**self._acceptors, **acceptors})

    async def aclose(self) -> None:
        """Nothing to release."""

    def _know(self, schemas: Mapping[str, Schema], acceptors: Mapping[str, Acceptor]) -> None:
        self._schemas, self._acceptors = schemas, acceptors
        self._enough = {kind: accepts for kind, accepts in acceptors.items() if self._asks_no_more(kind)}
        """What is good if the compiled check says so."""

    def _asks_no_more(self, kind: str) -> bool:
        if kind in self._required or self._limits.any:
            return False
        return self.options.types is None or is_listed(kind, self.options.types)

    def validate(self, event: WireEvent) -> Sequence[Problem]:
        accepts = self._enough.get(event["type"])
        if accepts is not None and accepts(event["payload"]):
            return ()
        return self._problems(event)

    def _problems(self, event: WireEvent) -> Sequence[Problem]:
        kind, payload = event["type"], event["payload"]
        if kind not in self._schemas or self.options.types is not None:
            problems = self._against_type(kind)
            if problems:
                return problems
        accepts = self._acceptors.get(kind)
        if accepts is not None and not accepts(payload):
            problems = problems_of(self._schemas[kind], payload, "payload")
            if not problems and kind == ev.TEST_OUTPUT:
                problems = self._too_long(payload["text"])
            if problems:
                return problems
        return self._against_rules(event)

    def _output_is_fine(self, payload: Any) -> bool:
        return _acceptors[ev.TEST_OUTPUT](payload) and len(payload["text"]) <= self.options.max_output_characters

    def _against_type(self, kind: str) -> Sequence[Problem]:
        types = self.options.types
        if kind in ev.PRESENCE_TYPES:
            return ()
        if types is not None and not is_listed(kind, types):
            return [Problem("type", f"`{kind}` is not one of the types that the option `types` takes")]
        if self.options.unknown_types == "store" or kind in KNOWN or kind in self._schemas or types is not None:
            return ()
        return [Problem("type", f"`{kind}` is not a type that testorch knows, and `unknown_types` is `refuse`")]

    def _against_rules(self, event: WireEvent) -> Sequence[Problem]:
        required = self._required.get(event["type"])
        problems = [] if required is None else missing_fields(event["payload"], required)
        if problems or not self._limits.any:
            return problems or ()
        return self._limits.problems(event) or ()

    def _too_long(self, text: str) -> Sequence[Problem]:
        most = self.options.max_output_characters
        if len(text) <= most:
            return ()
        return [Problem("payload.text", f"has {len(text)} characters; at most {most} are taken")]
