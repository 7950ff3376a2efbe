"""The levels of the simulator, and what a sweep of each has to come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.sim.run import Result, run

MUST_REACH = (
    "a participant that did not answer in time",
    "a result was given back under its key",
    "asked again with another first attempt",
    "a stranger said what another participant says",
    "branch announced before its client was heard of",
    "caller cancelled",
    "client abort against the commit",
    "client asked and was told",
    "client died",
    "client resumed its session",
    "client that never came back",
    "conflicting locks",
    "a start on an older copy was refused",
    "participant asked before it began",
    "coordinator back with a stale epoch",
    "coordinator found its log lost something",
    "crash after sync",
    "crash before write",
    "crash between effects",
    "crash in recovery",
    "crashed twice in recovery",
    "disk full",
    "enlist against the commit",
    "first attempt in the future",
    "forced abort against the decision",
    "forced as decided",
    "forced branch reported to the coordinator",
    "forced commit against the decision",
    "Forget against a crashed END",
    "heuristic outcome forgotten",
    "key joined while running",
    "key retried after a commit",
    "key retried behind the retention",
    "key retry against a restarted coordinator",
    "message lost",
    "message of an earlier stream",
    "message repeated",
    "new transactions shed",
    "one-phase against a client's abort",
    "one-phase against the timer",
    "operator abandoned a participant",
    "operator mistyped an id",
    "operator ordered a branch to end",
    "operator's abort against the votes",
    "operator's order written offline",
    "participant back after a long time",
    "Prepare against a running operation",
    "reconnected between decision and answer",
    "repeated interactive call",
    "retention passed while in doubt",
    "retry after the retention",
    "second process found the log locked",
    "stale welcome",
    "sync error",
    "torn last write",
    "two incarnations in one transaction",
    "went back: copy beside it",
    "went back: empty directory",
    "went back: end of the coordinator's log",
    "went back: participant's file alone",
    "went back: participant's log",
    "went on behind a call of which nothing came back",
)
"""Races that a sweep of `REACH_SEEDS` seeds has to come to: a simulator that does not get there proves nothing about them."""

REACH_SEEDS = 5_000
"""The rarest race comes some eight times in so many."""


@dataclass(frozen=True)
class Level:
    """What is driven, and how."""

    name: str
    run: Callable[..., Result]
    mutants: Sequence[Any]
    must_reach: Sequence[str]
    reach_seeds: int
    hunt_seeds_max: int
    """A mutant that lives through so many seeds has survived."""


def level_named(name: str) -> Level:
    """The level `core`, `engine`, `resource`, `locks` or `cell`; only what it needs is imported."""
    if name == "engine":
        from tests.sim_engine import mutants as engine_mutants
        from tests.sim_engine import run as engine

        return Level(name, engine.run, engine_mutants.MUTANTS, engine.MUST_REACH, engine.REACH_SEEDS, 300)
    if name == "resource":
        from tests.sim_resource import mutants as resource_mutants
        from tests.sim_resource import run as resource

        return Level(name, resource.run, resource_mutants.MUTANTS, resource.MUST_REACH, resource.REACH_SEEDS, 400)
    if name == "locks":
        from tests.sim_locks import mutants as lock_mutants
        from tests.sim_locks import run as locks

        return Level(name, locks.run, lock_mutants.MUTANTS, locks.MUST_REACH, locks.REACH_SEEDS, 600)
    if name == "cell":
        from tests.sim_cell import mutants as cell_mutants
        from tests.sim_cell import run as cell

        return Level(name, cell.run, cell_mutants.MUTANTS, cell.MUST_REACH, cell.REACH_SEEDS, 4000)
    from tests.sim.mutants import MUTANTS

    return Level(name, run, MUTANTS, MUST_REACH, REACH_SEEDS, 20_000)
