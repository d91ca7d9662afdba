"""The parts of the attack harness that judge: reading raw answers, and the oracle."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import NamedTuple

import pytest
from faults.attack_answers import answer, is_answered
from faults.attack_kit import Outcome
from faults.attack_oracle import Taken, kept, peaked, taken, wrong_answers, wrong_lines
from faults.attack_wire import CLOSE, PING, TEXT, frame

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n\r\nbad\n"
ERROR = frame(TEXT, b'{"type": "error", "payload": {"code": "invalid_json"}}', masked=False)
LONG = frame(TEXT, b'{"type": "runs", "payload": "' + b"x" * 70_000 + b'"}', masked=False)
TOO_BIG = frame(CLOSE, b"\x03\xf1too big", masked=False)

IS_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads descriptors and memory of a process from /proc")


class Heard(NamedTuple):
    """What a peer knows at the end."""

    received: bytes
    is_cut: bool = True
    is_content: bool = False


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        (Heard(b""), "cut"),
        (Heard(b"", is_cut=False), "open"),
        (Heard(REFUSED), "http 400"),
        (Heard(REFUSED, is_cut=False), "http 400, open"),
        (Heard(REFUSED, is_cut=False, is_content=True), "http 400"),
        (Heard(REFUSED[:-1]), "http 400 truncated"),
        (Heard(b"\x15\x03\x03\0\2\2\x32"), "tls alert"),
        (Heard(b"SSH-2.0\r\n"), "noise"),
        (Heard(UPGRADED), "http 101, cut"),
        (Heard(UPGRADED + frame(PING, masked=False), is_cut=False), "http 101, open"),
        (Heard(UPGRADED + TOO_BIG), "close 1009"),
        (Heard(UPGRADED + TOO_BIG[:-1]), "http 101, cut"),
        (Heard(UPGRADED + TOO_BIG, is_cut=False), "close 1009, open"),
        (Heard(UPGRADED + frame(CLOSE, masked=False)), "close 1005"),
        (Heard(UPGRADED + ERROR + LONG, is_cut=False), "error invalid_json, reply runs, open"),
        (Heard(UPGRADED + ERROR + LONG + TOO_BIG), "error invalid_json, reply runs, close 1009"),
    ],
)
def test_an_answer_is_what_came_and_how_it_ended(heard: Heard, words: str):
    assert answer(heard) == words


@pytest.mark.parametrize(
    ("received", "is_one"),
    [(b"", False), (REFUSED[:-1], False), (REFUSED, True), (UPGRADED + ERROR, False), (UPGRADED + TOO_BIG, True)],
)
def test_a_whole_response_or_a_close_is_an_answer(received: bytes, is_one: bool):
    assert is_answered(Heard(received)) is is_one


def test_an_answer_that_is_not_allowed_is_told_with_how_often_it_came():
    outcomes = Counter({Outcome("a", "cut", ("cut",)): 3, Outcome("b", "open", ("cut", "http 400")): 2})
    assert [*wrong_answers(outcomes)] == ["b: answered 2 times with `open`, not `cut` or `http 400`"]


def test_more_lines_than_bad_connections_and_tracebacks_are_told():
    assert [*wrong_lines("event=refused\nevent=refused\n", 2)] == []
    assert [*wrong_lines("event=refused\nevent=closed\n", 1)] == [
        "2 lines of log for 1 bad connections, the last: event=closed"
    ]
    assert [*wrong_lines('exception="Traceback (most recent call last)"\n', 1)] == [
        'the log says: exception="Traceback (most recent call last)"'
    ]


@IS_LINUX
def test_descriptors_and_memory_that_do_not_come_back_are_told():
    pid = os.getpid()
    before = taken(pid)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    try:
        assert [*kept(pid, before, 20_000_000, 0.0)] == ["3 descriptors have not come back"]
    finally:
        for one in held:
            os.close(one)
    assert [*kept(pid, before, 20_000_000, 0.0)] == []
    assert [*kept(pid, Taken(before.descriptors, before.resident_bytes - 30_000_000), 20_000_000, 0.0)]
    assert [*peaked(pid, Taken(0, 0), 1_000_000)]
