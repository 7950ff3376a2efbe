"""A participant's log goes back and takes its name over again: what it lacks is listed; and the mutants of that."""

from __future__ import annotations

import pytest

from coordinator.core import recalling
from tests.sim.hunt import assert_caught
from tests.sim.mutant import Mutant
from tests.sim.mutants_wayback import RECALLING
from tests.sim.restored import run

SEEDS = 25
HUNT_SEEDS_MAX = 2000


def test_what_a_log_lacks_that_was_put_back_is_listed_and_nothing_else() -> None:
    lost, listed, unnamed, said = 0, 0, 0, 0
    for seed in range(1, SEEDS + 1):
        violations, one = run(seed)
        assert violations == [], f"seed {seed}"
        lost += len(one.lost)
        listed += sum(map(len, recalling.lacking(one.coordinator.core._book).values()))
        unnamed += bool(one.unnamed)
        said += bool(recalling.unlisted(one.coordinator.core._book, one.coordinator.core._book.participants[one.victim.name])[0])
    assert lost > listed > SEEDS / 2 and SEEDS > said >= unnamed > 0, "some were listed, some behind the retention, and not always"


@pytest.mark.parametrize("mutant", RECALLING, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_every_mutant_of_recalling_is_caught(mutant: Mutant, rewrite: bool) -> None:
    assert_caught(mutant, run, HUNT_SEEDS_MAX, "restored", remembering=rewrite)
