"""The level `locks` as a test, and its graph by itself."""

from __future__ import annotations

from tests.sim.test_simulation import simulate
from tests.sim_locks.bank import Access
from tests.sim_locks.history import in_circles, joined, precedence
from tests.sim_locks.run import REACH_SEEDS


def test_a_graph_without_a_cycle_at_each_service_may_have_one_over_both() -> None:
    committed = {"a", "b", "c"}
    north = precedence([Access("a", "x", False), Access("b", "x", True), Access("aborted", "x", True)], committed)
    south = precedence([Access("b", "y", False), Access("a", "y", True), Access("c", "y", True), Access("c", "y", True)], committed)
    assert in_circles(north) == in_circles(south) == set()
    assert in_circles(joined([north, south])) == {"a", "b"}
    assert precedence([Access("a", "x", False), Access("b", "x", False)], committed) == {}


def test_no_seed_breaks_a_promise() -> None:
    done = simulate("--level", "locks", "--seeds", str(REACH_SEEDS))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_every_mutant_is_caught() -> None:
    done = simulate("--level", "locks", "--mutants", "--known")
    assert done.returncode == 0, done.stdout + done.stderr
