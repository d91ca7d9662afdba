"""Where the log goes: one event, one line, whatever it holds. Never contents, never tokens."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def library_log() -> Any:
    """The log of an embedded core: the standard `logging` logger `testorch`, which its host configures."""
    return structlog.wrap_logger(
        logging.getLogger("testorch"),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def server_log(level: str) -> Any:
    """The log of a server process: lines of `key=value` on standard error, from `level` (`debug`, `info` …) on."""
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
    )
