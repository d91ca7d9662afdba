"""What every plugin has in common: options, a life, and the context that the core gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from testorch_core.errors import UsageError
from testorch_core.options import Options

if TYPE_CHECKING:  # stores are plugins, too
    from testorch_core.interfaces.storage import Documents

Job = Callable[[], Awaitable[None]]
Answer = TypeVar("Answer")


class Spawner(Protocol):
    """Starts a background task that belongs to a plugin."""

    def __call__(self, job: Job, /, *, name: str) -> None: ...


class ThreadRunner(Protocol):
    """Runs blocking work in a thread, under a limiter of the plugin's own."""

    def __call__(self, work: Callable[[], Answer], /) -> Awaitable[Answer]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the core does for one plugin instance: `documents` keeps small JSON documents of its own in the store."""

    documents: Documents


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginContext:
    """What the core offers a plugin when it starts it.

    `spawn` starts a task in a nursery that the core owns: it is cancelled when the plugin's closing is over, and an
    exception that leaves it is attributed to the plugin by name. `in_thread` runs blocking work.
    `folder` is what relative paths in options are relative to. `read_only` says that nothing may be created or written: a
    command reads beside a running server. `services` are None for a store, which starts first, and where there is no
    store. `log` is bound to the instance's name. `authenticates` says whether any configured policy knows who the
    clients are.
    """

    spawn: Spawner
    in_thread: ThreadRunner
    folder: Path
    log: Any
    read_only: bool = False
    services: Services | None = None
    authenticates: bool = False


class Plugin(ABC):
    """The life that all plugins share: construct, `start`, serve, `aclose`.

    1. **Construct**: pure. No I/O, no clock, no task. `options` is an instance of the class's `options_type`, validated.
    2. **start(context)**: acquire what is needed; return when ready. Raises `OpeningError` with a sentence for what the
       user can mend (a port in use). When it raises or is cancelled, `aclose` is called.
    3. **aclose()**: release everything. Works on a plugin that was never started or whose start failed; works twice;
       works while being cancelled (then it must still release, without waiting). The core waits for a grace period and
       then goes on without it.

    The core calls `start` once, and calls nothing else before it has returned.
    """

    summary: ClassVar[str] = ""
    """One line for `testorch plugins`."""

    options_type: ClassVar[type[Options]] = Options
    """The frozen dataclass of the options; see `testorch_core.options`."""

    operations: ClassVar[frozenset[str]] = frozenset()
    """What an administrator may ask of it, such as `token create`; see `administer`."""

    def __init__(self, name: str, options: Any) -> None:
        self.name = name
        self.options = options

    @abstractmethod
    async def start(self, context: PluginContext) -> None:
        """Acquire what the plugin needs. See the class for errors and cancellation."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release everything. See the class for what it must stand."""

    async def reload(self) -> None:  # noqa: B027 - most plugins have nothing to read again
        """Read again what comes from files besides the configuration, such as certificates; the operator asks for it.

        Works on what is good and keeps the old where the new is bad: it logs, and raises nothing.
        """

    async def administer(self, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do one of its `operations` for an administrator; arguments and answer are JSON.

        Raises `UsageError` with a sentence for what can't be done. Works on a started plugin.
        """
        raise UsageError(f"`{operation}` is nothing that `{self.name}` can do")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"
