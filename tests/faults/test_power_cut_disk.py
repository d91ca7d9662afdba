"""The simulated disk of the power-cut harness."""

import random

import pytest
from faults.power_cut_disk import (
    Create,
    Disk,
    FailedSync,
    Remove,
    Rename,
    Resize,
    Sync,
    SyncFolder,
    Told,
    Write,
    replay,
)

A = Create("a")


def disk_after(*operations):
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    return disk


def images_of(*operations, shuffled=0, seed=1):
    return list(disk_after(*operations).images(random.Random(seed), shuffled=shuffled))


def image(name, *operations):
    return dict(images_of(*operations))[name]


LOST = "all that was not synced lost"
KEPT = "all of it kept"


def test_what_has_been_synced_stays_whatever_happens():
    synced = (A, Write("a", 0, b"safe"), Sync("a", 2), SyncFolder(3))
    for name, found in images_of(*synced, Write("a", 4, b"loose"), shuffled=50):
        assert found["a"][:4] == b"safe", name


def test_with_nothing_at_stake_there_is_one_image():
    assert images_of(A, Write("a", 0, b"x"), Sync("a", 2), SyncFolder(3)) == [(KEPT, {"a": b"x"})]


def test_a_file_whose_folder_was_not_synced_may_be_missing():
    assert image(LOST, A, Write("a", 0, b"x"), Sync("a", 2)) == {}


def test_a_write_that_was_not_synced_may_be_lost_while_the_name_stays():
    assert image(LOST, A, SyncFolder(1), Write("a", 0, b"x")) == {"a": b""}


def test_a_sync_does_not_speak_for_what_came_after_it_was_called():
    operations = (A, SyncFolder(1), Write("a", 0, b"1"), Write("a", 1, b"2"), Sync("a", 3))
    assert image(LOST, *operations) == {"a": b"1"}


def test_a_removal_that_was_not_synced_may_be_undone_with_the_content_as_it_was():
    operations = (A, Write("a", 0, b"x"), Sync("a", 2), SyncFolder(3), Remove("a"))
    assert (image(LOST, *operations), image(KEPT, *operations)) == ({"a": b"x"}, {})


def test_a_new_file_of_the_same_name_is_another_file():
    operations = (A, Write("a", 0, b"old"), Sync("a", 2), SyncFolder(3), Remove("a"), A, Write("a", 0, b"n"))
    assert (image(LOST, *operations), image(KEPT, *operations)) == ({"a": b"old"}, {"a": b"n"})


def test_a_renaming_that_was_not_synced_may_be_undone():
    operations = (A, SyncFolder(1), Rename("a", "b"))
    assert (image(LOST, *operations), image(KEPT, *operations)) == ({"a": b""}, {"b": b""})


def test_a_change_of_size_that_was_not_synced_may_be_lost():
    operations = (A, SyncFolder(1), Write("a", 0, b"four"), Sync("a", 3), Resize("a", 1))
    assert (image(LOST, *operations), image(KEPT, *operations)) == ({"a": b"four"}, {"a": b"f"})


def test_a_write_beyond_the_end_leaves_zeros_before_it():
    assert image(KEPT, A, Write("a", 2, b"x")) == {"a": b"\0\0x"}


def test_writes_between_two_syncs_are_reordered_torn_and_zeroed():
    operations = (A, SyncFolder(1), Write("a", 0, b"1" * 1024), Write("a", 1024, b"2" * 1024))
    found = {content["a"] for _, content in images_of(*operations, shuffled=200)}
    assert b"\0" * 1024 + b"2" * 1024 in found  # the later one without the earlier one
    assert b"1" * 1024 + b"\0" * 1024 in found  # the size without the content
    assert b"1" * 512 in found
    assert b"\0" * 512 + b"1" * 512 in found


def test_only_the_last_write_is_torn_where_the_image_says_so():
    operations = (A, SyncFolder(1), Write("a", 0, b"1" * 600), Write("a", 600, b"2" * 100))
    assert image("the last write halved", *operations) == {"a": b"1" * 600 + b"2" * 50}
    torn = image("the last write torn at 512 bytes", *operations)["a"]
    assert torn == b"1" * 600


def test_tearing_keeps_to_the_blocks_of_the_disk_and_not_of_the_write():
    operations = (A, SyncFolder(1), Write("a", 500, b"x" * 100))
    found = {
        content["a"][500:] for name, content in images_of(*operations, shuffled=100) if "torn" in name or "any" in name
    }
    assert b"x" * 12 in found
    assert {len(content.strip(b"\0")) for content in found} <= {0, 12, 88, 100}


@pytest.mark.parametrize(("gives_up", "left"), [(True, b"\0\0\0\0later"), (False, b"lostlater")])
def test_what_a_failed_sync_was_to_save_is_not_saved_by_a_later_one_where_the_system_has_given_it_up(gives_up, left):
    disk = Disk(gives_up=gives_up)
    for operation in (
        A,
        SyncFolder(1),
        Write("a", 0, b"lost"),
        FailedSync("a", 3),
        Write("a", 4, b"later"),
        Sync("a", 5),
    ):
        disk.apply(operation)
    assert list(disk.images(random.Random(1), shuffled=0)) == [(KEPT, {"a": left})]


def test_images_are_the_same_for_the_same_seed():
    operations = (A, Write("a", 0, b"1" * 5000), Write("a", 5000, b"2" * 5000))
    assert images_of(*operations, shuffled=20) == images_of(*operations, shuffled=20)
    assert images_of(*operations, shuffled=20) != images_of(*operations, shuffled=20, seed=2)


def test_an_operation_on_a_file_of_which_nothing_is_known_is_an_error():
    with pytest.raises(KeyError):
        disk_after(Write("a", 0, b"x"))


def test_replaying_stops_before_the_operations_that_were_asked_for():
    operations = [A, Write("a", 0, b"x"), Told(b"ack 1")]
    stakes = [(at, disk.at_stake) for at, disk in replay(operations, [0, 2, 3])]
    assert stakes == [(0, 0), (2, 2), (3, 2)]
