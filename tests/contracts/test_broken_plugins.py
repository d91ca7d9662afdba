"""The contracts are tested too: each broken plugin fails the promise that it breaks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from marshmallow import fields

from testorch_core.interfaces.reporter import Renderer
from testorch_core.interfaces.security import Delay, Principal, SecurityPolicy
from testorch_core.options import Options, Secret, option
from testorch_core.testing import (
    PluginContract,
    RecordingReporter,
    RendererContract,
    ReporterContract,
    SecurityPolicyContract,
    plugin_context,
)  # fmt: skip

FAILS = (AssertionError, pytest.fail.Exception, AttributeError, OSError)


@pytest.fixture
def context(nursery, tmp_path):
    return plugin_context(nursery, folder=tmp_path)


# Lives.


class WithoutSummary(RecordingReporter):
    summary = ""


class OpensInTheConstructor(RecordingReporter):
    def __init__(self, name="p", options=None):
        super().__init__(name, options)
        Path(__file__).read_bytes()


class IsSlowToConstruct(RecordingReporter):
    def __init__(self, name="p", options=None):
        super().__init__(name, options)
        time.sleep(0.06)


class NeedsAStartToClose(RecordingReporter):
    async def start(self, context):
        self.handle = object()

    async def aclose(self):
        del self.handle


class StaysLocked(RecordingReporter):
    """Releases its file only where it is not being cancelled."""

    async def start(self, context):
        self.path = context.folder / "lock"
        self.path.touch(exist_ok=False)

    async def aclose(self):
        await trio.lowlevel.checkpoint()
        if hasattr(self, "path"):
            self.path.unlink(missing_ok=True)


class RaisesWhatItMeets(RecordingReporter):
    async def start(self, context):
        (context.folder / "file").touch()


@dataclass(frozen=True, kw_only=True)
class WithoutHelp(Options):
    colour: str = option(fields.String(), default="red", help=" ")


@dataclass(frozen=True, kw_only=True)
class ShowsItsSecret(Options):
    token: Secret = option(fields.String(), default=Secret("t"), help="the token", secret=True)

    def __repr__(self):
        return f"ShowsItsSecret({self.token.reveal()})"


@dataclass(frozen=True, kw_only=True)
class HasAnOddDefault(Options):
    port: int = option(fields.Integer(strict=True), default="8765", help="the port")  # type: ignore[assignment]


def with_options(options):
    return lambda: RecordingReporter("p", options)


BROKEN_LIVES = [
    (WithoutSummary, "test_4a_the_summary_is_one_line"),
    (OpensInTheConstructor, "test_1a_constructing_does_no_io_and_starts_nothing"),
    (IsSlowToConstruct, "test_1b_constructing_is_cheap"),
    (NeedsAStartToClose, "test_3a_closing_works_unstarted"),
    (NeedsAStartToClose, "test_3b_closing_works_twice"),
    (RaisesWhatItMeets, "test_3c_closing_works_after_a_start_that_failed"),
    (StaysLocked, "test_3e_closing_releases_everything_even_while_being_cancelled"),
    (with_options(WithoutHelp()), "test_4b_every_option_has_help"),
    (with_options(HasAnOddDefault()), "test_4c_every_default_is_a_value_that_could_be_given"),
    (with_options(ShowsItsSecret()), "test_4e_secrets_are_masked"),
]


@pytest.mark.parametrize(("make", "promise"), BROKEN_LIVES)
async def test_a_plugin_with_a_broken_life_fails_the_promise_that_it_breaks(make, promise, context, nursery, tmp_path):
    fixtures = {"plugin": make, "new_plugin": lambda: make, "context": lambda: context}
    fixtures |= {"nursery": lambda: nursery, "tmp_path": lambda: tmp_path}
    test = getattr(PluginContract(), promise)
    names = test.__code__.co_varnames[1 : test.__code__.co_argcount]
    with pytest.raises(FAILS):
        await test(**{name: fixtures[name]() for name in names})


# Reporters, renderers, security policies.


class WritesAgain(RecordingReporter):
    """Adds to its file at every call, so that what is told twice stands there twice."""

    async def run_finished(self, run):
        self.calls.append(("run_finished", run.status.run_id))


class TrustsNames(RecordingReporter):
    async def test_finished(self, run, result):
        result.details["testName"].encode()


class ChangesItsMind(RecordingReporter, Renderer):
    @property
    def media_type(self):
        return "text/plain"

    async def render(self, run):
        self.calls.append(("render", None))
        yield str(len(self.calls)).encode()


async def test_a_reporter_that_repeats_its_effect_fails(tmp_path):
    reporter = WritesAgain()
    contract = type("Contract", (ReporterContract,), {"effects": lambda self, folder: list(reporter.calls)})()
    with pytest.raises(AssertionError):
        await contract.test_5a_a_run_can_be_told_twice_and_the_effect_is_the_same(reporter, "that is empty", tmp_path)


async def test_a_reporter_that_trusts_what_clients_send_fails(tmp_path):
    with pytest.raises((KeyError, AttributeError)):
        await ReporterContract().test_5a_a_run_can_be_told_twice_and_the_effect_is_the_same(
            TrustsNames(), "with odd fields", tmp_path
        )


async def test_a_reporter_that_hangs_fails_and_the_kit_does_not_hang(autojump_clock):
    with pytest.raises(trio.TooSlowError):
        await ReporterContract().test_5b_the_last_call_can_come_again_alone(Hangs(), Path())


class Hangs(RecordingReporter):
    async def run_finished(self, run):
        await trio.sleep_forever()


async def test_a_renderer_that_changes_its_mind_fails():
    with pytest.raises(AssertionError):
        await RendererContract().test_6b_a_document_is_the_same_twice_and_needs_no_start(
            ChangesItsMind(), ChangesItsMind, "that is empty"
        )


class Policy(SecurityPolicy):
    summary = "for tests"

    async def start(self, context): ...

    async def aclose(self): ...


class Raises(Policy):
    def validate(self, event):
        return event["payload"]["testId"] and ()


class Scribbles(Policy):
    def validate(self, event):
        event["payload"].setdefault("seen", True)
        return ()


class RenamesRuns(Policy):
    def amend(self, event):
        return {**event, "runId": "mine"}


class ForgetsSeqs(Policy):
    def amend(self, event):
        return {**event, "seq": 7}


class StoresWhatNoStoreCan(Policy):
    def amend(self, event):
        return {**event, "seen": {event["id"]}}


class DelaysForEver(Policy):
    def admit(self, request):
        return Delay(float("inf"))


class LetsEverybodyIn(Policy):
    async def authenticate(self, handshake):
        return handshake.token


class KnowsNobodyByName(Policy):
    authenticates = True

    async def authenticate(self, handshake):
        return Principal(name="")


BROKEN_POLICIES = [
    (Raises, "test_5a_validating_never_raises_and_finds_problems"),
    (Scribbles, "test_5b_neither_validating_nor_amending_changes_the_event"),
    (RenamesRuns, "test_5c_an_amended_event_is_still_the_same_event"),
    (ForgetsSeqs, "test_5c_an_amended_event_is_still_the_same_event"),
    (StoresWhatNoStoreCan, "test_5c_an_amended_event_is_still_the_same_event"),
    (KnowsNobodyByName, "test_5e_strangers_are_answered_soon_and_without_an_error"),
    (DelaysForEver, "test_5d_admission_is_decided_at_once_for_anybody"),
    (LetsEverybodyIn, "test_5e_strangers_are_answered_soon_and_without_an_error"),
]


@pytest.mark.parametrize(("kind", "promise"), BROKEN_POLICIES)
async def test_a_broken_policy_fails_the_promise_that_it_breaks(kind, promise, context):
    with pytest.raises((AssertionError, KeyError)):
        await getattr(SecurityPolicyContract(), promise)(kind("p", Options()), context)
    await getattr(SecurityPolicyContract(), promise)(Policy("p", Options()), context)
