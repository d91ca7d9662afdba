"""System calls as strace writes them, turned into the operations of one folder's files. Pure, but for `strace_command`."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faults.power_cut_disk import Create, FailedSync, Operation, Remove, Rename, Resize, Sync, SyncFolder, Told, Write

FILE_CALLS = (
    "open", "openat", "creat", "write", "pwrite64", "lseek", "ftruncate", "truncate", "fallocate",
    "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat",
)  # fmt: skip
SOCKET_CALLS = ("sendto", "sendmsg")
UNKNOWN_CALLS = ("writev", "pwritev", "pwritev2", "copy_file_range", "sendfile", "sync_file_range", "link", "linkat")
"""Calls that would change a file in a way that is not read here; one on a file of the folder is an error."""


def strace_command(record: Path, *, faults: Sequence[str] = ()) -> list[str]:
    """What to put before a command, so that its system calls, and those of its threads, are written to `record`.

    `faults` are injected into all of them, in strace's words (`fdatasync:error=EIO:when=2`).
    """
    calls = ",".join(FILE_CALLS + SOCKET_CALLS + UNKNOWN_CALLS)
    every = ["-f", "--seccomp-bpf", "-qq", "-y", "-xx", "-s", str(1 << 26), "-e", "signal=none"]
    every += [word for fault in faults for word in ("-e", f"inject={fault}")]
    return ["strace", *every, "-e", f"trace=?{calls.replace(',', ',?')}", "-o", str(record)]


class UnreadableRecordError(Exception):
    """The record holds a call that could have changed a file and isn't understood."""


@dataclass(slots=True)
class _Call:
    """One system call: its arguments as text, what it returned (None if it never did), and when it began and ended."""

    name: str
    arguments: str
    result: int | None
    began: int
    ended: int


_LINE = re.compile(r"^(\d+)\s+(.*)$")
_WHOLE = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+|\?)(.*)$")
_BEGUN = re.compile(r"^(\w+)\((.*?)\s*<unfinished \.\.\.>$")
_RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
_HANDLE = re.compile(r"^(?:AT_FDCWD|(\d+))(?:<([^>]*)>(\(deleted\))?)?$")


def _calls(lines: Iterable[str]) -> list[_Call]:
    """The calls in the order in which they began; one that another thread's cut in two is put together."""
    calls: list[_Call] = []
    open_calls: dict[str, _Call] = {}
    for at, line in enumerate(lines):
        told = _LINE.match(line)
        if told is None:
            raise UnreadableRecordError(line[:200])
        thread, rest = told.groups()
        if begun := _BEGUN.match(rest):
            open_calls[thread] = _Call(begun[1], begun[2], None, at, at)
            calls.append(open_calls[thread])
        elif resumed := _RESUMED.match(rest):
            call = open_calls.pop(thread)
            if whole := _WHOLE.match(f"{call.name}({call.arguments}{resumed[2]}"):
                call.arguments, call.result, call.ended = whole[2], _number(whole[3]), at
        elif whole := _WHOLE.match(rest):
            calls.append(_Call(whole[1], whole[2], _number(whole[3]), at, at))
        elif not rest.startswith(("+++", "---")):
            raise UnreadableRecordError(line[:200])
    return calls


def _number(result: str) -> int | None:
    return None if result == "?" else int(result)


def _text(quoted: str) -> bytes:
    r"""What stands between `"` as `\x61\x62`, or between `<` and `>`."""
    return bytes.fromhex(quoted.strip('"<>').replace("\\x", ""))


class _Reader:
    """Collects operations with the line at which each took its place in the order of things."""

    def __init__(self, folder: Path, told: Callable[[bytes], Sequence[bytes]]) -> None:
        self._folder = folder
        self._told = told
        self._sizes: dict[str, int] = {}
        self._at: dict[str, int] = {}
        self.found: list[tuple[int, Operation, int]] = []

    def read(self, call: _Call) -> None:
        """Take a call in. One that failed changed nothing; one that never returned may have changed all it could."""
        is_sync = call.name in ("fsync", "fdatasync")
        if call.result is not None and call.result < 0 and not is_sync:
            return
        parts = _split(call.arguments)
        if call.name in ("open", "openat", "creat"):
            self._open(call, parts)
        elif call.name in ("unlink", "unlinkat", "rename", "renameat", "renameat2"):
            self._names(call, parts)
        elif call.name not in ("truncate", "link", "linkat"):
            self._handle(call, parts)
        elif any(self._name(_text(part).decode()) for part in parts if part.startswith('"')):
            raise UnreadableRecordError(f"{call.name}({call.arguments[:200]})")

    def _open(self, call: _Call, parts: Sequence[str]) -> None:
        path = next(part for part in parts if part.startswith('"'))
        name = self._name(_text(path).decode())
        if name is None or call.result is None:
            return
        self._at[f"{call.result}"] = 0
        if name not in self._sizes and (call.name == "creat" or "O_CREAT" in call.arguments):
            self._sizes[name] = 0
            self._note(call.began, Create(name))
        elif call.name == "creat" or "O_TRUNC" in call.arguments:
            self._resize(call, name, 0)

    def _names(self, call: _Call, parts: Sequence[str]) -> None:
        names = [self._name(_text(part).decode()) for part in parts if part.startswith('"')]
        if names[0] is None or names[0] not in self._sizes:
            return
        size = self._sizes.pop(names[0])
        if call.name.startswith("unlink"):
            self._note(call.began, Remove(names[0]))
        elif names[1] is None:
            raise UnreadableRecordError(f"{call.name}({call.arguments[:200]})")
        else:
            self._sizes[names[1]] = size
            self._note(call.began, Rename(names[0], names[1]))

    def _handle(self, call: _Call, parts: Sequence[str]) -> None:
        handle = _HANDLE.match(parts[0])
        if handle is None or handle[2] is None or handle[3]:
            return
        path = _text(handle[2]).decode()
        name = self._name(path)
        if name is not None and name in self._sizes:
            self._file(call, name, parts)
        elif path == str(self._folder) and call.name in ("fsync", "fdatasync") and call.result == 0:
            self._note(call.ended, SyncFolder(call.began))
        elif name is None and call.name in ("write", *SOCKET_CALLS):
            for text in self._told(b"".join(_text(part) for part in re.findall(r'"([^"]*)"', call.arguments))):
                self._note(call.began, Told(text))

    def _file(self, call: _Call, name: str, parts: Sequence[str]) -> None:
        handle = parts[0].split("<")[0]
        if call.name in ("fsync", "fdatasync"):
            if call.result is not None:
                done = Sync if call.result == 0 else FailedSync
                self._note(call.ended, done(name, call.began))
        elif call.name == "lseek":
            self._at[handle] = call.result or 0
        elif call.name == "pwrite64":
            self._write(call, name, int(parts[3]), _text(parts[1]))
        elif call.name == "write":
            self._at[handle] = self._write(call, name, self._at[handle], _text(parts[1]))
        elif call.name == "ftruncate":
            self._resize(call, name, int(parts[1]))
        elif call.name == "fallocate" and parts[1] == "0":
            if int(parts[2]) + int(parts[3]) > self._sizes[name]:
                self._resize(call, name, int(parts[2]) + int(parts[3]))
        else:
            raise UnreadableRecordError(f"{call.name}({call.arguments[:200]})")

    def _write(self, call: _Call, name: str, offset: int, content: bytes) -> int:
        content = content if call.result is None else content[: call.result]
        self._sizes[name] = max(self._sizes[name], offset + len(content))
        self._note(call.began, Write(name, offset, content))
        return offset + len(content)

    def _resize(self, call: _Call, name: str, size: int) -> None:
        self._sizes[name] = size
        self._note(call.began, Resize(name, size))

    def _note(self, line: int, operation: Operation) -> None:
        self.found.append((line, operation, len(self.found)))

    def _name(self, path: str) -> str | None:
        """The file's name, if it lies in the folder and outlives a power cut: the shared memory file does not."""
        where = Path(path)
        return where.name if where.parent == self._folder and not where.name.endswith("-shm") else None


def _split(arguments: str) -> list[str]:
    """Arguments, of which neither strings nor paths hold a comma, because strace writes them in hexadecimal."""
    return [part.strip() for part in arguments.split(",")]


def operations_of(lines: Iterable[str], folder: Path, *, told: Callable[[bytes], Sequence[bytes]]) -> list[Operation]:
    """What happened to the files of the folder, and what was told to the outside, in order.

    `told` finds what counts as told in the bytes of one write to anything that is not a file of the folder. Raises
    `UnreadableRecordError` for a change that this module doesn't know, rather than pass it over.
    """
    reader = _Reader(folder, told)
    for call in _calls(lines):
        reader.read(call)
    # A write may take place as soon as it begins, a message leave then; a sync is done only when it has returned.
    in_order = sorted(reader.found, key=lambda one: (one[0], one[2]))
    lines_of = [line for line, _, _ in in_order]
    return [_placed(operation, lines_of) for _, operation, _ in in_order]


def _placed(operation: Operation, lines: Sequence[int]) -> Operation:
    """A sync speaks for operations by their index, not by the line of the record."""
    if isinstance(operation, Sync | FailedSync):
        return replace(operation, begun=bisect_left(lines, operation.begun))
    if isinstance(operation, SyncFolder):
        return replace(operation, begun=bisect_left(lines, operation.begun))
    return operation
