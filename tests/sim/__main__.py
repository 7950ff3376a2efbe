"""Run the simulator: `python -m tests.sim --seeds 10000`, `--seed S` to replay one, `--mutants` to test the tests.

`--level core` (the default) drives the pure cores under a small synchronous shell. `--level engine` drives the whole asyncio
code in virtual time: the daemon, the participant's runtime, the client; see tests/sim_engine. `--level resource` drives the real
SQLite resource on real files; see tests/sim_resource. `--level locks`: many transactions on few keys, who waits for whom, and
whether it could have happened one after the other; see tests/sim_locks. `--level cell`: nodes that share shards, services in
slots, and one store; see tests/sim_cell.

The last line says how it went: `sim: ok seeds=… violations=0`. Otherwise you get the seed that failed and what which checker
found, the trace of the smallest run that the same checker still fails in, and the command that replays it.

Exit status:
  0  ok
  1  a violation
  3  nothing but this: something was not decided after all faults had ended and the network had healed (AC5)
  4  a race that a sweep of so many seeds has to come to was not reached
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.sim.hunt import hunt
from tests.sim.levels import Level, level_named
from tests.sim.reduce import reduce
from tests.sim.run import Result

BLOCK = 50


def main(arguments: list[str]) -> int:
    """Do what the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--level", choices=("core", "engine", "resource", "locks", "cell"), default="core", help="what to drive")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--minutes", type=float, help="run for so long instead")
    parser.add_argument("--seed", type=int, help="run this seed only, with its trace")
    parser.add_argument("--transactions", type=int, help="with --seed: this many transactions only")
    parser.add_argument("--keep", help="with --seed: these items of its plan only, such as w1,blow2 (of the core level)")
    parser.add_argument("--trace", action="store_true", help="with --seed: print the trace even if nothing fails")
    parser.add_argument("--mutants", action="store_true", help="run every mutant until it is caught")
    parser.add_argument("--known", action="store_true", help="with --mutants: try the seeds of known_seeds.json first")
    parser.add_argument("--remember", action="store_true", help="with --mutants: write known_seeds.json")
    parser.add_argument("--only", default="", help="with --mutants: only those whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args(arguments)
    level = level_named(options.level)
    if options.mutants:
        return hunt(level, options.only, options.jobs, known=options.known, remembering=options.remember)
    if options.seed is not None:
        return replay(level, options.seed, _parts(options), always=options.trace)
    return sweep(level, options.first, options.seeds, options.minutes, options.jobs)


def say(text: str) -> None:
    """Talk goes to standard error."""
    sys.stderr.write(text + "\n")


def tell(text: str) -> None:
    """The result goes to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parts(options: argparse.Namespace) -> dict[str, Any]:
    """How much of a seed is to be run."""
    parts: dict[str, Any] = {"transactions": options.transactions} if options.transactions else {}
    if options.keep is not None:
        parts["keep"] = options.keep.split(",")
    return parts


def replay(level: Level, seed: int, parts: dict[str, Any], *, always: bool) -> int:
    """Run one seed with its trace."""
    result = level.run(seed, tracing=True, **parts)
    if result.violations or always:
        tell("\n".join(result.trace))
    tell("\n".join(result.violations) or f"sim: ok seeds=1 transactions={result.transactions} violations=0")
    return _status(result.violations)


def _status(violations: list[str]) -> int:
    if not violations:
        return 0
    return 3 if all(text.startswith("AC5") for text in violations) else 1


# ---- sweeping


def _quiet_collector() -> None:
    """Runs are short and leave few cycles: look for them less often."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _run_block(level: str, block: range) -> list[Result]:
    run = level_named(level).run
    return [run(seed) for seed in block]


def _blocks(first: int, count: int, minutes: float | None) -> Iterator[range]:
    began = time.monotonic()
    seed = first
    while (time.monotonic() - began < minutes * 60) if minutes else seed < first + count:
        size = BLOCK if minutes else min(BLOCK, first + count - seed)
        yield range(seed, seed + size)
        seed += size


def sweep(level: Level, first: int, count: int, minutes: float | None, jobs: int) -> int:
    """Run many seeds; stop at the first block with one that fails."""
    began = time.monotonic()
    totals: Counter[str] = Counter()
    reached: Counter[str] = Counter()
    # Forked: other ways to start, among them the usual one of Python 3.14, do not find the functions of a `__main__` again.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _quiet_collector) as pool:
        pending = []
        for block in _blocks(first, count, minutes):
            pending.append(pool.submit(_run_block, level.name, block))
            while len(pending) > 2 * jobs:
                failed = _add(pending.pop(0).result(), totals, reached, began)
                if failed:
                    pool.shutdown(cancel_futures=True)
                    return _report(level, failed)
        for future in pending:
            failed = _add(future.result(), totals, reached, began)
            if failed:
                pool.shutdown(cancel_futures=True)
                return _report(level, failed)
    return _conclude(level, totals, reached)


def _add(results: list[Result], totals: Counter[str], reached: Counter[str], began: float) -> Result | None:
    for result in results:
        totals.update(seeds=1, transactions=result.transactions, crashes=result.crashes, faults=result.faults)
        reached.update(result.reached)
        if result.violations:
            return result
        if totals["seeds"] % 1000 == 0:
            say(f"{totals['seeds']} seeds, {totals['seeds'] / (time.monotonic() - began):.0f} a second")
    return None


def _report(level: Level, result: Result) -> int:
    """Say what failed, and the smallest run of the same seed in which it still does."""
    say("it failed; looking for a smaller run that does")
    reduced = reduce(level, result)
    tell("\n".join(reduced.result.trace))
    tell(f"sim: seed {result.seed} failed:\n  " + "\n  ".join(result.violations))
    tell(f"reduced in {reduced.runs} runs, it fails by:\n  " + "\n  ".join(reduced.result.violations))
    tell(f"replay it with: python -m tests.sim --level {level.name} --seed {result.seed}{reduced.options}")
    return _status(result.violations)


def _conclude(level: Level, totals: Counter[str], reached: Counter[str]) -> int:
    for name, times in sorted(reached.items()):
        say(f"  {name}: {times}")
    missed = [name for name in level.must_reach if not reached[name]]
    if missed and totals["seeds"] >= level.reach_seeds:
        tell("sim: never reached: " + ", ".join(missed))
        return 4
    tell(
        "sim: ok " + " ".join(f"{name}={totals[name]}" for name in ("seeds", "transactions", "crashes", "faults")) + " violations=0"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
