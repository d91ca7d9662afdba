"""Which configuration a command works with."""

from __future__ import annotations

from pathlib import Path

from testorch_core.config import Configuration, defaults, read_configuration


def configuration(config: Path | None, *, db: str | None) -> Configuration:
    """The named file, else the installed defaults relative to the current folder; `db` overrides `storage.path`.

    A path on the command line is relative to the current folder, whatever folder the file is in.
    """
    chosen = defaults("default", folder=Path.cwd()) if config is None else read_configuration(config)
    return chosen if db is None else chosen.with_storage(path=str(Path(db).absolute()))
