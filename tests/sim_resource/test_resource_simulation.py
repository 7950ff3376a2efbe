"""The third level of the simulator as a test: every race, every promise of DESIGN section 6, and every mutant caught."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.levels import level_named
from tests.sim_resource.mutants import MUTANTS
from tests.sim_resource.promises import PROMISES, Promise
from tests.sim_resource.run import REACH_SEEDS, run

ROOT = Path(__file__).parents[2]


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the simulator as its user does."""
    command = [sys.executable, "-m", "tests.sim", "--level", "resource", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_same_seed_is_the_same_run() -> None:
    one, other = (run(7) for _ in range(2))
    assert one == other
    assert one.transactions and one.reached


def test_a_run_tells_its_trace() -> None:
    assert run(7, tracing=True, transactions=2).trace


def test_no_seed_breaks_a_promise_and_every_race_is_reached() -> None:
    done = simulate("--seeds", str(REACH_SEEDS))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1].startswith(f"sim: ok seeds={REACH_SEEDS} ")


def test_every_mutant_is_caught() -> None:
    done = simulate("--mutants", "--known")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.key)
def test_a_promise_has_a_mutant_or_says_who_keeps_it(promise: Promise) -> None:
    key, elsewhere = promise.key, promise.elsewhere
    if not elsewhere:
        assert any(mutant.rule == key for mutant in MUTANTS)
        return
    level, _, name = elsewhere.partition(": ")
    if name:
        assert name in {mutant.name for mutant in level_named(level).mutants}
    else:
        assert (ROOT / elsewhere).is_file()


def test_a_mutant_breaks_a_promise_of_the_list() -> None:
    assert {mutant.rule for mutant in MUTANTS} <= {promise.key for promise in PROMISES}
