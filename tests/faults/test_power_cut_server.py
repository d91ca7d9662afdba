"""A power cut under the whole server: what an answer or an `ack` that has left it speaks of is in the log (P1, P2, P3, P8)."""

import json
import random
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from faults.broken_store import install_broken_store
from faults.hosted_store import DATABASE
from faults.power_cut_recording import strace_command
from faults.power_cut_replay import check_cuts, read_record, require_strace
from whole_support import PlainClient

from testorch_core.verifying import run_ids, verify_project, verify_run

pytestmark = pytest.mark.slow(reason="records a server and opens many databases")

RUN = "r"
STREAM = "s"
SECONDS = 120
ANSWERED = re.compile(rb'"type":"runStatus".*"inReplyTo":"question-(\d+)"')
ACKNOWLEDGED = re.compile(rb'"type":"ack","payload":\{"streamId":"s","seq":(\d+)\}')


@pytest.fixture(autouse=True)
def strace():
    require_strace()


@dataclass
class Sent:
    """What the clients sent: ids in order, and how many plain ones stood before each question."""

    plain: list[str] = field(default_factory=list)
    before_question: list[int] = field(default_factory=list)
    stream: list[str] = field(default_factory=list)

    def acknowledged_by(self, told):
        questions = [int(text.split()[1]) for text in told if text.startswith(b"question")]
        seqs = [int(text.split()[1]) for text in told if text.startswith(b"ack")]
        plain = self.plain[: max((self.before_question[number] for number in questions), default=0)]
        return {*plain, *self.stream[: max(seqs, default=0)]}


def told(text):
    """Answers and acknowledgements in what was sent to a socket; the server's frames are not masked."""
    return [b"question %s" % one for one in ANSWERED.findall(text)] + [
        b"ack %s" % one for one in ACKNOWLEDGED.findall(text)
    ]


@contextmanager
def recorded_server(folder, record, *arguments):
    """`testorch serve` under strace; yields its address. It is stopped at the end, and the record complete."""
    command = [sys.executable, "-m", "testorch_core.cli", "serve", "--db", str(folder / DATABASE), *arguments]
    tracer, *options = strace_command(record)
    # With -D the process is the server, and strace its child; standard error ends when both have.
    with subprocess.Popen(
        [tracer, "-D", *options, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            first = server.stderr.readline()
            address = re.search(r"ws://[^\s,]+", first)
            assert address, first
            yield address[0]
            server.send_signal(signal.SIGTERM)
            rest = server.stderr.read()
            assert server.wait(SECONDS) == 0, rest
        finally:
            server.kill()


def plain_client(address, sent, *, rounds, chance):
    with PlainClient(address) as client:
        client.ask("startTestRun", {"runId": RUN})
        for number in range(rounds):
            for step in range(chance.randint(1, 10)):
                sent.plain.append(f"p{number}-{step}")
                client.event(sent.plain[-1], "test/end", testId=sent.plain[-1], status="passed", output=output(chance))
            sent.before_question.append(len(sent.plain))
            client.socket.send(
                json.dumps({"type": "getRunStatus", "payload": {"runId": RUN}, "id": f"question-{number}"})
            )
            answer = client.receive()
            assert answer["type"] == "runStatus", answer
        client.ask("endTestRun", {"runId": RUN})


def stream_client(address, sent, *, rounds, chance):
    with PlainClient(address) as client:
        assert client.ask("hello", {"streamId": STREAM, "runId": RUN})["ackedSeq"] == 0
        for number in range(rounds):
            first = len(sent.stream) + 1
            sent.stream += [f"s{number}-{step}" for step in range(chance.randint(1, 10))]
            events = [
                {"id": one, "seq": seq, "type": "test/end", "timestamp": 1, "payload": {"testId": one, "status": "failed", "output": output(chance)}}
                for seq, one in enumerate(sent.stream[first - 1 :], start=first)
            ]  # fmt: skip
            client.send("events", {"events": events})
            answer = client.receive()
            while answer["payload"]["seq"] < len(sent.stream):
                assert answer["type"] == "ack", answer
                answer = client.receive()
        client.send("streamEnd", {"lastSeq": len(sent.stream)})
        while answer["type"] != "receipt":
            answer = client.receive()
        assert answer["payload"]["complete"] is True


def output(chance):
    """Mostly short, and now and then what takes several pages even when it is compressed."""
    return chance.randbytes(chance.choice([5, 5, 5, 500, 8_000])).hex()


def stored_is(sent):
    """A check: acknowledged ⊆ stored ⊆ sent, once each and in order, and the state is the fold of the log."""

    async def check(store, told):
        found = await store.read("default", after=0, limit=10**6)
        stored = [event.id for batch in found for event in batch.events() if event.type == "test/end"]
        assert len(stored) == len(set(stored)), "nothing is stored twice"
        missing = sent.acknowledged_by(told) - set(stored)
        assert not missing, f"acknowledged were {sorted(missing)[:5]}, which are not there"
        for ids in (sent.plain, sent.stream):
            theirs = set(ids)
            kept = [one for one in stored if one in theirs]
            assert kept == ids[: len(kept)], "what is there is the beginning of what was sent"
        assert set(stored) <= {*sent.plain, *sent.stream}
        verdicts = [await verify_run(store, *address) for address in await run_ids(store, None)]
        verdicts += [await verify_project(store, project) for project in await store.heads()]
        assert not [verdict.differences for verdict in verdicts if not verdict.is_clean]

    return check


async def survive_cuts(folder, arguments, *, seed, rounds, at_most, shuffled):
    sent = Sent()
    place, record = folder / "server", folder / "record"
    place.mkdir()
    with recorded_server(place, record, *arguments) as address:
        clients = [
            threading.Thread(
                target=one, args=(address, sent), kwargs={"rounds": rounds, "chance": random.Random(seed + number)}
            )
            for number, one in enumerate((plain_client, stream_client))
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join(SECONDS)
    recorded = read_record(record, place, told=told)
    everything = recorded.told_before(len(recorded.operations))
    assert sent.acknowledged_by(everything) == {*sent.plain, *sent.stream}, "every answer was seen to leave"
    images = await check_cuts(recorded, stored_is(sent), seed=seed, at_most=at_most, shuffled=shuffled)
    assert images > at_most
    return recorded


async def test_after_a_power_cut_the_log_has_all_that_answers_and_acks_spoke_of(tmp_path):
    await survive_cuts(tmp_path, ["--port", "0"], seed=1, rounds=12, at_most=15, shuffled=1)


NOT_SYNCING = '''
"""A store whose commits are not synced."""
from testorch_plugins.storage.sqlite import plugin

assert "synchronous=FULL" in plugin.PRAGMAS
plugin.PRAGMAS = tuple("synchronous=OFF" if one == "synchronous=FULL" else one for one in plugin.PRAGMAS)

class BrokenStore(plugin.SqliteStore):
    pass
'''

EARLY = '''
"""A store that says "committed" when it has only taken a note; it writes before it is read, but no sooner."""
from testorch_plugins.storage.sqlite.plugin import SqliteStore

class BrokenStore(SqliteStore):
    waiting = None

    async def append(self, commit):
        self.waiting = [*(self.waiting or ()), commit]
        if len(self.waiting) >= 4:
            await self.flush()

    async def flush(self):
        while self.waiting:
            await super().append(self.waiting.pop(0))

    async def aclose(self):
        await self.flush()
        await super().aclose()
'''


@pytest.mark.parametrize("source", [NOT_SYNCING, EARLY], ids=["not syncing", "early"])
async def test_a_server_whose_answers_and_acks_are_not_durable_is_caught(tmp_path, monkeypatch, source):
    arguments = install_broken_store(tmp_path, monkeypatch, source)
    with pytest.raises(AssertionError, match=r"acknowledged were|can't be read any more|malformed"):
        await survive_cuts(tmp_path, arguments, seed=1, rounds=15, at_most=40, shuffled=1)


@pytest.mark.usefixtures("long_faults")
@pytest.mark.parametrize("attempt", range(2))
async def test_after_any_power_cut_the_log_has_all_that_answers_and_acks_spoke_of(tmp_path, attempt):
    seed = random.SystemRandom().randrange(10**9)
    recorded = await survive_cuts(tmp_path, ["--port", "0"], seed=seed, rounds=100, at_most=60, shuffled=3)
    assert recorded.checkpoints > 0
