"""The rules of DESIGN section 4 that the coordinator carries, each as a transcript; and the mutants that each one catches."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.core.transitions import TABLE
from tests.coordinator_core.scripted import CoordinatorDriver
from tests.sim.mutant import SCRIPTED, Mutant
from tests.sim.mutants import MUTANTS
from tests.transcripts import check, mutants_named

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
BY_NAME = {mutant.name: mutant for mutant in (*MUTANTS, *SCRIPTED)}


def is_of_the_core(mutant: Mutant) -> bool:
    """Whether a mutant changes the coordinator's core and nothing else."""
    places = (where for where, _, _ in mutant.patches)
    return all(
        where is TABLE or getattr(where, "__module__", getattr(where, "__name__", "")).startswith("coordinator.core")
        for where in places
    )


PAIRS = [(path, name) for path in TRANSCRIPTS for name in mutants_named(path)]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, rewrite: bool) -> None:
    check(path, CoordinatorDriver(), rewrite)


@pytest.mark.parametrize("path, name", PAIRS, ids=[f"{path.stem[:2]}-{name.replace(' ', '_')}" for path, name in PAIRS])
def test_a_transcript_catches_its_mutants(path: Path, name: str) -> None:
    with BY_NAME[name].applied(), pytest.raises(Exception):  # noqa: B017  # a mutant may fail in any way
        check(path, CoordinatorDriver(), rewrite=False)


def test_every_mutant_of_the_core_is_caught_by_a_transcript() -> None:
    assert {mutant.name for mutant in BY_NAME.values() if is_of_the_core(mutant)} <= {name for _, name in PAIRS}
