"""The simulator as a test: enough seeds to come to every race, and every mutant caught."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.sim.levels import REACH_SEEDS, level_named
from tests.sim.run import TABLE, run


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the simulator as its user does."""
    return subprocess.run([sys.executable, "-m", "tests.sim", *arguments], capture_output=True, text=True, check=False)


def test_the_same_seed_is_the_same_run() -> None:
    one, other = (run(7, tracing=True) for _ in range(2))
    assert one.trace and one.trace == other.trace


@pytest.mark.parametrize("transactions", [1, 30])
def test_a_run_can_be_made_smaller_or_larger(transactions: int) -> None:
    result = run(3, transactions=transactions)
    assert result.violations == [] and result.transactions >= transactions // 2


def test_no_seed_breaks_a_promise_and_every_race_is_reached() -> None:
    done = simulate("--seeds", str(REACH_SEEDS))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1].startswith(f"sim: ok seeds={REACH_SEEDS} ")


def test_every_mutant_is_caught() -> None:
    done = simulate("--mutants", "--known")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_of_the_design_is_broken_by_a_mutant() -> None:
    rules = [mutant.rule for name in ("core", "engine") for mutant in level_named(name).mutants if "resource" not in mutant.rule]
    assert {int(number) for rule in rules for number in re.findall(r"\d+", rule)} >= set(range(1, 21))


def test_each_checker_says_what_it_promises() -> None:
    assert all(checker.name and checker.promise.endswith(".") for checker in TABLE)
