"""The coordinator's log goes back, and what was lost is proven again; and the mutants of that."""

from __future__ import annotations

import pytest

from tests.sim.hunt import assert_caught
from tests.sim.mutant import Mutant
from tests.sim.mutants_wayback import PROVING
from tests.sim.went_back import run

SEEDS = 60
HUNT_SEEDS_MAX = 2000


def test_whoever_has_voted_ends_as_the_others_do_or_stays_in_doubt_and_listed() -> None:
    proven, unproven, refused, restarts, by_hand = 0, 0, 0, 0, 0
    for seed in range(1, SEEDS + 1):
        violations, one = run(seed)
        assert violations == [], f"seed {seed}"
        by_hand += len(one.forgotten & one.proving)
        refused += one.refused and not one.restarts
        restarts += one.restarts
        unproven += len(one.still_proving())
        proven += len(one.proving) - len(one.still_proving())
    assert proven > SEEDS / 4 and unproven, "both must have been tried"
    assert refused > SEEDS / 2 and restarts, "a start that is refused, and one that nobody was there to refuse"
    assert by_hand, "and what people had ended by hand, and forgotten"


def test_the_same_holds_where_the_log_is_lost_and_one_stands_in_for_it() -> None:
    proven = 0
    for seed in range(1, SEEDS // 2 + 1):
        violations, one = run(seed, whole=True)
        assert violations == [], f"seed {seed}"
        assert one.refused
        proven += len(one.proving) - len(one.still_proving())
    assert proven > SEEDS / 8


@pytest.mark.parametrize("mutant", PROVING, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_every_mutant_of_proving_is_caught(mutant: Mutant, rewrite: bool) -> None:
    assert_caught(mutant, run, HUNT_SEEDS_MAX, "went_back", remembering=rewrite)
