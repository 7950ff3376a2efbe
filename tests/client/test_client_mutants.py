"""Tests of the client's tests: known-bad changes of the client must make some test fail. See `client_mutants.py`."""

from __future__ import annotations

import os

import pytest
from client_mutants import MUTANTS

from tests.mutated import VARIABLE, check_all_fit, drawn, survivors

pytestmark = pytest.mark.skipif(VARIABLE in os.environ, reason="a mutant's own run does not begin others")

SAMPLE = 8
"""How many are tried by default; `CLIENT_MUTANTS=all` tries all, in some minutes."""


def test_every_mutant_changes_what_is_there() -> None:
    check_all_fit(MUTANTS)


def test_mutants_of_the_client_are_caught() -> None:
    assert survivors(drawn(MUTANTS, SAMPLE, "CLIENT_MUTANTS")) == []
