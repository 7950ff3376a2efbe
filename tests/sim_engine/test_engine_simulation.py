"""The second level of the simulator as a test: a few hundred seeds, every race, and every mutant caught."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

from coordinator.shell_settings import RANGES
from participant_sdk import Limits
from tests.sim_engine.limits import ELSEWHERE, drawn_names
from tests.sim_engine.run import REACH_SEEDS, run


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the simulator as its user does."""
    command = [sys.executable, "-m", "tests.sim", "--level", "engine", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_limit_is_drawn_or_says_where_it_is_tried() -> None:
    coordinator, participant = drawn_names()
    limits = {name for name in RANGES if name.endswith(("_max", "_seconds"))}
    assert coordinator <= limits and limits - coordinator == set(ELSEWHERE)
    assert participant == {field.name for field in fields(Limits)}


def test_the_same_seed_is_the_same_run() -> None:
    one, other = (run(7, tracing=True) for _ in range(2))
    assert one.trace
    assert [line.partition(" at 0x")[0] for line in one.trace] == [line.partition(" at 0x")[0] for line in other.trace]
    assert one.reached == other.reached


def test_no_seed_breaks_a_promise_and_every_race_is_reached() -> None:
    done = simulate("--seeds", str(REACH_SEEDS))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1].startswith(f"sim: ok seeds={REACH_SEEDS} ")


def test_every_mutant_is_caught() -> None:
    done = simulate("--mutants", "--known")
    assert done.returncode == 0, done.stdout + done.stderr
