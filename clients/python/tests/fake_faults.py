"""What a server, or the network before it, can do wrong: for `StreamServer.misbehave` and `StreamServer.judge`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from fake_streams import Judge, Message, Misbehaviour, Peer, StreamServer

Action = Callable[[Peer, Message], object]


def at(kind: str, *actions: Action) -> Misbehaviour:
    """Do the first action instead of answering the first message of a kind, the second for the second, and so on."""
    left = list(actions)

    def misbehave(peer: Peer, message: Message) -> bool:
        if message["type"] != kind or not left:
            return False
        left.pop(0)(peer, message)
        return True

    return misbehave


# Actions


def ignore(peer: Peer, message: Message) -> None:
    """Never answer."""


def obey(peer: Peer, message: Message) -> None:
    peer.server.act(peer, message)


def drop(peer: Peer, message: Message) -> None:
    """Die before anything is done."""
    peer.drop()


def obey_and_drop(peer: Peer, message: Message) -> None:
    """Commit, and die before the answer is out."""
    peer.send = lambda message: None
    obey(peer, message)
    peer.drop()


def close(code: int) -> Callable[[Peer, Message], None]:
    """Take nothing of the message, and close."""
    return lambda peer, message: peer.close(code)


def refuse(code: str, **details: Any) -> Callable[[Peer, Message], None]:
    """Answer a request with an error; refuse a message of events as a whole, without a `seq`."""
    return lambda peer, message: peer.refuse(code, message if "id" in message else None, **details)


def forget_everything(server: StreamServer, *, epoch: str | None = "epoch-2") -> None:
    """The database is lost, and perhaps a new one made, which has another epoch."""
    server.streams.clear()
    server.events.clear()
    if epoch is not None:
        server.epoch = epoch


def restore_older(peer: Peer, message: Message) -> None:
    """Die, and come back with a database that has nothing of what was acknowledged."""
    peer.drop()
    forget_everything(peer.server)


def say(kind: str, **payload: Any) -> Callable[[Peer, Message], None]:
    """Say something out of place, then act as ever."""

    def talk(peer: Peer, message: Message) -> None:
        peer.send({"type": kind, "payload": payload})
        obey(peer, message)

    return talk


def answer_changed(kind: str, **changes: Any) -> Callable[[Peer, Message], None]:
    """Obey, but lie in the answer."""

    def lie(peer: Peer, message: Message) -> None:
        honest = peer.send
        peer.send = lambda sent: honest(
            {**sent, "payload": {**sent["payload"], **changes}} if sent["type"] == kind else sent
        )
        obey(peer, message)
        peer.send = honest

    return lie


# Judges


def refuse_event(code: str, *seqs: int) -> Judge:
    """Refuse these events for good."""
    return lambda event: {"code": code} if event["seq"] in seqs else None


def postpone_event(code: str, seq: int, *, times: int = 1, retry_ms: int = 200) -> Judge:
    """Refuse this event for now, so many times."""
    refusals = count(1)

    def judge(event: Message) -> dict[str, Any] | None:
        if event["seq"] != seq or next(refusals) > times:
            return None
        return {"code": code, "temporary": True, "retryAfterMs": retry_ms}

    return judge
