"""Which project and run a client's message is about: from the message, else from what the connection said before. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from testorch_core.errors import Problem, RefusedError, refuse
from testorch_core.events import DEFAULT_PROJECT, WireEvent
from testorch_core.gate import invalid_event
from testorch_core.protocol import MAX_ID_CHARACTERS

Address = tuple[str, str]
"""(project, run id)."""


class Addressing:
    """The addresses of one connection. `bound` are the projects that its principal may touch, None for all."""

    def __init__(self, bound: frozenset[str] | None, new_id: Callable[[], str]) -> None:
        self._bound = bound
        self._new_id = new_id
        self._project: str | None = None
        self._current: Address | None = None
        self._implicit: dict[str, str] = {}

    def bind(self, bound: frozenset[str] | None) -> None:
        """Say which projects the principal may touch: it has just become known, or what it may do has changed."""
        self._bound = bound

    @property
    def home(self) -> str:
        """The connection's project, else the first that the principal may touch, else `default`."""
        if self._project is not None:
            return self._project
        return min(self._bound) if self._bound else DEFAULT_PROJECT

    def project_of(self, message: Mapping[str, Any]) -> str:
        """The message's project, else the connection's, else the principal's only one, else `default`.

        Raises `RefusedError`: `forbidden` for a project that the principal may not touch, whether it exists or not, and
        `invalid_message` where none is named and several are possible.
        """
        project = message.get("project") or self._project
        if project is None and self._bound is not None and len(self._bound) > 1 and DEFAULT_PROJECT not in self._bound:
            raise refuse("invalid_message", "`project` is required: more than one is open to you, and `default` is not")
        if project is None:
            project = self.home if self._bound is not None and len(self._bound) == 1 else DEFAULT_PROJECT
        if self._bound is not None and project not in self._bound:
            raise refuse("forbidden", f"project `{project}` is not open to you")
        return str(project)

    def run_of(self, request: Mapping[str, Any]) -> Address:
        """The request's run, else the one that was started last. Raises `RefusedError` (`invalid_message`)."""
        if "runId" in request:
            return self.project_of(request), request["runId"]
        if self._current is None:
            raise refuse("invalid_message", "`runId` is required: no run has been started on this connection")
        return self._current

    def address_of(self, event: WireEvent) -> Address:
        """The run of an event: the envelope's, else the inner payload's, else the one that was started last, else an
        implicit one. Raises `RefusedError` (`invalid_event`) where the envelope and the payload disagree."""
        project = self.project_of(event)
        named = _named_run(event)
        if named is not None:
            return project, named
        if self._current is not None and self._current[0] == project:
            return self._current
        if project not in self._implicit:
            self._implicit[project] = self._new_id()
        return project, self._implicit[project]

    def address_of_refused(self, event: Any) -> Address | None:
        """The run whose log is to tell that the event was refused; None where that can't be said. Opens nothing."""
        if not isinstance(event, Mapping) or not isinstance(event.get("payload", {}), Mapping):
            return self._current
        sound = {key: event[key] for key in ("runId", "project") if isinstance(event.get(key), str)}
        try:
            named = _named_run({**sound, "payload": event.get("payload", {})})
            project = self.project_of(sound)
        except RefusedError:
            return self._current
        if named is not None:
            return project, named
        return self._current

    def greeted(self, project: str) -> None:
        """The connection has said `hello`, and which project it is about."""
        self._project = project

    def is_implicit(self, address: Address) -> bool:
        """Whether the run was made up here, for events that named none."""
        return self._implicit.get(address[0]) == address[1]

    def started(self, address: Address) -> None:
        """A run was started or joined: it is the one that events without a run belong to."""
        self._project = address[0]
        self._current = address

    def ended(self, address: Address) -> None:
        """The connection's part in a run is over: events without a run no longer belong to it."""
        if self._current == address:
            self._current = None
        if self.is_implicit(address):
            del self._implicit[address[0]]


def _named_run(event: WireEvent) -> str | None:
    outer, inner = event.get("runId"), event["payload"].get("runId")
    if not isinstance(inner, str) or not inner:
        return outer or None
    if outer and outer != inner:
        problem = f"the envelope says `{outer}`, the payload `{inner}`; they must agree"
        raise RefusedError(invalid_event(event, [Problem("runId", problem)]))
    if len(inner) > MAX_ID_CHARACTERS:
        problem = f"has {len(inner)} characters; at most {MAX_ID_CHARACTERS} are taken"
        raise RefusedError(invalid_event(event, [Problem("payload.runId", problem)]))
    return inner
