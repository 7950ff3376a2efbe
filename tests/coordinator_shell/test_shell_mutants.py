"""Tests of the services' tests: known-bad changes of the services must make some test fail. See `shell_mutants.py`."""

from __future__ import annotations

import os

import pytest
from shell_mutants import MUTANTS

from tests.mutated import VARIABLE, survivors

pytestmark = pytest.mark.skipif(VARIABLE in os.environ, reason="a mutant's own run does not begin others")

SAMPLE = 4
"""How many are tried by default; `SHELL_MUTANTS=all` tries all, in some minutes."""


def test_every_mutant_changes_what_is_there() -> None:
    for mutant in MUTANTS:
        mutant.text()
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_mutants_of_the_services_are_caught() -> None:
    chosen = MUTANTS if os.environ.get("SHELL_MUTANTS") == "all" else MUTANTS[:: len(MUTANTS) // SAMPLE]
    assert survivors(chosen) == []
