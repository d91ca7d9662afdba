"""The frame meter: it agrees with a WebSocket library about every stream of frames, however it is cut into pieces."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transports.wire import BINARY, CLOSE, PING, PONG, TEXT, frame
from websockets.protocol import OPEN, SERVER, Protocol

from testorch_plugins.transports.listening.frames import FrameLimits, FrameMeter, Violation, close_frame

LIMITS = FrameLimits(message_bytes=1000, fragments=20, control_frames=50)


def metered(data: bytes, limits: FrameLimits = LIMITS, *, now: float = 0.0) -> FrameMeter:
    meter = FrameMeter(limits)
    sound = meter.feed(data, now)
    assert (sound == len(data)) is (meter.violation is None)
    return meter


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"x", masked=False), 1002),
        (frame(b"x", reserved=1), 1002),
        (frame(b"x", reserved=4), 1002),
        (frame(b"x", 0x3), 1002),
        (frame(b"x", 0xB), 1002),
        (frame(b"x", 0x0), 1002),
        (frame(b"a", fin=False) + frame(b"b"), 1002),
        (frame(b"x" * 126, PING), 1002),
        (frame(b"x", PING, fin=False), 1002),
        (frame(b"x" * 1001), 1009),
        (frame(b"x" * 600, fin=False) + frame(b"x" * 401, 0x0), 1009),
        (frame(b"", fin=False) + frame(b"", 0x0, fin=False) * 20, 1009),
        (frame(b"", PING) * 51, 4429),
        (b"\x81\xff" + b"\xff" * 12, 1009),
    ],
    ids=["unmasked", "RSV1 below", "RSV1", "opcode 3", "opcode 11", "a continuation of nothing", "no continuation",
         "a long ping", "a fragmented ping", "too long", "too long in two", "too many fragments", "too many pings",
         "2^64 bytes"],
)  # fmt: skip
def test_what_may_not_pass_is_refused_by_its_header(data: bytes, code: int):
    """P7: nothing is buffered before the limit is noticed."""
    violation = metered(data).violation
    assert violation is not None
    assert violation.code == code


def test_a_frame_is_refused_by_its_first_two_bytes_where_they_say_it():
    assert metered(frame(b"x", reserved=2)[:2]).violation is not None
    assert metered(frame(b"", masked=False)).violation is not None


def test_what_came_before_the_violation_may_pass():
    good = frame(b"one") + frame(b"two")
    meter = FrameMeter(LIMITS)
    assert meter.feed(good + frame(b"x", 0x3) + frame(b"three"), 0.0) == len(good)


def test_limits_are_a_message_s_not_a_connection_s():
    assert metered((frame(b"x" * 500, fin=False) + frame(b"x" * 500, 0x0)) * 5).violation is None
    assert metered((frame(b"", fin=False) + frame(b"", 0x0, fin=False) * 18 + frame(b"", 0x0)) * 5).violation is None


def test_control_frames_are_counted_by_the_second():
    meter = FrameMeter(LIMITS)
    for second in range(5):
        assert meter.feed(frame(b"", PONG) * 50, float(second)) == 50 * 6
    assert meter.feed(frame(b"", PONG), 4.9) == 0


def test_bytes_of_an_unfinished_message_are_known():
    data = frame(b"x" * 300)
    meter = FrameMeter(LIMITS)
    meter.feed(data[:1], 0.0)
    assert meter.partial_bytes == 1
    meter.feed(data[1:108], 0.0)
    assert meter.partial_bytes == 100
    meter.feed(data[108:], 0.0)
    assert meter.partial_bytes == 0
    meter.feed(frame(b"y" * 50, fin=False), 0.0)
    assert meter.partial_bytes == 50
    meter.feed(frame(b"ping", PING), 0.0)
    assert meter.partial_bytes == 50
    meter.feed(frame(b"", 0x0), 0.0)
    assert (meter.partial_bytes, meter.begun) == (0, 2)


def test_a_close_is_seen():
    assert metered(frame(b"\x03\xe8", CLOSE)).close_seen
    assert not metered(frame(b"\x03\xe8")).close_seen


FRAMES = st.builds(
    frame,
    st.binary(max_size=6) | st.binary(min_size=120, max_size=130) | st.just(b"x" * 600),
    st.sampled_from([TEXT, TEXT, BINARY, 0x0, 0x0, PING, PONG, CLOSE, 0x3, 0xF]),
    fin=st.booleans(),
    masked=st.sampled_from([True, True, True, True, True, False]),
    reserved=st.sampled_from([0, 0, 0, 0, 0, 1, 4]),
)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 400), max_size=12))
def test_a_library_finds_fault_where_the_meter_does(frames: list[bytes], cuts: list[int]):
    data = b"".join(frames)
    meter, library = FrameMeter(LIMITS), Protocol(SERVER, state=OPEN, max_size=LIMITS.message_bytes)
    place, passed = 0, 0
    for size in [*cuts, len(data)]:
        piece = data[place : place + size]
        place += size
        if piece and meter.violation is None:
            passed += meter.feed(piece, 0.0)
    library.receive_data(data[:passed])
    closed_by_client = any(event.opcode == CLOSE for event in library.events_received())
    blamed = library.parser_exc is not None
    assert not blamed or _inside_only(library.parser_exc), "the meter let something pass"
    if meter.violation is not None and not closed_by_client and not blamed:
        library.receive_data(data[passed:])
        assert library.parser_exc is not None, f"the meter alone objects: {meter.violation}"


def _inside_only(failure: Any) -> bool:
    """What needs a look into a payload is the library's business: the code and the text of a Close."""
    words = ("close", "incomplete", "status code")
    return isinstance(failure, UnicodeDecodeError) or any(word in str(failure) for word in words)


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(1, 30), max_size=40))
def test_cutting_the_bytes_changes_nothing(frames: list[bytes], cuts: list[int]):
    data = b"".join(frames)
    whole, pieces = FrameMeter(LIMITS), FrameMeter(LIMITS)
    whole.feed(data, 0.0)
    place = 0
    for size in [*cuts, len(data)]:
        if place < len(data) and pieces.violation is None:
            pieces.feed(data[place : place + size], 0.0)
        place += size
    assert pieces.violation == whole.violation
    if whole.violation is None:
        assert (pieces.partial_bytes, pieces.begun, pieces.close_seen) == (
            whole.partial_bytes, whole.begun, whole.close_seen,
        )  # fmt: skip


def test_a_close_frame_is_never_longer_than_it_may_be():
    assert close_frame(Violation(1009, "é" * 200))[1] == 2 + 122
    assert close_frame(Violation(1000, "")) == b"\x88\x02\x03\xe8"
