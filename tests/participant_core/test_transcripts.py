"""The rules of DESIGN section 4 that a participant carries, each as a transcript; and mutants that some of them catch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.participant_core.driver import ParticipantDriver
from tests.sim.mutant import SCRIPTED
from tests.sim.mutants import MUTANTS
from tests.transcripts import check, mutants_named

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, rewrite: bool) -> None:
    check(path, ParticipantDriver(), rewrite)


PAIRS = [(path, name) for path in TRANSCRIPTS for name in mutants_named(path)]


@pytest.mark.parametrize("path, name", PAIRS, ids=[f"{path.stem[:2]}-{name.replace(' ', '_')}" for path, name in PAIRS])
def test_a_transcript_catches_its_mutants(path: Path, name: str) -> None:
    mutant = next(mutant for mutant in (*MUTANTS, *SCRIPTED) if mutant.name == name)
    with mutant.applied(), pytest.raises(Exception):  # noqa: B017  # a mutant may fail in any way
        check(path, ParticipantDriver(), rewrite=False)


def test_every_mutant_that_transcripts_alone_catch_is_named_by_one() -> None:
    others = (Path(__file__).parents[1] / "coordinator_core" / "transcripts").glob("*.txt")
    assert {mutant.name for mutant in SCRIPTED} <= {name for path in (*TRANSCRIPTS, *others) for name in mutants_named(path)}
