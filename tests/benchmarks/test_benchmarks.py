"""The benchmark suite itself: its arithmetic, its frames, and its smallest load with every check."""

import itertools
import json
import random
import shutil
import struct
from pathlib import Path

import pytest

from benchmarks import cli
from benchmarks.failures import FailedRunError
from benchmarks.frames import PING, TEXT, FrameReader, client_frame, masked
from benchmarks.numbers import Measure, latencies_ms, percentile
from benchmarks.report import OURS, Report
from benchmarks.scripts import LAUNCH_EVENTS, LAUNCH_TESTS, TEST_ID_CHARACTERS, test_id, write_launches, write_script
from benchmarks.servers import installed_node_server


def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed():
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, percent) for percent in (0, 1, 50, 99, 99.5, 100)] == [1, 1, 50, 99, 100, 100]
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_latencies_are_shown_in_milliseconds_whatever_order_they_came_in():
    found = latencies_ms([0.004, 0.001, 0.002, 0.003])
    assert found == {"p50 ms": 2.0, "p95 ms": 4.0, "p99 ms": 4.0, "max ms": 4.0}


def test_a_measure_shows_its_median_and_how_far_its_runs_lie_apart():
    assert str(Measure((1234.5,))) == "1,234"
    assert str(Measure((3.0, 1.0, 2.0))) == "2.00 (1.00–3.00)"
    assert Measure((1.0, 2.0)).median == 1.5


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_clients_frame_is_masked_and_its_payload_can_be_read(size: int):
    payload = bytes(size % 251 for _ in range(size))
    frame = client_frame(payload)
    assert frame[0] == 0x81
    assert frame[1] & 0x80, "the mask bit is set"
    key, sent = frame[len(frame) - size - 4 :][:4], frame[len(frame) - size :]
    assert bytes(byte ^ key[index % 4] for index, byte in enumerate(sent)) == payload
    assert any(key), "a key of zeros would spare some servers the unmasking"


def test_frames_are_read_whole_wherever_the_bytes_are_cut():
    payloads = [b"", b"a" * 125, b"b" * 126, b"c" * 70_000]
    frames = b"".join(server_frame(payload) for payload in payloads) + server_frame(b"?", PING)
    dice = random.Random(5)
    for _ in range(20):
        cuts = [0, *sorted(dice.sample(range(len(frames)), 9)), len(frames)]
        reader, found = FrameReader(), []
        for start, end in itertools.pairwise(cuts):
            found += reader.feed(frames[start:end])
        assert found == [*((TEXT, payload) for payload in payloads), (PING, b"?")]


def test_a_fragment_is_an_error_and_not_a_message():
    with pytest.raises(ValueError, match="fragment"):
        FrameReader().feed(b"\x01\x01a")


def server_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x80 | opcode, size) + payload
    kind, width = ("!BBH", 126) if size < 65_536 else ("!BBQ", 127)
    return struct.pack(kind, 0x80 | opcode, width, size) + payload


@pytest.mark.parametrize("batch", [1, 7])
def test_a_script_knows_what_the_server_must_answer_wherever_it_was_stopped(batch: int):
    script = write_script(43, batch=batch)
    assert (script.events, len(script.ends)) == (43, -(-43 // batch))
    assert script.messages_within(0) == 0
    assert script.messages_within(script.ends[0]) == 1
    assert script.messages_within(script.ends[0] + 1) == 2, "a message that is under way counts"
    assert script.events_in(len(script.ends)) == 43
    sent = [event for payload in sent_by(script.frames) for event in events_of(payload)]
    assert [event["seq"] for event in sent] == list(range(1, 44))
    assert [event["id"] for event in sent] == list(script.ids)
    for count in (1, 20, 43):
        started = {one["payload"]["testId"] for one in sent[:count] if one["type"] == "test/start"}
        ended = [one["payload"]["status"] for one in sent[:count] if one["type"] == "test/end"]
        counts = {status: ended.count(status) for status in set(ended)} | {"interrupted": len(started) - len(ended)}
        assert script.counts(count) == {"total": len(started), **{key: one for key, one in counts.items() if one}}


def sent_by(frames: bytes) -> list[bytes]:
    """The payloads of masked frames."""
    payloads = []
    while frames:
        size, head = frames[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, head = int.from_bytes(frames[2 : 2 + width], "big"), 2 + width
        payloads.append(masked(frames[head + 4 : head + 4 + size]))
        frames = frames[head + 4 + size :]
    return payloads


def events_of(payload: bytes) -> list[dict]:
    message = json.loads(payload)
    return [message["payload"]] if message["type"] == "event" else message["payload"]["events"]


def test_ids_have_eighty_characters_and_a_launch_has_reportportals_numbers():
    assert len(test_id(0, 0)) == len(test_id(63, 9_999_999)) == TEST_ID_CHARACTERS
    script = write_launches(2, batch=4, origin=0)
    assert (script.events, script.counts(script.events)["total"]) == (2 * LAUNCH_EVENTS, 2 * LAUNCH_TESTS)


def test_ratios_pair_repetitions_that_were_measured_side_by_side():
    report = Report({"CPU": "x"}, {})
    report.row("ingest", "a", OURS).add({"events/s": 100.0})
    report.row("ingest", "a", "Node").add({"events/s": 50.0})
    report.row("ingest", "a", OURS).add({"events/s": 30.0})
    report.row("ingest", "a", "Node").add({"events/s": 60.0})
    [ratio] = report.ratios()
    assert (ratio["case"], ratio["to"], ratio["runs"]) == ("a", "Node", [2.0, 0.5])
    assert "CPU  x" in report.text()
    assert "65.0 (30.0–100)" in report.text()


@pytest.mark.slow(reason="starts servers; may install the Node server's packages")
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js and npm")
def test_the_smallest_load_passes_every_check_on_every_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    try:
        installed_node_server()
    except FailedRunError as failure:
        pytest.skip(f"the Node server's packages can't be installed: {failure}")
    path = tmp_path / "benchmarks.json"
    chosen = ["--quick", "--only", "ingest", "--loads", "1 a message, 8", "--seconds", "0.2", "--folder", str(tmp_path)]
    cli.main([*chosen, "--json", str(path)])
    found = json.loads(path.read_text())
    rows = {row["server"]: row for row in found["rows"]}
    assert set(rows) == {OURS, "Node, group commit", "Node, commit an event"}
    for row in rows.values():
        assert (row["benchmark"], row["case"]) == ("ingest", "1 a message, 8 connections")
        assert {"events/s", "CPU µs/event", "generator's CPU %"} <= set(row["measures"])
        assert row["measures"]["events/s"]["median"] > 0
    assert [one["to"] for one in found["ratios"]] == ["Node, group commit", "Node, commit an event"]
    assert found["leftOut"] == []
    shown = capsys.readouterr().out
    assert "file system" in shown
    assert "testorch's events/s by another server's" in shown


@pytest.mark.slow(reason="starts a server")
def test_a_server_that_loses_an_event_fails_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The checks bite: a digest over other events than were sent is no complete receipt."""
    from benchmarks.scripts import Script

    honest = Script.digest
    monkeypatch.setattr(Script, "digest", lambda self, events: honest(self, events - 1))
    chosen = ["--quick", "--no-node", "--only", "ingest", "--loads", "100 a message, 1 conn", "--seconds", "0.1"]
    with pytest.raises(SystemExit, match=r"FAILED: ingest: the receipt: .*'complete': False"):
        cli.main([*chosen, "--folder", str(tmp_path), "--json", str(tmp_path / "b.json")])
