"""Hunt mutants: run each until a checker catches it, and say how many seeds that took."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor

from tests.sim.mutants import MUTANTS
from tests.sim.run import run

SEEDS_MAX = 3000
"""A mutant that lives through so many seeds has survived."""


def _hunt_one(name: str) -> tuple[str, int, str]:
    """Run one mutant until it is caught; returns its name, the seeds it took (0: it survived), and what caught it."""
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    with mutant.applied():
        for seed in range(1, SEEDS_MAX + 1):
            try:
                violations = run(seed).violations
            except Exception as error:  # a mutant may break anything, and an exception is as good as a violation
                violations = [f"{type(error).__name__}: {error}"]
            if violations:
                return name, seed, violations[0]
    return name, 0, ""


def hunt(only: str, jobs: int) -> int:
    """Run every mutant; a survivor is a hole in the checkers."""
    names = [mutant.name for mutant in MUTANTS if only in mutant.name]
    taken: list[int] = []
    with ProcessPoolExecutor(jobs, max_tasks_per_child=1) as pool:
        for name, seeds, caught in pool.map(_hunt_one, names):
            sys.stderr.write(f"  {f'killed by seed {seeds}' if seeds else 'SURVIVED':20} {name}: {caught[:120]}\n")
            if seeds:
                taken.append(seeds)
    median = sorted(taken)[len(taken) // 2] if taken else 0
    sys.stdout.write(f"mutants: killed={len(taken)}/{len(names)} median_seeds={median}\n")
    return 0 if len(taken) == len(names) else 1
