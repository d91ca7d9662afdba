"""The command line of the job."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from autobahn.cases import all_cases, chosen_cases
from autobahn.environment import suite_interpreter
from autobahn.failures import SuiteError
from autobahn.fuzzing import fuzz
from autobahn.report import judge
from testorch_core.loading import installed_plugins

TRANSPORTS = ("websocket", "websockets")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its report. Exits with 1 when a case fails and no reason for that is written down."""
    chosen = _parser().parse_args(arguments)
    try:
        failed = run(chosen)
    except SuiteError as failure:
        raise SystemExit(str(failure)) from None
    raise SystemExit(1 if failed else 0)


def run(chosen: argparse.Namespace) -> bool:
    """Whether a case failed without an explanation, on any transport. Raises `SuiteError`."""
    python2 = suite_interpreter(chosen.python, say)
    cases = chosen_cases(all_cases(python2), chosen.cases)
    failed = False
    for transport in transports(chosen.transport):
        with ExitStack() as kept:
            prefix = f"testorch-autobahn-{transport}-"
            made = tempfile.mkdtemp(prefix=prefix) if chosen.keep else kept.enter_context(_folder(prefix))
            say(f"{transport}: {len(cases)} cases")
            began = time.monotonic()
            fuzz(python2, transport, cases, Path(made), say)
            judgement = judge(transport, cases, Path(made) / "reports")
            print(judgement.text())
            print(f"  took {time.monotonic() - began:.0f} s")
            if chosen.keep:
                print(f"  kept in {made}: reports/index.html, server.log, client.log")
            failed = failed or bool(judgement.unexplained)
    return failed


def transports(wanted: str) -> tuple[str, ...]:
    """The transports to test: the one that is wanted, or those of ours that are installed."""
    installed = {one.name for one in installed_plugins("transport")}
    return tuple(name for name in TRANSPORTS if name in installed) if wanted == "all" else (wanted,)


def say(words: str) -> None:
    """A line of progress."""
    print(words, flush=True)


def _folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=prefix)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python tests/autobahn", description="Autobahn's WebSocket test suite against our transports"
    )
    parser.add_argument("--transport", choices=[*TRANSPORTS, "all"], default="all", help="which transport (all)")
    parser.add_argument("--python", metavar="PATH", help="an interpreter of Python 2.7 (`python2.7` on PATH)")
    parser.add_argument(
        "--cases",
        action="append",
        default=[],
        metavar="GLOB",
        help="only these cases: `6.*`; `!9.*` leaves some out; may be given several times",
    )
    parser.add_argument("--keep", action="store_true", help="keep the suite's report and the logs")
    return parser
