"""The levels of the simulator, and what a sweep of each has to come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.sim.run import Result, run

MUST_REACH = (
    "client abort against the commit",
    "client asked and was told",
    "client resumed its session",
    "crash after sync",
    "crash before write",
    "crash between effects",
    "disk failed",
    "enlist against the commit",
    "Forget against a crashed END",
    "key joined while running",
    "key retry against a restarted coordinator",
    "key retried after a commit",
    "one-phase against a client's abort",
    "one-phase against the timer",
    "participant back after a long time",
    "Prepare against a running operation",
    "reconnected between decision and answer",
    "repeated interactive call",
    "retention passed while in doubt",
    "stale welcome",
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

    return Level(name, run, MUTANTS, MUST_REACH, REACH_SEEDS, 3000)
