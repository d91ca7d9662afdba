"""The job itself: the echo server echoes, and what the report says is understood. Needs no Python 2.7."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import open_websocket_url

from autobahn.cases import LEFT_OUT, Case, chosen_cases
from autobahn.cli import transports
from autobahn.echo_server import serving
from autobahn.environment import suite_interpreter
from autobahn.failures import SuiteError
from autobahn.fuzzing import echo_server
from autobahn.report import EXPLAINED, Judgement, Outcome, judge

FINE = Outcome("OK", "OK", 1000, (1000,))


def case(number: str) -> Case:
    return Case(number, "Made up", "Send <b>something</b>.<br><br>Payload: 0x80", f"case{number.replace('.', '_')}")


@pytest.mark.parametrize("transport", transports("all"))
async def test_text_comes_back_as_text_and_binary_as_binary(transport: str, tmp_path: Path):
    sent: list[str | bytes] = ["", "grüße, 世界", b"", b"\x00\xff\xfe", "x" * 70_000, bytes(70_000)]
    received = []
    with trio.fail_after(30):
        async with serving(transport, tmp_path) as address, open_websocket_url(address) as client:
            for message in sent:
                await client.send_message(message)
                received.append(await client.get_message())
    assert received == sent


@pytest.mark.slow(reason="starts a server")
def test_a_server_that_lives_to_the_end_is_fine_and_one_that_does_not_start_is_told_of(tmp_path: Path):
    with echo_server("websocket", tmp_path / "fine.log") as server:
        assert server.address.startswith("ws://127.0.0.1:")
    with (
        pytest.raises(SuiteError, match="no transport plugin is named `carrier-pigeon`"),
        echo_server("carrier-pigeon", tmp_path / "none.log"),
    ):
        pass


@pytest.mark.slow(reason="starts a server")
def test_a_server_that_dies_of_a_case_fails_the_job(tmp_path: Path):
    with pytest.raises(SuiteError, match="ended with -9"), echo_server("websocket", tmp_path / "server.log") as server:
        os.kill(server.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome("FAILED", "OK", 1000), ["behavior FAILED"]),
        (Outcome("UNCLEAN", "OK", 1000), ["behavior UNCLEAN"]),
        (Outcome("OK", "FAILED", 1000), ["close FAILED"]),
        (Outcome("OK", "UNCLEAN", None), ["close UNCLEAN"]),
        (Outcome("OK", "WRONG CODE", 1011, (1002,)), ["close WRONG CODE", "close code 1011, wanted 1002"]),
        (Outcome("OK", "OK", None, (1007,)), ["no close code, wanted 1007"]),
        (Outcome("OK", "OK", 1000, (1002, 1007)), ["close code 1000, wanted 1002 or 1007"]),
        (Outcome("a word that is new", "OK", 1000), ["behavior a word that is new"]),
    ],
)
def test_a_case_that_fails_is_called_failed(outcome: Outcome, words: list[str]):
    judgement = Judgement("websocket", [case("1.1"), case("1.2")], {"1.1": FINE, "1.2": outcome})
    assert judgement.faults == {"1.2": words}
    assert judgement.unexplained == ["1.2"]


@pytest.mark.parametrize(
    "outcome",
    [
        FINE,
        Outcome("OK", "OK", 1002, (1002,)),
        Outcome("OK", "OK", 1002, (1002, 1007)),
        Outcome("NON-STRICT", "OK", 1007, (1007,)),
        Outcome("OK", "OK", None, (1000, 5000, 1002)),
        Outcome("INFORMATIONAL", "INFORMATIONAL", None),
    ],
)
def test_a_case_that_is_fine_is_not(outcome: Outcome):
    assert not Judgement("websocket", [case("1.1")], {"1.1": outcome}).faults


def test_a_case_that_was_not_reported_has_failed():
    """The fuzzing client ends its work, and says that all is well, when it is refused a connection."""
    judgement = Judgement("websocket", [case("1.1"), case("1.2")], {"1.1": FINE})
    assert judgement.faults == {"1.2": ["not in the suite's report"]}


def test_an_explained_case_is_shown_and_does_not_fail_the_job(tmp_path: Path):
    reports = written(tmp_path, {"1.1": ("FAILED", "OK", 1000, [1000]), "1.2": ("OK", "OK", 1000, [1000])})
    explained = tmp_path / "explained.toml"
    explained.write_text('[websocket]\n"1.1" = "why, https://example.org/1"\n"1.2" = "long mended"\n[websockets]\n')
    judgement = judge("websocket", [case("1.1"), case("1.2")], reports, explained=explained)
    assert (judgement.unexplained, judgement.outdated) == ([], ["1.2"])
    assert judgement.text().splitlines() == [
        "websocket: 2 cases, 1 with a fault",
        "   1 Made up               2 cases: 1 FAILED, 1 OK; close: 2 OK",
        "  explained 1.1: behavior FAILED",
        "      Send something. Payload: 0x80",
        "      why, https://example.org/1",
        f"      {case('1.1').link}",
        "  1.2 is explained, but is fine now: take it out of explained.toml",
    ]


def test_an_explanation_holds_for_one_transport_only(tmp_path: Path):
    explained = tmp_path / "explained.toml"
    explained.write_text('[websockets]\n"1.1" = "why"\n')
    reports = written(tmp_path, {"1.1": ("FAILED", "OK", 1000, [1000])})
    assert judge("websocket", [case("1.1")], reports, explained=explained).unexplained == ["1.1"]


def test_our_own_explanations_can_be_read(tmp_path: Path):
    assert judge("websocket", [], written(tmp_path, {}), explained=EXPLAINED).text()


@pytest.mark.parametrize(
    ("patterns", "ids"),
    [
        ([], ["1.1.1", "9.1.1", "10.1.1"]),
        (["1.*"], ["1.1.1"]),
        (["!9.*"], ["1.1.1", "10.1.1"]),
        (["1*", "!10.*"], ["1.1.1"]),
        (["9.1.1", "10.*"], ["9.1.1", "10.1.1"]),
    ],
)
def test_cases_are_chosen_and_left_out_by_pattern(patterns: list[str], ids: list[str]):
    cases = [case(number) for number in ("1.1.1", "9.1.1", "10.1.1", "12.1.1", "13.1.1")]
    assert [one.id for one in chosen_cases(cases, patterns)] == ids


@pytest.mark.parametrize("pattern", ["8.*", "!8.*", *LEFT_OUT])
def test_a_pattern_that_matches_nothing_is_refused(pattern: str):
    with pytest.raises(SuiteError, match="no case matches"):
        chosen_cases([case("1.1.1"), case("12.1.1"), case("13.1.1")], ["1.*", pattern])


@pytest.mark.parametrize("name", ["no-such-python", "true", "false"])
def test_what_is_not_python_2_7_is_refused_with_advice(name: str):
    with pytest.raises(SuiteError, match=r"name one with `--python PATH`"):
        suite_interpreter(name, print)


def written(folder: Path, outcomes: dict[str, tuple[str, str, int, list[int]]]) -> Path:
    """Reports as the suite writes them, as far as they are read."""
    index: dict[str, Any] = {}
    for number, (behavior, close, code, wanted) in outcomes.items():
        file = f"websocket_case_{number.replace('.', '_')}.json"
        (folder / file).write_text(json.dumps({"expectedClose": {"closeCode": wanted, "closedByMe": True}}))
        index[number] = {"behavior": behavior, "behaviorClose": close, "remoteCloseCode": code, "reportfile": file}
    (folder / "index.json").write_text(json.dumps({"websocket": index} if index else {}))
    return folder
