"""Another coordinator takes the place of the one that had decided, and people settle; and the mutants of that."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.foreign import run
from tests.sim.hunt import assert_caught
from tests.sim.mutant import Mutant
from tests.sim.mutants_foreign import FOREIGN

SEEDS = 25
HUNT_SEEDS_MAX = 500


def test_what_people_end_is_mixed_where_they_end_it_in_two_ways_and_nobody_is_told_what_nobody_knows() -> None:
    reached: Counter[str] = Counter()
    for seed in range(1, SEEDS + 1):
        violations, one = run(seed)
        assert violations == [], f"seed {seed}"
        reached.update(one.world.reached)
    for what in ("settled by hand", "settled by hand offline", "forgotten", "parted", "ended in one way"):
        assert reached[what] >= SEEDS / 5, f"{what}: must have been tried"


@pytest.mark.parametrize("mutant", FOREIGN, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_every_mutant_of_what_another_coordinator_decided_is_caught(mutant: Mutant, rewrite: bool) -> None:
    assert_caught(mutant, run, HUNT_SEEDS_MAX, "foreign", remembering=rewrite)
