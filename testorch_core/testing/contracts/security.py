"""The contract of every security policy: it decides at once, raises nothing, and changes nothing but its counters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import trio

from testorch_core.errors import Problem, RefusedError
from testorch_core.events import SERVER_TYPES, WireEvent
from testorch_core.host_values import admitted
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.security import (
    AccessRequest,
    Allow,
    Close,
    Delay,
    Principal,
    Refuse,
    SecurityPolicy,
)  # fmt: skip
from testorch_core.interfaces.transport import Handshake
from testorch_core.said import MAX_AMENDED_BYTES, MAX_PRINCIPAL_CHARACTERS
from testorch_core.testing.contracts.lifecycle import PluginContract
from testorch_core.testing.hostile import NAMES, payloads
from testorch_core.testing.runs import STARTED_MS, every_kind

ANSWER_SECONDS = 5.0
GOOD_TEST = {
    "testId": "t", "testName": "T", "attempt": 1, "status": "passed", "durationMs": 1.5, "errors": [{"message": "m"}],
    "tags": ["slow"], "labels": {"a": "b"}, "shard": {"index": 0, "total": 2}, "suitePath": ["a"], "line": 3, "ok": True,
}  # fmt: skip
GOOD_OUTPUT = {"testId": "t", "stream": "stdout", "text": "hello", "truncated": False}
GOOD_SUITE = {"suiteId": "s", "suiteName": "S", "parentId": "p"}
GOOD: dict[str, dict[str, Any]] = {
    "test/start": GOOD_TEST, "test/end": GOOD_TEST, "test/output": GOOD_OUTPUT, "test/suite/start": GOOD_SUITE,
    "test/attachment": {"testId": "t", "name": "n", "url": "u", "sha256": "0" * 64, "body": "", "sizeBytes": 1},
    "test/step/start": {"testId": "t", "stepId": "s", "title": "t"}, "run/plan": {"total": 1, "ids": ["t"]},
    "run/error": {"message": "m", "errors": [{}]}, "x/unknown": {"anything": 1}, "system/client/connect": {"id": "c"},
}  # fmt: skip
"""Payloads that are right, by type."""

ACTIONS = ("event", "events", "startTestRun", "endTestRun", "cancelTestRun", "getActiveRuns", "getRunStatus")


class SecurityPolicyContract(PluginContract):
    """Subclass it and override `make_plugin`."""

    def make_plugin(self) -> SecurityPolicy:
        raise NotImplementedError("a contract needs `make_plugin`")

    async def test_5a_validating_never_raises_and_finds_problems(self, plugin: Any, context: PluginContext) -> None:
        await plugin.start(context)
        for event in hostile_events():
            problems = plugin.validate(event)
            assert all(isinstance(one, Problem) for one in problems), event
            assert [str(one) for one in plugin.validate(event)] == [str(one) for one in problems]
        await plugin.aclose()

    async def test_5b_neither_validating_nor_amending_changes_the_event(
        self, plugin: Any, context: PluginContext
    ) -> None:
        await plugin.start(context)
        for event in hostile_events():
            before = repr(event)
            plugin.validate(event)
            plugin.amend(event)
            assert repr(event) == before
        await plugin.aclose()

    async def test_5c_an_amended_event_is_still_the_same_event(self, plugin: Any, context: PluginContext) -> None:
        await plugin.start(context)
        for event in hostile_events():
            amended = plugin.amend(event)
            for key in ("id", "type", "runId", "project", "seq"):
                assert amended.get(key) == event.get(key)
            assert isinstance(amended["payload"], dict)
            if amended is not event and not beyond_the_decoder(event):
                assert not beyond_the_decoder(amended), "what is stored must be JSON that the decoder would take"
        await plugin.aclose()

    async def test_5d_admission_is_decided_at_once_for_anybody(self, plugin: Any, context: PluginContext) -> None:
        await plugin.start(context)
        for request in hostile_requests():
            said = plugin.admit(request)
            assert isinstance(said, Allow | Delay | Refuse | Close)
            if isinstance(said, Delay):
                assert 0 <= said.seconds < math.inf
            if isinstance(said, Refuse):
                assert said.code
                assert said.reason
            if isinstance(said, Close):
                assert said.code in range(4000, 5000) or said.code in range(1008, 1014)
        await plugin.aclose()

    async def test_5e_strangers_are_answered_soon_and_without_an_error(
        self, plugin: Any, context: PluginContext
    ) -> None:
        await plugin.start(context)
        for handshake in hostile_handshakes():
            with trio.fail_after(ANSWER_SECONDS):
                principal = await plugin.authenticate(handshake)
            assert principal is None or isinstance(principal, Principal)
            assert principal is None or plugin.authenticates
            assert principal is None or 0 < len(principal.name) <= MAX_PRINCIPAL_CHARACTERS
        await plugin.aclose()

    async def test_5f_what_the_core_writes_itself_is_not_needed_to_pass(
        self, plugin: Any, context: PluginContext
    ) -> None:
        await plugin.start(context)
        for kind in sorted(SERVER_TYPES):
            plugin.validate(_event(kind, {}))
        await plugin.aclose()


def beyond_the_decoder(event: WireEvent) -> bool:
    """Whether an event is one that the core would take from nobody."""
    try:
        admitted(event, max_bytes=MAX_AMENDED_BYTES)
    except RefusedError:
        return True
    return False


def hostile_events() -> Iterator[WireEvent]:
    """Events whose envelope is right and whose contents are anything."""
    for kind, payload in (*every_kind(), *((kind, one) for kind, good in GOOD.items() for one in payloads(good))):
        yield _event(kind, payload)
    for name in NAMES:
        yield {**_event(name[:200], {name: name}), "id": name[:200], "runId": name[:200], "x": [name]}


def hostile_requests() -> Iterator[AccessRequest]:
    """Requests of every kind, by callers with odd names."""
    for name in NAMES:
        for action in (*ACTIONS, name):
            handshake = Handshake(address=name, transport="fake", token=name)
            yield AccessRequest(
                principal=Principal(name=name, scopes=frozenset(), projects=frozenset({name})),
                handshake=handshake,
                action=action,
                project=name,
                run_id=name,
                events=100,
                size_bytes=100_000,
            )


def hostile_handshakes() -> Iterator[Handshake]:
    """Strangers with every kind of token and header."""
    yield Handshake(address="127.0.0.1", transport="fake")
    for name in ("", *NAMES):
        headers = {"authorization": f"Bearer {name}", "x": name}
        yield Handshake(address="::1", transport="fake", headers=headers, path=f"/{name}?token={name}", token=name)


def _event(kind: str, payload: Any) -> dict[str, Any]:
    return {"id": "e1", "type": kind, "timestamp": STARTED_MS, "runId": "run-1", "payload": payload}
