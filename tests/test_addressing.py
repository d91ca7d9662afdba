"""Which project and run a message is about."""

from itertools import count
from typing import Any

import pytest

from testorch_core.addressing import Addressing
from testorch_core.errors import RefusedError


def addressing(*projects: str) -> Addressing:
    numbers = count(1)
    return Addressing(frozenset(projects) if projects else None, lambda: f"made-{next(numbers)}")


def event(run_id: str | None = None, project: str | None = None, **payload: Any) -> dict[str, Any]:
    wire: dict[str, Any] = {"id": "e", "type": "test/start", "timestamp": 1, "payload": payload}
    return wire | ({"runId": run_id} if run_id else {}) | ({"project": project} if project else {})


def test_a_project_is_the_messages_then_the_connections_then_the_principals_only_one_then_default():
    free = addressing()
    assert free.project_of({}) == "default"
    assert addressing("web").project_of({}) == "web"
    free.started(("api", "r"))
    assert free.project_of({}) == "api"
    assert free.project_of({"project": "web"}) == "web"


def test_a_principal_of_several_projects_must_name_one_and_may_name_no_other():
    bound = addressing("web", "api")
    assert bound.home == "api"
    for message, code in (({}, "invalid_message"), ({"project": "secret"}, "forbidden")):
        with pytest.raises(RefusedError) as refused:
            bound.project_of(message)
        assert refused.value.refusal.code == code
    assert bound.project_of({"project": "web"}) == "web"


def test_an_events_run_is_the_envelopes_then_the_payloads_then_the_started_one_then_an_implicit_one():
    one = addressing()
    assert one.address_of(event()) == ("default", "made-1")
    assert one.address_of(event()) == ("default", "made-1")
    assert one.is_implicit(("default", "made-1"))
    assert one.address_of(event(project="web")) == ("web", "made-2")
    one.started(("default", "mine"))
    assert one.address_of(event()) == ("default", "mine")
    assert one.address_of(event(runId="inner")) == ("default", "inner")
    assert one.address_of(event("outer")) == ("default", "outer")
    assert one.address_of(event("same", runId="same")) == ("default", "same")
    assert one.address_of(event("outer", runId=["no string"])) == ("default", "outer")


def test_after_a_runs_end_events_without_a_run_no_longer_belong_to_it():
    one = addressing()
    one.started(("default", "mine"))
    one.ended(("default", "mine"))
    assert one.address_of(event()) == ("default", "made-1")
    one.ended(("default", "made-1"))
    assert one.address_of(event()) == ("default", "made-2")


@pytest.mark.parametrize("wire", [event("outer", runId="inner"), event(runId="x" * 201)])
def test_runs_that_disagree_or_are_too_long_are_refused(wire: dict[str, Any]):
    with pytest.raises(RefusedError) as refused:
        addressing().address_of(wire)
    assert refused.value.refusal.code == "invalid_event"
