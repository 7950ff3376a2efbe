"""`python -m tests.sim --seeds N [--seed S]`: run the simulator, show progress, and say what broke."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.sim.run import run


def main(arguments: list[str]) -> int:
    """Run seeds; the last line says how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--seed", type=int, help="run this seed only, and print its trace if it fails")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--trace", action="store_true", help="print the trace even if nothing fails")
    parser.add_argument("--minutes", type=float, help="run for so long instead")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return replay(options.seed, always=options.trace)
    return sweep(options.first, options.seeds, options.minutes)


def replay(seed: int, *, always: bool) -> int:
    """Run one seed with its trace."""
    result = run(seed, tracing=True)
    if result.violations or always:
        print("\n".join(result.trace))
    print("\n".join(result.violations) or f"sim: ok seeds=1 transactions={result.transactions} violations=0")
    return 1 if result.violations else 0


def sweep(first: int, count: int, minutes: float | None) -> int:
    """Run many seeds; stop at the first that fails."""
    began = time.monotonic()
    totals: Counter[str] = Counter()
    reached: Counter[str] = Counter()
    seed = first
    while (time.monotonic() - began < minutes * 60) if minutes else seed < first + count:
        result = run(seed)
        totals.update(seeds=1, transactions=result.transactions, crashes=result.crashes, faults=result.faults)
        reached.update(result.reached)
        if result.violations:
            print(f"sim: seed {seed} failed:", *result.violations, sep="\n  ")
            print(f"replay it with: python -m tests.sim --seed {seed}")
            return 1
        seed += 1
        if totals["seeds"] % 500 == 0:
            rate = totals["seeds"] / (time.monotonic() - began)
            print(f"{totals['seeds']} seeds, {rate:.0f} a second", file=sys.stderr)
    for name, times in sorted(reached.items()):
        print(f"  {name}: {times}", file=sys.stderr)
    print("sim: ok " + " ".join(f"{name}={totals[name]}" for name in ("seeds", "transactions", "crashes", "faults")) + " violations=0")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
