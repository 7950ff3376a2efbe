"""Make a failing run smaller: as few blows, deaths, transactions and operators as the same checker still fails with.

Delta debugging (Zeller & Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", TSE 2002) over the items of the run's
plan. Each item has its own chance, so those that are left do what they did before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.sim.checkers import name_of
from tests.sim.levels import Level
from tests.sim.run import Result

RUNS_MAX = 200
"""How many runs a reduction may take."""


@dataclass
class Reduced:
    """The smallest run that was found, and how to have it again."""

    result: Result
    options: str
    runs: int


def reduce(level: Level, failed: Result) -> Reduced:
    """Look for a smaller run that fails by the same checker."""
    search = _Search(level, failed)
    if failed.items:
        items = search.smallest(failed.items)
        options = f" --keep {','.join(items)}" if items else " --keep nothing"
        return Reduced(level.run(failed.seed, keep=items, tracing=True), options, search.runs)
    for transactions in range(1, failed.transactions):
        if search.runs < RUNS_MAX and search.fails(lambda count=transactions: level.run(failed.seed, transactions=count)):
            result = level.run(failed.seed, transactions=transactions, tracing=True)
            return Reduced(result, f" --transactions {transactions}", search.runs)
    return Reduced(level.run(failed.seed, tracing=True), "", search.runs)


class _Search:
    def __init__(self, level: Level, failed: Result) -> None:
        self._level = level
        self._seed = failed.seed
        self._checkers = {name_of(text) for text in failed.violations}
        self.runs = 0

    def fails(self, run: Callable[[], Result]) -> bool:
        """Whether a run fails by one of the checkers that failed before."""
        self.runs += 1
        return bool(self._checkers & {name_of(text) for text in run().violations})

    def _fails_with(self, items: Sequence[str]) -> bool:
        return self.fails(lambda: self._level.run(self._seed, keep=items))

    def smallest(self, items: Sequence[str]) -> list[str]:
        """Leave out ever smaller parts of the items, as long as it fails without them."""
        kept = list(items)
        size = max(1, len(kept) // 2)
        while kept and self.runs < RUNS_MAX:
            smaller = self._without_a_part(kept, size)
            if smaller is not None:
                kept = smaller
            elif size == 1:
                break
            else:
                size = max(1, size // 2)
            size = max(1, min(size, len(kept)))
        return kept

    def _without_a_part(self, kept: list[str], size: int) -> list[str] | None:
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            if self.runs < RUNS_MAX and self._fails_with(rest):
                return rest
        return None
