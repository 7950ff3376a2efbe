"""Tests of these tests: known-bad changes must make some test fail. See `ma_mutants.py`."""

from __future__ import annotations

import os

import pytest
from ma_mutants import MUTANTS

from tests.mutated import VARIABLE, check_all_fit, survivors

pytestmark = pytest.mark.skipif(VARIABLE in os.environ, reason="a mutant's own run does not begin others")


def test_every_mutant_changes_what_is_there() -> None:
    check_all_fit(MUTANTS)


def test_mutants_are_caught() -> None:
    """Each starts a server: `MARIADB_MUTANTS=all` tries them, in two minutes; by default none."""
    chosen = MUTANTS if os.environ.get("MARIADB_MUTANTS") == "all" else ()
    assert survivors(chosen) == []
