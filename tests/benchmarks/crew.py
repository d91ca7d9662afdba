"""Work in processes of their own, step by step: everybody gets ready, then all start, then all finish."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from benchmarks.failures import FailedRunError, NotSupportedError

Work = Callable[[Connection], Iterator[Any]]
"""A generator function: what it yields goes to the parent, which says when it goes on. It gets its end of the pipe, so
that it can notice (`poll`) that it was told to go on while it is busy."""

PATIENCE_SECONDS = 600.0
_GO_ON, _END = "go on", "end"


class Crew:
    """Forked processes, each of which runs one `Work`. Forked, so that scripts made before are shared and not copied."""

    def __init__(self, works: Sequence[Work]) -> None:
        context = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        self._processes = []
        for work in works:
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            self._processes.append(context.Process(target=_run, args=(work, theirs), daemon=True))

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            # Said and not shown by closing the pipe: a forked worker has a copy of this end, and would never notice.
            with suppress(OSError):  # it has ended already
                pipe.send(_END)
            process.join(5 if failure is None else 0.1)
            process.kill()
            process.join()
            pipe.close()

    def step(self) -> list[Any]:
        """Let everybody go on to the next `yield`; returns what they yield."""
        self.tell()
        return self.hear()

    def tell(self) -> None:
        """Let everybody go on."""
        for pipe in self._pipes:
            pipe.send(_GO_ON)

    def signal(self, number: int) -> None:
        """Send everybody a signal; one who was killed says nothing any more."""
        for process in self._processes:
            assert process.pid is not None, "it has been started"
            os.kill(process.pid, number)

    def hear(self) -> list[Any]:
        """What everybody yields next. Raises what they raised."""
        return [_heard(pipe) for pipe in self._pipes]


def _heard(pipe: Connection) -> Any:
    if not pipe.poll(PATIENCE_SECONDS):
        raise FailedRunError(f"a load generator said nothing for {PATIENCE_SECONDS:.0f} s")
    try:
        outcome, said = pipe.recv()
    except EOFError:
        raise FailedRunError("a load generator died") from None
    if outcome == "unsupported":
        raise NotSupportedError(said)
    if outcome == "failed":
        raise FailedRunError(said)
    return said


def _run(work: Work, pipe: Connection) -> None:
    try:
        steps = work(pipe)
        while pipe.recv() == _GO_ON:
            pipe.send(("said", next(steps, None)))
    except NotSupportedError as reason:
        pipe.send(("unsupported", str(reason)))
    except FailedRunError as failure:
        pipe.send(("failed", str(failure)))
    except Exception:  # whatever it is, the parent must hear of it: it waits
        pipe.send(("failed", traceback.format_exc()))
