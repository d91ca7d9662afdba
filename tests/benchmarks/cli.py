"""The command line of the suite."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import fanout, idle, ingest, latency, machine, memory, queries, startup, storm, vanish
from benchmarks.failures import FailedRunError, NotSupportedError
from benchmarks.lab import Lab, Settings
from benchmarks.report import Report
from benchmarks.servers import installed_node_server

BENCHMARKS: Mapping[str, Callable[[Lab], None]] = {
    module.NAME: module.measure for module in (startup, ingest, latency, fanout, memory, queries, idle, storm, vanish)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite: prints the table, writes the JSON. Exits with 1 when a server answered wrongly."""
    chosen = _parser().parse_args(arguments)
    settings = settings_of(chosen)
    with tempfile.TemporaryDirectory(prefix="testorch-benchmarks-", dir=chosen.folder) as folder:
        report = Report(machine.describe(Path(folder)), {**asdict(settings), "only": chosen.only or list(BENCHMARKS)})
        lab = Lab(settings, Path(folder), report)
        failure = run(lab, chosen.only or list(BENCHMARKS))
    report.machine["load average after"] = machine.load_average()
    print(report.text())
    report.write(chosen.json)
    print(f"written to {chosen.json}")
    if failure is not None:
        raise SystemExit(f"FAILED: {failure}")


def run(lab: Lab, names: Sequence[str]) -> FailedRunError | None:
    """The named benchmarks, until one fails; what a server doesn't support yet is noted in the report."""
    if lab.settings.node:
        lab.say("preparing the Node server (at first use its packages are installed, which may take minutes)")
        installed_node_server()
    for name in names:
        began = time.monotonic()
        lab.say(f"{name} …")
        try:
            BENCHMARKS[name](lab)
        except NotSupportedError as reason:
            lab.report.left_out.append(f"{name}: {reason}")
        except FailedRunError as failure:
            return FailedRunError(f"{name}: {failure}")
        lab.say(f"{name} took {time.monotonic() - began:.0f} s")
    return None


def settings_of(chosen: argparse.Namespace) -> Settings:
    """What was asked for; `--quick` changes the defaults, never what was said."""
    quick = Settings(quick=True, repetitions=1, seconds=1.0, store_events=200_000, clients=500)
    defaults = quick if chosen.quick else Settings()
    said = {name: getattr(chosen, name) for name in asdict(defaults) if getattr(chosen, name, None) is not None}
    return Settings(**{**asdict(defaults), **said})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tests/benchmarks", description="testorch's benchmark suite")
    parser.add_argument("--quick", action="store_true", help="everything but 10,000 connections, smaller, in minutes")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--loads", action="append", metavar="WORDS", help="only ingest cases whose name holds the words"
    )
    parser.add_argument("--repetitions", type=int, help="repetitions of a load (3; quick: 1)")
    parser.add_argument("--seconds", type=float, help="seconds that a repetition lasts (3; quick: 1)")
    parser.add_argument("--window", type=int, help="events that one connection has in flight at most (1000)")
    parser.add_argument("--window-of-all", type=int, help="the same of all connections together (4000)")
    parser.add_argument("--generators", type=int, help="processes of the load generator (1)")
    parser.add_argument("--store-events", type=int, help="events in the store that is queried (10,000,000)")
    parser.add_argument("--clients", type=int, help="clients of a storm, and that vanish (5,000; quick: 500)")
    parser.add_argument("--transport", help="the transport plugin of testorch's server (websocket)")
    parser.add_argument("--no-node", dest="node", action="store_false", default=None, help="without the Node server")
    parser.add_argument("--folder", type=Path, help="where the databases are put: a real disk (the temporary folder)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), help="where the JSON is written to")
    return parser
