"""The oracle of the fault harnesses, against violations made by hand: one that finds nothing would prove nothing."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from faults.oracle import (
    PlainLedger,
    Stored,
    StreamLedger,
    digest_of,
    hole_violations,
    plain_violations,
    receipt_violations,
    stored_event,
    stream_violations,
)

SENT = {1: "a", 2: "b", 3: "c"}
LOG = [Stored(4, "r", "a", "s", 1), Stored(5, "r", "b", "s", 2, is_refused=True), Stored(9, "r", "c", "s", 3)]
RECEIPT = {"lastSeq": 3, "accepted": 2, "refused": 1, "digest": digest_of(SENT), "complete": True}


def ledger(**more: Any) -> StreamLedger:
    return StreamLedger("s", "r", **{"sent": dict(SENT), "acked": 3, "receipt": RECEIPT, **more})


def test_a_log_that_keeps_every_promise_has_no_violations():
    foreign = [Stored(1, "r", "x", "other", 1), Stored(2, "r", "y")]
    assert stream_violations(ledger(), [*foreign, *LOG]) == []
    assert receipt_violations(ledger(), [*foreign, *LOG]) == []
    assert stream_violations(ledger(acked=1), LOG) == [], "stored and not yet acknowledged"
    assert plain_violations(PlainLedger("r", ["y", "z"], {"y"}), [*foreign, *LOG]) == []


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (LOG[:2], "stream `s`: seq `3` was acknowledged, and is not stored"),
        ([*LOG, replace(LOG[2], offset=10)], "stream `s`: `3` comes twice"),
        ([LOG[0], LOG[1], replace(LOG[2], id="d")], "stream `s`: seq 3 is stored as `d`, and was not sent so"),
        ([*LOG, Stored(10, "r", "d", "s", 4)], "stream `s`: seq 4 is stored as `d`, and was not sent so"),
        ([LOG[0], LOG[1], replace(LOG[2], run_id="q")], "stream `s`: seq 3 is stored in run `q`"),
        (
            [LOG[0], replace(LOG[2], offset=5), replace(LOG[1], offset=9)],
            "stream `s`: the log has its seqs as `1`, `3`, `2`, not in order without a hole",
        ),
    ],
    ids=["lost", "twice", "another", "invented", "wrong run", "order"],
)
def test_a_stream_that_is_lost_doubled_invented_or_out_of_order_is_named(log: Sequence[Stored], words: str):
    assert stream_violations(ledger(), log) == [words]


def test_a_hole_is_a_violation_though_nothing_of_it_was_acknowledged():
    [words] = stream_violations(ledger(acked=0), [LOG[0], LOG[2]])
    assert words == "stream `s`: the log has its seqs as `1`, `3`, not in order without a hole"


@pytest.mark.parametrize(("key", "value"), [("lastSeq", 2), ("accepted", 3), ("refused", 0), ("complete", False)])
def test_a_receipt_that_differs_is_named(key: str, value: Any):
    [words] = receipt_violations(ledger(receipt={**RECEIPT, key: value}), LOG)
    assert words == f"stream `s`: the receipt says {key} {value!r}, not {RECEIPT[key]!r}"


def test_no_receipt_and_a_digest_of_other_ids_are_violations():
    assert receipt_violations(ledger(receipt=None), LOG) == ["stream `s`: it has no receipt"]
    [words] = receipt_violations(ledger(sent={**SENT, 2: "x"}), LOG)
    assert words.startswith("stream `s`: the receipt says digest")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda log: log[1:], "run `r`: `a` was acknowledged, and is not stored"),
        (lambda log: [*log, replace(log[0], offset=7)], "run `r`: `a` comes twice"),
        (lambda log: [*log, Stored(7, "r", "z")], "run `r`: `z` is stored, and was not sent"),
    ],
    ids=["lost", "twice", "invented"],
)
def test_plain_events_that_are_lost_doubled_or_invented_are_named(
    change: Callable[[list[Stored]], list[Stored]], words: str
):
    log = [Stored(1, "r", "a"), Stored(2, "r", "b")]
    assert plain_violations(PlainLedger("r", ["a", "b", "c"], {"a"}), change(log)) == [words]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ([1, 2, 3], []),
        ([1, 3], ["w missed 1 events: `2`"]),
        ([1, 2, 2, 3], ["w: `2` comes twice", "w saw 4 events out of order or twice"]),
        ([2, 1, 3], ["w saw 3 events out of order or twice"]),
    ],
)
def test_a_subscribers_holes_are_named(seen: Sequence[int], words: list[str]):
    assert hole_violations("w", seen, first=1, last=3) == words


def test_the_digest_is_the_one_of_the_protocol():
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_of({}) == empty
    assert digest_of({2: "b", 1: "a"}) == digest_of({1: "a", 2: "b"}) != empty


def test_the_servers_own_notes_are_not_events_of_clients():
    def seen(kind: str, **payload: Any) -> Stored | None:
        return stored_event(1, "r", "s", {"id": "i", "type": kind, "payload": payload, "seq": 7})

    assert seen("run/start") is seen("stream/lost") is seen("system/client/connect") is None
    assert seen("test/end") == seen("run/plan") == Stored(1, "r", "i", "s", 7)
    assert seen("run/refused", seq=7, eventId="x") == Stored(1, "r", "x", "s", 7, is_refused=True)
