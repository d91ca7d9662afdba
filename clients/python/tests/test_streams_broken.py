"""What the client does on a stream when connections, databases and receipts are lost, in virtual time."""

from __future__ import annotations

import fake_faults as faults
import pytest
from fake_streams import Message, Peer, StreamServer
from virtual_link import Delivering, digest_of, receipt_of


@pytest.fixture
def server() -> StreamServer:
    return StreamServer()


# Lost connections


@pytest.mark.parametrize("code", [1001, 1006, 1011, 1012, 1013, 4008, 4408, 4429])
def test_after_a_close_that_may_pass_the_stream_is_resumed(server: StreamServer, code: int) -> None:
    server.misbehave = faults.at("events", faults.obey, faults.close(code))
    delivery = Delivering(server).deliver(450)
    assert delivery.is_complete
    hellos = server.payloads("hello")
    assert [hello.get("resume") for hello in hellos] == [None, True]
    assert [batch[0] for batch in server.batches()] == [1, 201, 201, 401]
    assert server.kinds().count("startTestRun") == 1
    assert delivery.receipt == receipt_of(450)


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 4400, 4401, 4403, 4406, 4409])
def test_after_a_close_for_good_the_client_stops(server: StreamServer, code: int) -> None:
    server.misbehave = faults.at("events", faults.close(code))
    delivery = Delivering(server).deliver(3)
    assert len(server.peers) == 1
    assert (delivery.confirmed, delivery.unconfirmed) == (0, 3)
    assert delivery.error == f"the connection was closed with code {code}"


def test_what_was_committed_before_the_connection_was_lost_is_not_sent_again(server: StreamServer) -> None:
    server.misbehave = faults.at("events", faults.obey_and_drop)
    delivery = Delivering(server).deliver(300)
    assert server.batches() == [list(range(1, 201)), list(range(201, 301))]
    assert delivery.is_complete
    assert delivery.receipt == receipt_of(300)


def test_what_was_taken_but_not_committed_is_sent_again(server: StreamServer) -> None:
    server.does_commit = False

    def die_and_recover(peer: Peer, message: Message) -> None:
        faults.obey(peer, message)
        peer.drop()
        server.does_commit = True

    server.misbehave = faults.at("events", faults.obey, die_and_recover)
    delivery = Delivering(server).deliver(300)
    assert [batch[0] for batch in server.batches()] == [1, 201, 1, 201]
    assert delivery.is_complete


def test_duplicates_are_acknowledged_and_counted_in_the_receipt(server: StreamServer) -> None:
    server.misbehave = faults.at("hello", faults.obey, faults.answer_changed("welcome", ackedSeq=0))
    server.judge = faults.refuse_event("invalid_event", 2)
    misbehave, once = server.misbehave, faults.at("events", faults.obey_and_drop)
    server.misbehave = lambda peer, message: misbehave(peer, message) or once(peer, message)
    delivery = Delivering(server).deliver(3)
    assert server.batches() == [[1, 2, 3], [1, 2, 3]]
    assert server.stored() == [1, 3]
    assert delivery.receipt == receipt_of(3, refused=1, duplicates=3)


def test_a_refusal_that_nobody_heard_is_known_from_the_receipt(server: StreamServer) -> None:
    server.judge = faults.refuse_event("invalid_event", 2)
    server.misbehave = faults.at("events", faults.obey_and_drop)
    delivery = Delivering(server).deliver(3)
    assert (delivery.confirmed, delivery.refused_by_code) == (2, {"unheard": 1})
    assert delivery.receipt_matches
    assert not delivery.is_complete


def test_a_refusal_that_is_said_again_after_a_lost_connection_counts_once(server: StreamServer) -> None:
    server.judge = faults.refuse_event("invalid_event", 1)
    server.does_commit = False

    def die_and_recover(peer: Peer, message: Message) -> None:
        peer.close(1012)
        server.does_commit = True

    server.misbehave = faults.at("events", faults.obey, die_and_recover)
    delivery = Delivering(server).deliver(300)
    assert (delivery.confirmed, delivery.refused_by_code) == (299, {"invalid_event": 1})
    assert delivery.receipt_matches


@pytest.mark.parametrize("dies_at", ["hello", "startTestRun"])
@pytest.mark.parametrize("how", [faults.drop, faults.obey_and_drop])
def test_a_connection_lost_while_it_is_opened_is_opened_again(
    server: StreamServer, dies_at: str, how: faults.Action
) -> None:
    server.misbehave = faults.at(dies_at, how)
    client = Delivering(server)
    client.time.at(1, client.finish)
    client.emit(3)
    assert client.run().is_complete
    assert len(server.peers) == 2
    assert server.payloads("hello")[1]["resume"] is True


@pytest.mark.parametrize("how", [faults.drop, faults.obey_and_drop, faults.close(1012)])
def test_a_connection_lost_before_the_receipt_asks_for_it_again(server: StreamServer, how: faults.Action) -> None:
    server.misbehave = faults.at("streamEnd", how)
    delivery = Delivering(server).deliver(3)
    assert server.payloads("streamEnd") == [{"lastSeq": 3, "digest": digest_of(3)}] * 2
    assert delivery.receipt == receipt_of(3)
    assert delivery.is_complete
    assert server.kinds().count("startTestRun") == 1


@pytest.mark.parametrize("how", [faults.drop, faults.obey_and_drop])
def test_a_connection_lost_after_the_receipt_ends_the_run_and_asks_for_no_other(
    server: StreamServer, how: faults.Action
) -> None:
    server.misbehave = faults.at("endTestRun", how)
    delivery = Delivering(server).deliver(3)
    assert server.kinds().count("streamEnd") == 1
    assert server.kinds().count("endTestRun") == 2
    assert delivery.is_complete
    assert delivery.status is not None
    assert delivery.status["status"] == "passed"


def test_a_run_that_somebody_else_has_finished_is_ended(server: StreamServer) -> None:
    server.misbehave = faults.at("endTestRun", faults.refuse("run_finished"))
    assert Delivering(server).deliver(3).is_complete


def test_a_server_that_acknowledges_nothing_is_left_after_half_a_minute_and_resumed(server: StreamServer) -> None:
    server.misbehave = faults.at("events", faults.ignore)
    client = Delivering(server)
    began = client.time()
    assert client.deliver(3).is_complete
    assert 30 < client.time() - began < 31
    assert len(server.peers) == 2


@pytest.mark.parametrize("kind", ["hello", "streamEnd", "endTestRun"])
def test_a_request_that_is_not_answered_is_asked_again_on_another_connection(server: StreamServer, kind: str) -> None:
    server.misbehave = faults.at(kind, faults.ignore)
    client = Delivering(server)
    client.emit(3)
    client.time.at(35, client.finish)
    assert client.run().is_complete
    assert len(server.peers) == 2


def test_connections_that_get_nowhere_are_made_ever_more_slowly(server: StreamServer) -> None:
    server.misbehave = lambda peer, message: message["type"] == "events" and bool(peer.close(1011) or True)
    client = Delivering(server)
    client.emit(1)
    client.time.at(60, client.finish)
    client.time.at(61, client.abandon)
    delivery = client.run()
    assert 10 < len(server.peers) < 25
    assert delivery.unconfirmed == 1


# Gaps, and what can't be mended


def test_after_a_gap_the_stream_goes_on_from_what_is_expected(server: StreamServer) -> None:
    server.misbehave = faults.at("events", faults.obey, faults.ignore)  # lost on the way, somehow
    delivery = Delivering(server).deliver(600)
    assert [batch[0] for batch in server.batches()] == [1, 201, 401, 201, 401]
    assert server.stored() == list(range(1, 601))
    assert delivery.is_complete


def test_a_gap_for_ever_is_no_loop(server: StreamServer) -> None:
    def never_satisfied(peer: Peer, message: Message) -> bool:
        if message["type"] == "events":
            peer.refuse("sequence_gap", temporary=True, seq=1)
        return message["type"] == "events"

    server.misbehave = never_satisfied
    client = Delivering(server)
    client.emit(3)
    client.time.at(60, client.finish)
    client.time.at(61, client.abandon)
    delivery = client.run()
    assert len(server.batches()) < 50
    assert delivery.error == "the connection was closed with code 1006 (the server keeps asking for event 1)"


def test_a_server_that_lost_its_database_is_told_of_and_left(server: StreamServer) -> None:
    server.misbehave = faults.at("events", faults.obey, faults.restore_older)
    delivery = Delivering(server).deliver(300)
    assert delivery.error == (
        "the server has lost its database: it has 0 events of this stream, "
        "and 200 that it had acknowledged can't be sent again"
    )
    assert len(server.peers) == 2
    assert (delivery.confirmed, delivery.unconfirmed, delivery.is_complete) == (200, 100, False)


def test_a_server_that_lost_events_and_kept_its_epoch_is_found_out_too(server: StreamServer) -> None:
    def lose(peer: Peer, message: Message) -> None:
        peer.drop()
        faults.forget_everything(server, epoch=None)

    server.misbehave = faults.at("events", faults.obey, lose)
    delivery = Delivering(server).deliver(300)
    assert delivery.error is not None
    assert delivery.error.startswith("the server has lost its database: it has 0 events")


@pytest.mark.parametrize("kind", ["events", "streamEnd"])
def test_a_gap_before_what_was_let_go_ends_the_delivery(server: StreamServer, kind: str) -> None:
    gap = faults.refuse("sequence_gap", temporary=True, seq=1)
    server.misbehave = faults.at(kind, *([faults.obey] if kind == "events" else []), gap)
    delivery = Delivering(server).deliver(300)
    assert delivery.error is not None
    assert delivery.error.startswith("the server has lost its database")
    assert len(server.peers) == 1


def test_a_new_database_before_anything_was_acknowledged_loses_nothing(server: StreamServer) -> None:
    server.misbehave = faults.at("events", faults.restore_older)
    delivery = Delivering(server).deliver(300)
    assert server.kinds().count("startTestRun") == 2
    assert delivery.is_complete
    assert delivery.receipt == receipt_of(300)


@pytest.mark.parametrize("kind", ["hello", "events", "streamEnd"])
def test_a_stream_that_somebody_else_holds_is_left_alone(server: StreamServer, kind: str) -> None:
    server.misbehave = faults.at(kind, faults.refuse("stream_conflict"))
    delivery = Delivering(server).deliver(3)
    assert delivery.error is not None
    assert "`stream_conflict`" in delivery.error
    assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (faults.say("ack", streamId="me", seq=7), "the server acknowledged event 7, and only 3 were sent"),
        (
            faults.say("error", code="sequence_gap", temporary=True, seq=9),
            "the server expects event 9, and only 3 were sent",
        ),
    ],
)
def test_a_server_that_knows_more_than_was_sent_is_not_believed(
    server: StreamServer, answer: faults.Action, sentence: str
) -> None:
    server.misbehave = faults.at("events", answer)
    assert Delivering(server).deliver(3).error == sentence


def test_a_welcome_that_is_none_is_an_error(server: StreamServer) -> None:
    server.misbehave = faults.at("hello", faults.answer_changed("welcome", ackedSeq=None))
    delivery = Delivering(server).deliver(3)
    assert delivery.error == "the server's `welcome` has no `ackedSeq`; expected a number from 0 on"


@pytest.mark.parametrize(
    "message",
    [
        faults.say("ack", streamId="another", seq=2),
        faults.say("ack", streamId="me", seq="2"),
        faults.say("ack"),
        faults.say("news", seq=2),
        faults.say("error", code="invalid_event", temporary=False, seq=99),
    ],
)
def test_what_is_not_about_this_stream_changes_nothing(server: StreamServer, message: faults.Action) -> None:
    server.misbehave = faults.at("events", message)
    assert Delivering(server).deliver(3).is_complete


# The receipt

COUNTS = "the receipt counts {} accepted and 0 refused events, but 3 were sent, and 0 refusals received"


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        ({"digest": "0" * 64}, "the receipt's digest of 3 events is not that of what was sent"),
        ({"lastSeq": 2, "accepted": 2}, "the receipt is for 2 events, 3 were sent"),
        ({"accepted": 2}, COUNTS.format(2)),
        ({"complete": False}, "the receipt says that the server has not everything"),
        ({"accepted": None}, COUNTS.format(-1)),
    ],
)  # fmt: skip
def test_a_receipt_that_differs_is_said_to_differ(server: StreamServer, lie: Message, sentence: str) -> None:
    server.misbehave = faults.at("streamEnd", faults.answer_changed("receipt", **lie))
    delivery = Delivering(server).deliver(3)
    assert delivery.error == sentence
    assert delivery.receipt_matches is False
    assert not delivery.is_complete
    assert server.ended == ["run-1"]


def test_a_receipt_that_forgets_a_refusal_differs(server: StreamServer) -> None:
    server.judge = faults.refuse_event("invalid_event", 2)
    server.misbehave = faults.at("streamEnd", faults.answer_changed("receipt", accepted=3, refused=0))
    delivery = Delivering(server).deliver(3)
    assert delivery.receipt_matches is False
