"""Tests of these tests: known-bad changes must make some test fail. See `pg_mutants.py`."""

from __future__ import annotations

import os

import pytest
from pg_mutants import CHEAP, COSTLY

from tests.mutated import VARIABLE, check_all_fit, survivors

pytestmark = pytest.mark.skipif(VARIABLE in os.environ, reason="a mutant's own run does not begin others")

EACH = 3
"""Every third is tried by default, of those that need no server; `PG_MUTANTS=all` tries all, in some minutes."""


def test_every_mutant_changes_what_is_there() -> None:
    check_all_fit((*CHEAP, *COSTLY))


def test_mutants_are_caught() -> None:
    chosen = (*CHEAP, *COSTLY) if os.environ.get("PG_MUTANTS") == "all" else CHEAP[::EACH]
    assert survivors(chosen) == []
