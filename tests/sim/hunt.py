"""Hunt mutants: run each until a checker catches it, and say how many seeds that took."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor

from tests.sim.levels import Level, level_named


def _hunt_one(level_name: str, name: str) -> tuple[str, int, str]:
    """Run one mutant until it is caught; returns its name, the seeds it took (0: it survived), and what caught it."""
    level = level_named(level_name)
    mutant = next(mutant for mutant in level.mutants if mutant.name == name)
    with mutant.applied():
        for seed in range(1, level.hunt_seeds_max + 1):
            try:
                violations = level.run(seed).violations
            except Exception as error:  # a mutant may break anything, and an exception is as good as a violation
                violations = [f"{type(error).__name__}: {error}"]
            if violations:
                return name, seed, violations[0]
    return name, 0, ""


def hunt(level: Level, only: str, jobs: int) -> int:
    """Run every mutant; a survivor is a hole in the checkers."""
    names = [mutant.name for mutant in level.mutants if only in mutant.name]
    taken: list[int] = []
    with ProcessPoolExecutor(jobs, max_tasks_per_child=1) as pool:
        for name, seeds, caught in pool.map(_hunt_one, [level.name] * len(names), names):
            sys.stderr.write(f"  {f'killed by seed {seeds}' if seeds else 'SURVIVED':20} {name}: {caught[:120]}\n")
            if seeds:
                taken.append(seeds)
    median = sorted(taken)[len(taken) // 2] if taken else 0
    sys.stdout.write(f"mutants: killed={len(taken)}/{len(names)} median_seeds={median}\n")
    return 0 if len(taken) == len(names) else 1
