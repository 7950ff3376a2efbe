"""The level `cell` as a test; and leases by themselves, without which nothing is unsafe."""

from __future__ import annotations

import pytest

from tests.sim.mutant import Mutant, to
from tests.sim.test_simulation import simulate
from tests.sim_cell import run as cell
from tests.sim_cell.store import Store

SEEDS = 120
NO_PEACE_SECONDS = 2.0
"""Nobody comes to rest."""


def test_no_seed_breaks_a_promise() -> None:
    done = simulate("--level", "cell", "--seeds", str(SEEDS))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_every_mutant_is_caught() -> None:
    done = simulate("--level", "cell", "--mutants", "--known")
    assert done.returncode == 0, done.stdout + done.stderr


def test_leases_are_for_liveness_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that gives a log to whoever asks for it: nobody gets anything done, and nothing wrong is said or written."""
    monkeypatch.setattr(cell, "PEACE_SECONDS", NO_PEACE_SECONDS)
    with Mutant("leases are ignored", "", ((Store, "lives", to(lambda self, log: False)),)).applied():
        for seed in range(1, 4):
            unsafe = [found for found in cell.run(seed).violations if not found.startswith("AC5")]
            assert not unsafe, f"seed {seed}: {unsafe}"
