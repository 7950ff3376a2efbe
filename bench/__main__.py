"""`scripts/bench`: measures Troth against a bare gRPC echo, a textbook two-phase commit and the bare floor, in one run.

scripts/bench                        everything: about four minutes
scripts/bench --quick                the same with short measurements: about a minute
scripts/bench --json bench.json      everything in a file, too
scripts/bench --growth               long logs, restarts, many of everything, overload: some minutes (--quick: one)
scripts/bench --only echo,log        some stages: echo, textbook, floor, one-process, log, sqlite, wide, hot, cell, databases,
                                     closed, observed, abuse
scripts/bench --only peers           beside other people's coordinators, which are fetched the first time
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench.processes import FORKS

os.environ[FORKS] = "0"  # read when gRPC is imported

from bench import growth, report, stages
from bench.measure import Span
from bench.peers import table as peers
from bench.processes import ROOT
from bench.service import run_loop

QUICK = Span(warm_seconds=0.4, seconds=1.0)
FULL = Span(warm_seconds=1.5, seconds=5.0)


def main() -> int:
    """Run what was asked for. Whoever ends it by SIGTERM has its processes ended, too, as with SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    options = _parse()
    talk = Console(stderr=True)
    names = options.only.split(",") if options.only else list(stages.USUAL)
    unknown = set(names) - set(stages.STAGES)
    if unknown:
        talk.print(f"unknown stages: {', '.join(sorted(unknown))}; there are {', '.join(stages.STAGES)}")
        return 2
    base = options.directory or ROOT / "var"
    base.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=base))
    if options.growth:
        return _grow(options, directory, talk)
    bench = stages.Bench(
        directory, QUICK if options.quick else FULL, lambda name: talk.rule(name), lambda one: talk.print(report.line(one)),
    )  # fmt: skip
    try:
        run_loop(stages.run(bench, names))
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
    _tell(bench, options.json)
    return 0


def _grow(options: argparse.Namespace, directory: Path, talk: Console) -> int:
    sizes = growth.QUICK if options.quick else growth.Sizes()
    grown = growth.Growth(directory, sizes, lambda line: talk.print(line, highlight=False))
    try:
        run_loop(growth.run(grown))
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
    if options.json is not None:
        options.json.write_text(json.dumps(grown.figures, indent=2) + "\n")
    return 0


def _tell(bench: stages.Bench, file: Path | None) -> None:
    console = Console(width=None if sys.stdout.isatty() else 220)
    report.table(bench, console)
    report.targets(bench, console)
    report.abuses(bench, console)
    if bench.peers:
        console.print(peers.table(bench.results, bench.peers))
    if file is not None:
        report.write_json(bench, file)
    sys.stdout.write(report.last_line(bench) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short measurements")
    parser.add_argument("--growth", action="store_true", help="long logs, restarts, many of everything, overload")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    parser.add_argument("--only", default="", metavar="STAGES", help="comma-separated stages")
    parser.add_argument("--directory", type=Path, help="where the files go (default: var/ of the clone); deleted afterwards")
    parser.add_argument("--keep", action="store_true", help="do not delete the files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
