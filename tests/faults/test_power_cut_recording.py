"""Reading what strace has written."""

from pathlib import Path

import pytest
from faults.power_cut_disk import Create, FailedSync, Remove, Rename, Resize, Sync, SyncFolder, Told, Write
from faults.power_cut_recording import UnreadableRecordError, operations_of

FOLDER = Path("/f")


def hexadecimal(text):
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def handle(number, path):
    return f"{number}<{hexadecimal(path)}>"


def quoted(text):
    return f'"{hexadecimal(text)}"'


def opening(name, flags="O_RDWR|O_CREAT|O_CLOEXEC", number=3, thread=1):
    return f"{thread} openat(AT_FDCWD, {quoted(name)}, {flags}, 0644) = {handle(number, name)}"


DB = handle(3, "/f/db")
OPENED = opening("/f/db")


def read(*lines, told=lambda text: ()):
    return operations_of(lines, FOLDER, told=told)


def test_files_are_made_written_resized_synced_and_renamed():
    assert read(
        OPENED,
        f"1 pwrite64({DB}, {quoted('abc')}, 3, 7) = 3",
        f"1 ftruncate({DB}, 5) = 0",
        f"1 fdatasync({DB}) = 0",
        f"1 fsync({handle(4, '/f')}) = 0",
        f"1 rename({quoted('/f/db')}, {quoted('/f/new')}) = 0",
        f"1 unlink({quoted('/f/new')}) = 0",
        "1 +++ exited with 0 +++",
    ) == [
        Create("db"),
        Write("db", 7, b"abc"),
        Resize("db", 5),
        Sync("db", 3),
        SyncFolder(4),
        Rename("db", "new"),
        Remove("new"),
    ]


def test_a_file_that_was_there_is_made_once_and_emptied_by_truncation():
    assert read(OPENED, OPENED, opening("/f/db", "O_WRONLY|O_TRUNC")) == [Create("db"), Resize("db", 0)]


def test_a_write_without_an_offset_goes_where_the_last_one_or_a_seek_ended():
    lines = (f"1 write({DB}, {quoted('ab')}, 2) = 2", f"1 write({DB}, {quoted('c')}, 1) = 1")
    seek = f"1 lseek({DB}, 9, SEEK_SET) = 9"
    assert read(OPENED, *lines, seek, lines[1])[1:] == [
        Write("db", 0, b"ab"),
        Write("db", 2, b"c"),
        Write("db", 9, b"c"),
    ]


def test_a_short_write_counts_as_far_as_it_went_and_a_failed_one_not_at_all():
    lines = (
        f"1 pwrite64({DB}, {quoted('abc')}, 3, 0) = 2",
        f"1 pwrite64({DB}, {quoted('abc')}, 3, 0) = -1 ENOSPC (No space left on device)",
    )
    assert read(OPENED, *lines)[1:] == [Write("db", 0, b"ab")]


def test_a_failed_sync_is_told_from_a_good_one():
    assert read(OPENED, f"1 fdatasync({DB}) = -1 EIO (Input/output error) (INJECTED)")[1:] == [FailedSync("db", 1)]


def test_a_write_takes_its_place_when_it_begins_and_a_sync_when_it_has_returned():
    """Two threads: what was written while a sync was under way is not what it speaks for."""
    assert read(
        OPENED,
        f"1 fdatasync({DB} <unfinished ...>",
        f"2 pwrite64({DB}, {quoted('a')}, 1, 0 <unfinished ...>",
        "1 <... fdatasync resumed>) = 0",
        "2 <... pwrite64 resumed>) = 1",
    )[1:] == [Write("db", 0, b"a"), Sync("db", 1)]


def test_a_call_that_never_returned_may_have_written_and_has_not_synced():
    lines = (f"1 fdatasync({DB} <unfinished ...>", f"2 pwrite64({DB}, {quoted('a')}, 1, 0 <unfinished ...>")
    assert read(OPENED, *lines)[1:] == [Write("db", 0, b"a")]


def test_files_elsewhere_deleted_ones_and_the_shared_memory_file_are_left_out():
    gone = f"{DB}(deleted)"
    lines = (opening("/g/db"), opening("/f/db-shm"), f"1 pwrite64({gone}, {quoted('a')}, 1, 0) = 1")
    assert read(OPENED, *lines) == [Create("db")]


def test_what_is_told_is_found_in_writes_to_anything_that_is_not_a_file_of_the_folder():
    lines = (
        f"1 write({handle(1, 'pipe:[7]')}, {quoted('ack 1')}, 5) = 5",
        f"1 sendto({handle(9, 'socket:[8]')}, {quoted('ack 2')}, 5, MSG_NOSIGNAL, NULL, 0) = 5",
        f"1 sendmsg({handle(9, 'socket:[8]')}, {{msg_name=NULL, msg_iov=[{{iov_base={quoted('ack 3')}, iov_len=5}}]}}, 0) = 5",
        f"1 write({DB}, {quoted('ack 4')}, 5) = 5",
    )
    found = read(OPENED, *lines, told=lambda text: [text] if text.startswith(b"ack") else [])
    assert found[1:] == [Told(b"ack 1"), Told(b"ack 2"), Told(b"ack 3"), Write("db", 0, b"ack 4")]


@pytest.mark.parametrize(
    "line",
    [
        f"1 pwritev({DB}, [{{iov_base={quoted('a')}, iov_len=1}}], 1, 0) = 1",
        f"1 link({quoted('/f/db')}, {quoted('/g/db')}) = 0",
        f"1 fallocate({DB}, FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE, 0, 4096) = 0",
        "what is this",
    ],
)
def test_what_is_not_understood_is_an_error_rather_than_passed_over(line):
    with pytest.raises(UnreadableRecordError):
        read(OPENED, line)
