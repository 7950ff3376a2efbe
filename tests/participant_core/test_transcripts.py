"""The rules of DESIGN section 4 that a participant carries, each as a transcript."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.participant_core.driver import ParticipantDriver
from tests.transcripts import check

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, rewrite: bool) -> None:
    check(path, ParticipantDriver(), rewrite)
