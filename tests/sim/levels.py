"""The levels of the simulator, and what a sweep of each has to come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.sim.run import Result, run

MUST_REACH = (
    "a participant that did not answer in time",
    "caller cancelled",
    "client abort against the commit",
    "client asked and was told",
    "client died",
    "client resumed its session",
    "client that never came back",
    "conflicting locks",
    "coordinator back with a stale epoch",
    "coordinator with a stale epoch refused",
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
)
"""Races that a sweep of `REACH_SEEDS` seeds has to come to: a simulator that does not get there proves nothing about them."""

REACH_SEEDS = 10_000


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
    """The level `core`, `engine` or `resource`; only what it needs is imported."""
    if name == "engine":
        from tests.sim_engine import mutants as engine_mutants
        from tests.sim_engine import run as engine

        return Level(name, engine.run, engine_mutants.MUTANTS, engine.MUST_REACH, engine.REACH_SEEDS, 300)
    if name == "resource":
        from tests.sim_resource import mutants as resource_mutants
        from tests.sim_resource import run as resource

        return Level(name, resource.run, resource_mutants.MUTANTS, resource.MUST_REACH, resource.REACH_SEEDS, 400)
    from tests.sim.mutants import MUTANTS

    return Level(name, run, MUTANTS, MUST_REACH, REACH_SEEDS, 10_000)
