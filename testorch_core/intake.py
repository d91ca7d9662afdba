"""One connection's place in its stream: which of the events that come are next, which came before, which must wait. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from testorch_core.errors import Problem, Refusal
from testorch_core.events import WireEvent
from testorch_core.gate import invalid_event
from testorch_core.lifecycle import gap


@dataclass(slots=True)
class Sorted:
    """What a message brought: the events that are next, from `first_seq` on; how many had come before; what is refused."""

    first_seq: int
    taken: Sequence[Any] = ()
    duplicates: int = 0
    refusals: list[Refusal] = field(default_factory=list)


class StreamIntake:
    """The stream of one connection. `expected` is the next `seq` to take; `halted` says that the client was told of it.

    While halted nothing else is taken: after a gap or a temporary refusal the client sends again from `expected`.
    """

    def __init__(self, project: str, stream_id: str, run_id: str | None, acked_seq: int) -> None:
        self.project = project
        self.stream_id = stream_id
        self.run_id = run_id
        self.expected = acked_seq + 1
        self.halted = False

    def sort(self, events: Sequence[Any]) -> Sorted:
        """Sort a message's events, and count the next ones as taken."""
        expected = self.expected
        for seq, event in enumerate(events, expected):
            if type(event) is not dict or event.get("seq") != seq:
                break
        else:  # as it is nearly always: all of them are next
            self.halted = self.halted and not events
            self.expected += len(events)
            return Sorted(expected, events)
        return self._sort_one_by_one(events)

    def _sort_one_by_one(self, events: Sequence[Any]) -> Sorted:
        taken: list[Any] = []
        found = Sorted(self.expected, taken)
        for event in events:
            seq = event.get("seq") if isinstance(event, Mapping) else None
            if type(seq) is not int or seq < 1:
                problem = Problem("seq", "every event of a stream carries `seq`: 1, 2, 3 and so on")
                found.refusals.append(invalid_event(event, [problem]))
            elif seq < self.expected:
                found.duplicates += 1
            elif seq == self.expected:
                self.halted = False
                self.expected += 1
                taken.append(event)
            elif not self.halted:
                self.halted = True
                found.refusals.append(gap(self.expected, f"an event has seq {seq}").refusal)
        return found

    def halt(self, seq: int) -> bool:
        """Go back to a `seq` that could not be taken. False if the client has been told to do so already."""
        if self.halted and self.expected <= seq:
            return False
        self.expected = seq
        self.halted = True
        return True

    def refusal_of_stranger(self, event: WireEvent) -> Refusal | None:
        """The refusal of an event that names another run, or project, than its stream's."""
        run_id = event.get("runId")
        if run_id is not None and run_id != self.run_id:
            return _stranger(event, "runId", f"run `{self.run_id}`")
        project = event.get("project")
        if project is not None and project != self.project:
            return _stranger(event, "project", f"project `{self.project}`")
        inner = event["payload"].get("runId")
        if inner is not None and inner != self.run_id and isinstance(inner, str):
            return _stranger(event, "payload.runId", f"run `{self.run_id}`")
        return None


def _stranger(event: WireEvent, path: str, home: str) -> Refusal:
    return invalid_event(event, [Problem(path, f"the stream belongs to {home}; a stream has one run")])
