"""A disk that loses power: what recorded file operations can leave behind when they end at some point. Pure.

The model is harsher than any file system in use. Until a file is synced, each of its writes and changes of size may be
there or not, in any combination, in part (by sectors), or as zeros; until its folder is synced, a file may be missing
under its name, or be there though it was removed. What has been synced stays.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

SECTOR_BYTES = 512
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Write:
    """`content` was written to the file `name` at `offset`."""

    name: str
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """The file was cut back or extended with zeros."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Create:
    """A file that was not there was made under this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Remove:
    """The name was taken away."""

    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    """The file got another name; one that was there under it is gone."""

    name: str
    to: str


@dataclass(frozen=True, slots=True)
class Sync:
    """A sync of the file has returned. It speaks for the operations before `begun`, its index when it was called."""

    name: str
    begun: int


@dataclass(frozen=True, slots=True)
class SyncFolder:
    """A sync of the folder has returned; see `Sync`."""

    begun: int


@dataclass(frozen=True, slots=True)
class FailedSync:
    """A sync of the file has failed; see `Sync`. What it was to save may have been given up, whatever later syncs say."""

    name: str
    begun: int


@dataclass(frozen=True, slots=True)
class Told:
    """The outside world was told something, such as an acknowledgement."""

    text: bytes


Operation = Write | Resize | Create | Remove | Rename | Sync | SyncFolder | FailedSync | Told
Image = dict[str, bytes]
"""File names and contents, as they are found after the power is back."""


_Numbered = tuple[int, Write | Resize]
"""A change with its operation's index."""


@dataclass(slots=True)
class _File:
    """One file, whatever its name: what is safe, and what has happened since."""

    safe: bytearray = field(default_factory=bytearray)
    loose: list[_Numbered] = field(default_factory=list)


_Kept = Callable[[_File], Sequence[_Numbered]]
_Tear = Callable[[Write], Sequence[Write]]


class Disk:
    """Takes operations one by one; `images` are what a power cut could leave now.

    What a failed sync was to save never reaches the disk if `gives_up` (Linux marks the pages as clean, so that no later
    sync tries them again); else it stays unsynced.
    """

    def __init__(self, *, gives_up: bool = False) -> None:
        self._gives_up = gives_up
        self._files: list[_File] = []
        self._safe_names: dict[str, int] = {}
        self._loose_names: list[tuple[int, dict[str, int]]] = []
        self._names: dict[str, int] = {}
        self._count = 0

    def apply(self, operation: Operation) -> None:
        """Take the next operation. Raises `KeyError` for one on a file of which the disk knows nothing."""
        index = self._count
        self._count += 1
        match operation:
            case Write() | Resize():
                self._files[self._names[operation.name]].loose.append((index, operation))
            case Create():
                self._files.append(_File())
                self._rename(index, self._names | {operation.name: len(self._files) - 1})
            case Remove():
                self._rename(index, {name: file for name, file in self._names.items() if name != operation.name})
            case Rename():
                names = dict(self._names)
                names[operation.to] = names.pop(operation.name)
                self._rename(index, names)
            case Sync():
                file = self._files[self._names[operation.name]]
                for before, change in file.loose:
                    if before < operation.begun:
                        _change(file.safe, change)
                file.loose = [one for one in file.loose if one[0] >= operation.begun]
            case FailedSync():
                if self._gives_up:
                    file = self._files[self._names[operation.name]]
                    file.loose = [one for one in file.loose if one[0] >= operation.begun or isinstance(one[1], Resize)]
            case SyncFolder():
                for before, names in self._loose_names:
                    if before < operation.begun:
                        self._safe_names = names
                self._loose_names = [one for one in self._loose_names if one[0] >= operation.begun]
            case Told():
                pass

    def _rename(self, index: int, names: dict[str, int]) -> None:
        self._names = names
        self._loose_names.append((index, names))

    @property
    def at_stake(self) -> int:
        """How many changes are not safe yet."""
        return sum(len(file.loose) for file in self._files) + len(self._loose_names)

    def images(self, chance: random.Random, *, shuffled: int) -> Iterator[tuple[str, Image]]:
        """Named images: the simple cases first, then so many at random."""
        yield "all of it kept", self._image(self._names, lambda file: file.loose)
        if not self.at_stake:
            return
        yield "all that was not synced lost", self._image(self._safe_names, lambda file: [])
        yield "contents lost, names kept", self._image(self._names, lambda file: [])
        yield "names lost, contents kept", self._image(self._safe_names, lambda file: file.loose)
        yield "the last write halved", self._torn_at_the_end(lambda write: [_first_half(write)])
        for size in (SECTOR_BYTES, PAGE_BYTES):
            torn = self._torn_at_the_end(partial(_some_blocks, size=size, chance=chance))
            yield f"the last write torn at {size} bytes", torn
        for _ in range(shuffled):
            names = chance.choice([self._safe_names, *(names for _, names in self._loose_names)])
            yield "any of it kept", self._image(names, lambda file: list(_some(file.loose, chance)))

    def _image(self, names: dict[str, int], kept: _Kept) -> Image:
        image: Image = {}
        for name, number in names.items():
            content = bytearray(self._files[number].safe)
            for _, change in kept(self._files[number]):
                _change(content, change)
            image[name] = bytes(content)
        return image

    def _torn_at_the_end(self, tear: _Tear) -> Image:
        last = max((index for file in self._files for index, change in file.loose), default=-1)

        def kept(file: _File) -> list[_Numbered]:
            found: list[_Numbered] = []
            for index, change in file.loose:
                torn = tear(change) if index == last and isinstance(change, Write) else [change]
                found += [(index, part) for part in torn]
            return found

        return self._image(self._names, kept)


def _change(content: bytearray, change: Write | Resize) -> None:
    end = change.size if isinstance(change, Resize) else change.offset + len(change.content)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if isinstance(change, Resize):
        del content[end:]
    else:
        content[change.offset : end] = change.content


def _some(loose: Sequence[_Numbered], chance: random.Random) -> Iterator[_Numbered]:
    """Any of the changes, in order; the rest is lost, torn, or only the size of the file has been kept."""
    for index, change in loose:
        fate = chance.random()
        if fate < 0.5:
            yield index, change
        elif isinstance(change, Resize):
            continue
        elif fate < 0.7:
            yield from ((index, part) for part in _some_blocks(change, size=SECTOR_BYTES, chance=chance))
        elif fate < 0.8:
            yield index, _only_the_size(change)


def _first_half(write: Write) -> Write:
    return Write(write.name, write.offset, write.content[: len(write.content) // 2])


def _only_the_size(write: Write) -> Write:
    """An empty write at the end: where the file was shorter, zeros are what is found there."""
    return Write(write.name, write.offset + len(write.content), b"")


def _some_blocks(write: Write, *, size: int, chance: random.Random) -> list[Write]:
    """The blocks of the disk that the write touches, of which only some were written; never all, unless there is one."""
    start, end = write.offset, write.offset + len(write.content)
    cuts = [start, *range((start // size + 1) * size, end, size), end]
    blocks = [Write(write.name, at, write.content[at - start : to - start]) for at, to in pairwise(cuts)]
    return sorted(chance.sample(blocks, chance.randrange(len(blocks))), key=lambda block: block.offset)


def replay(
    operations: Sequence[Operation], cuts: Sequence[int], *, gives_up: bool = False
) -> Iterator[tuple[int, Disk]]:
    """The disk as it stands before each of the operations that `cuts` names (its own length is the end); rising."""
    disk = Disk(gives_up=gives_up)
    wanted = set(cuts)
    for index, operation in enumerate(operations):
        if index in wanted:
            yield index, disk
        disk.apply(operation)
    if len(operations) in wanted:
        yield len(operations), disk
