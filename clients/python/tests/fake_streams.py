"""The server's side of streams, as the protocol has it: messages in, messages out. No socket, no clock, no thread.

It keeps the rules to the letter, so that a client that breaks one is noticed. What it does wrong on purpose, it does
through its hooks; `fake_faults` has one for every fault.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

Message = dict[str, Any]


class Wire(Protocol):
    """The client's end of a connection, as the server sees it."""

    def send(self, message: Message) -> None: ...

    def close(self, code: int) -> None: ...

    def drop(self) -> None:
        """End the connection without a word, as a killed server does."""


class Peer:
    """One connection. `number` counts from 1 over the server's life."""

    def __init__(self, server: StreamServer, wire: Wire, number: int) -> None:
        self.server = server
        self.number = number
        self.stream: KnownStream | None = None
        self.is_halted = False
        self.send = wire.send
        self.close = wire.close
        self.drop = wire.drop

    def answer(self, kind: str, payload: Message, message: Message) -> None:
        self.send({"type": kind, "payload": payload, "inReplyTo": message.get("id")})

    def refuse(self, code: str, message: Message | None = None, *, temporary: bool = False, **details: Any) -> None:
        """An `error`, in reply to a message if one is given."""
        payload = {"code": code, "message": f"refused: {code}", "temporary": temporary, "details": [], **details}
        self.send({"type": "error", "payload": payload} | ({"inReplyTo": message["id"]} if message else {}))


@dataclass
class KnownStream:
    """A stream in the server's database, and what of it is taken but not committed yet."""

    stream_id: str
    run_id: str | None = None
    holder: Peer | None = None
    committed: int = 0
    accepted: int = 0
    refused: int = 0
    duplicates: int = 0
    is_ended: bool = False
    digest: Any = field(default_factory=hashlib.sha256)
    uncommitted: list[tuple[Message, str | None]] = field(default_factory=list)

    @property
    def taken(self) -> int:
        return self.committed + len(self.uncommitted)


# Called with every message before the server acts on it; True if it was dealt with.
Misbehaviour = Callable[[Peer, Message], bool]
# What an event is refused with, as `Peer.refuse` takes it; None if it isn't.
Judge = Callable[[Message], dict[str, Any] | None]


class StreamServer:
    """Its whole state; `events` holds what is committed, by id."""

    def __init__(self) -> None:
        self.misbehave: Misbehaviour = lambda peer, message: False
        self.judge: Judge = lambda event: None
        self.does_commit = True
        self.epoch = "epoch-1"
        self.limits = {"heartbeatMs": 2000, "maxMessageBytes": 2**20, "maxInFlight": 1000}
        self.messages: list[Message] = []
        self.heartbeats = 0
        self.events: dict[str, Message] = {}
        self.streams: dict[str, KnownStream] = {}
        self.ended: list[str] = []
        self.peers: list[Peer] = []

    def connect(self, wire: Wire) -> Peer:
        self.peers.append(Peer(self, wire, len(self.peers) + 1))
        return self.peers[-1]

    def receive(self, peer: Peer, message: Message) -> None:
        if message["type"] == "heartbeat":
            self.heartbeats += 1
            return
        self.messages.append(message)
        if not self.misbehave(peer, message):
            self.act(peer, message)

    def disconnected(self, peer: Peer) -> None:
        """What was taken and not committed is gone with the connection."""
        if peer.stream is not None and peer.stream.holder is peer:
            peer.stream.holder = None
            peer.stream.uncommitted.clear()

    def act(self, peer: Peer, message: Message) -> None:
        """Do what the protocol says."""
        getattr(self, f"_on_{message['type']}")(peer, message, message["payload"])

    # What tests ask

    def kinds(self) -> list[str]:
        return [message["type"] for message in self.messages]

    def payloads(self, kind: str) -> list[Message]:
        """The payloads of the messages of a type."""
        return [message["payload"] for message in self.messages if message["type"] == kind]

    def batches(self) -> list[list[int]]:
        """The `seq` of the events of every message of events, in the order of their arrival."""
        return [[event["seq"] for event in payload["events"]] for payload in self.payloads("events")]

    def stored(self) -> list[int]:
        """The `seq` of the stored events, in the order of their commit."""
        return [event["seq"] for event in self.events.values()]

    def of_type(self, kind: str) -> list[Message]:
        """The payloads of the stored events of a type, in the order in which they arrived."""
        return [event["payload"] for event in self.events.values() if event["type"] == kind]

    def ends(self) -> dict[str, Message]:
        """The last `test/end` of every test."""
        return {payload["testId"]: payload for payload in self.of_type("test/end")}

    # The protocol

    def _on_hello(self, peer: Peer, message: Message, said: Message) -> None:
        assert peer.stream is None, "`hello` comes once"
        stream = self.streams.get(said["streamId"], KnownStream(said["streamId"]))
        if stream.stream_id in self.streams and not said.get("resume"):
            peer.refuse("stream_conflict", message)
            return
        if stream.holder is not None:
            stream.holder.refuse("stream_conflict")
            stream.holder.close(4409)
            self.disconnected(stream.holder)
        stream.run_id = stream.run_id or said.get("runId")
        stream.holder, peer.stream = peer, stream
        welcome = {"sessionId": f"s-{peer.number}", "epoch": self.epoch, "streamId": stream.stream_id}
        welcome |= {"runId": stream.run_id, "ackedSeq": stream.committed, "durability": "power", "features": []}
        peer.answer("welcome", welcome | self.limits, message)

    def _on_startTestRun(self, peer: Peer, message: Message, said: Message) -> None:
        assert peer.stream is not None, "`hello` comes first"
        assert "participant" not in said
        stream = self.streams.setdefault(peer.stream.stream_id, peer.stream)
        stream.run_id = said.get("runId") or stream.run_id or f"run-of-{said['key']}"
        peer.answer("testRunStarted", self.status(stream.run_id), message)

    def _on_events(self, peer: Peer, message: Message, said: Message) -> None:
        stream = peer.stream
        assert stream is not None, "`hello` comes first"
        taken, duplicates = stream.taken, stream.duplicates
        for event in said["events"]:
            self._take(peer, stream, event)
        has_only_duplicates = stream.duplicates - duplicates == len(said["events"])
        if self.does_commit and (stream.taken > taken or has_only_duplicates):
            self.commit(stream)

    def _take(self, peer: Peer, stream: KnownStream, event: Message) -> None:
        seq, expected = event["seq"], stream.taken + 1
        if seq < expected:
            stream.duplicates += 1
            return
        if seq > expected:
            if not peer.is_halted:
                peer.is_halted = True
                peer.refuse("sequence_gap", temporary=True, seq=expected)
            return
        refusal = self._refusal_of(stream, event)
        peer.is_halted = refusal is not None and bool(refusal.get("temporary"))
        if refusal is not None:
            peer.refuse(**refusal, seq=seq, eventId=event["id"])
        if not peer.is_halted:
            stream.uncommitted.append((event, refusal["code"] if refusal else None))

    def _refusal_of(self, stream: KnownStream, event: Message) -> dict[str, Any] | None:
        is_sound = event.keys() >= {"id", "type", "timestamp", "payload"}
        if not is_sound or stream.is_ended or event.get("runId") != stream.run_id:
            return {"code": "invalid_event"}
        return self.judge(event)

    def commit(self, stream: KnownStream) -> None:
        """Make what was taken durable, and acknowledge it."""
        for event, refused in stream.uncommitted:
            stream.committed += 1
            stream.accepted += refused is None
            stream.refused += refused is not None
            stream.digest.update(f"{event['seq']}:{event['id']}\n".encode())
            if refused is None:
                self.events[event["id"]] = event
        stream.uncommitted.clear()
        if stream.holder is not None:
            stream.holder.send({"type": "ack", "payload": {"streamId": stream.stream_id, "seq": stream.committed}})

    def _on_streamEnd(self, peer: Peer, message: Message, said: Message) -> None:
        assert peer.stream is not None
        stream = self.streams.setdefault(peer.stream.stream_id, peer.stream)
        if said["lastSeq"] > stream.committed:
            peer.refuse("sequence_gap", message, temporary=True, seq=stream.committed + 1)
            return
        stream.is_ended = True
        peer.answer("receipt", self.receipt(stream, said), message)

    def receipt(self, stream: KnownStream, said: Message) -> Message:
        digest = stream.digest.hexdigest()
        return {
            "streamId": stream.stream_id,
            "lastSeq": stream.committed,
            "accepted": stream.accepted,
            "refused": stream.refused,
            "duplicates": stream.duplicates,
            "digest": digest,
            "complete": said["lastSeq"] == stream.committed and said["digest"] == digest,
        }

    def _on_endTestRun(self, peer: Peer, message: Message, said: Message) -> None:
        self.ended.append(said["runId"])
        peer.answer("testRunEnded", self.status(said["runId"]), message)

    def status(self, run_id: str) -> Message:
        return {"runId": run_id, "status": "passed" if run_id in self.ended else "running", "events": len(self.events)}
