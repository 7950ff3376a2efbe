"""Hunt mutants: run each until a checker catches it, and say how many seeds that took.

`known_seeds.json` remembers seeds that caught each mutant. A test of the tests tries those first: whether *some* run catches it
is what counts, and a hunt through thousands of seeds finds the same one every day. Every change of a workload shuffles the seeds;
then it hunts from the first seed on, which is slower and as good, and `--mutants --known --remember` adds what it finds (as does
`--rewrite` with those tests that hunt in a scene of their own). The hunt for a rare one takes minutes, so that a few seeds of each
are kept: a change seldom takes all of them.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from tests.mutated import FITS_NO_MORE
from tests.sim.levels import Level
from tests.sim.mutant import Mutant

KNOWN_SEEDS = Path(__file__).parent / "known_seeds.json"
KNOWN_KEPT = 3
"""Seeds of a mutant that are remembered, the one that caught it last first."""


class Caught(NamedTuple):
    """How a mutant ended."""

    name: str
    seed: int
    """The one that caught it; 0 if it survived, or fits the code no more: then Python caught it, and no checker."""
    by: str


def known_seeds(scene: str) -> dict[str, list[int]]:
    """Seeds that have caught each mutant of a level, or of another scene, before."""
    known: dict[str, list[int]] = json.loads(KNOWN_SEEDS.read_text()).get(scene, {})
    return known


def remember(scene: str, caught: Iterable[Caught]) -> None:
    """Write down which seeds caught them, beside those that are known."""
    known = json.loads(KNOWN_SEEDS.read_text())
    seeds = known.setdefault(scene, {})
    for one in caught:
        if one.seed:
            others = [seed for seed in seeds.get(one.name, ()) if seed != one.seed]
            seeds[one.name] = [one.seed, *others][:KNOWN_KEPT]
    # A line for each mutant: two branches that each found another one can be merged.
    scenes = []
    for name, of in sorted(known.items()):
        lines = ",\n".join(f"  {json.dumps(mutant)}: {seeds}" for mutant, seeds in sorted(of.items()))
        scenes.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
    KNOWN_SEEDS.write_text("{\n" + ",\n".join(scenes) + "\n}\n")


def assert_caught(
    mutant: Mutant, run: Callable[[int], tuple[list[str], Any]], seeds_max: int, scene: str, *, remembering: bool
) -> None:
    """Hunt a mutant in a scene that is no level: some seed must show it, by a violation or by an exception."""
    for seed in (*known_seeds(scene).get(mutant.name, ()), *range(1, seeds_max + 1)):
        with mutant.applied():
            violations = _tried(lambda at: run(at)[0], seed)
        unfit = [violation for violation in violations if FITS_NO_MORE.search(violation)]
        assert not unfit, f"{mutant.name!r}: {unfit}"
        if violations:
            without = _tried(lambda at: run(at)[0], seed)
            assert not without, f"seed {seed} fails without {mutant.name!r}: {without}"
            if remembering:
                remember(scene, [Caught(mutant.name, seed, violations[0])])
            return
    raise AssertionError(f"{seeds_max} seeds did not catch {mutant.name!r}")


def _hunt_one(level: Level, name: str, first: Sequence[int], end: Connection) -> None:
    mutant = next(mutant for mutant in level.mutants if mutant.name == name)
    for seed in (*first, *range(1, level.hunt_seeds_max + 1)):
        with mutant.applied():
            violations = _violations(level, seed)
        if violations and not _violations(level, seed):  # what fails without it was not caught
            unfit = any(FITS_NO_MORE.search(violation) for violation in violations)
            end.send(Caught(name, 0 if unfit else seed, violations[0]))
            return
    end.send(Caught(name, 0, ""))


def _violations(level: Level, seed: int) -> list[str]:
    return _tried(lambda at: level.run(at).violations, seed)


def _tried(run: Callable[[int], list[str]], seed: int) -> list[str]:
    try:
        return run(seed)
    except Exception as error:  # a mutant may break anything, and an exception is as good as a violation
        return [f"{type(error).__name__}: {error}"]


def _hunt_each(level: Level, names: list[str], first: dict[str, list[int]], jobs: int) -> Iterator[Caught]:
    """Each in a process of its own, since it may leave anything behind; forked, since it needs all that is imported here."""
    processes = multiprocessing.get_context("fork")
    running: dict[Any, Any] = {}
    waiting = list(reversed(names))
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop()
            mine, its = processes.Pipe(duplex=False)
            process = processes.Process(target=_hunt_one, args=(level, name, first.get(name, ()), its))
            process.start()
            its.close()
            running[mine] = (name, process)
        for mine in wait(list(running)):
            name, process = running.pop(mine)
            try:
                yield mine.recv()  # type: ignore[union-attr]  # what waits here are connections
            except EOFError:
                yield Caught(name, first.get(name, [1])[0], "it ended the process")
            process.join()


def _verdict(one: Caught) -> str:
    return f"killed by seed {one.seed}" if one.seed else "FITS NO MORE" if one.by else "SURVIVED"


def hunt(level: Level, only: str, jobs: int, *, known: bool = False, remembering: bool = False) -> int:
    """Run every mutant; a survivor is a hole in the checkers. `known`: the seeds that are remembered come first."""
    names = [mutant.name for mutant in level.mutants if only in mutant.name]
    first = known_seeds(level.name) if known else {}
    caught = []
    for one in _hunt_each(level, names, first, jobs):
        caught.append(one)
        sys.stderr.write(f"  {_verdict(one):20} {one.name}: {one.by[:120]}\n")
    if remembering:
        remember(level.name, caught)
    taken = sorted(one.seed for one in caught if one.seed)
    shuffled = sum(one.name in first and one.seed not in first[one.name] for one in caught)
    if shuffled:
        sys.stderr.write(f"{shuffled} were not caught by the seeds that are known: add others with --mutants --known --remember\n")
    median = taken[len(taken) // 2] if taken else 0
    sys.stdout.write(f"mutants: killed={len(taken)}/{len(names)} median_seeds={median}\n")
    return 0 if len(taken) == len(names) else 1
