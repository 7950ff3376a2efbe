"""The limits of a participant: what cannot be, or what another limit keeps from being reached, is refused at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from participant_sdk import Limits, Participant, SqliteResource
from troth.errors import ConfigError


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"operations_max": 0}, "operations_max is 0"), ({"calls_bytes_max": 1.5}, "calls_bytes_max is 1.5"),
        ({"lock_wait_seconds": float("inf")}, "lock_wait_seconds is inf"), ({"open_branches_max": True}, "is True"),
        ({"lock_wait_seconds": "2"}, "lock_wait_seconds is '2'"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Limits(**wrong)


def test_limits_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    resource = SqliteResource(tmp_path / "bank.db", results_bytes_max=2_000_000)
    with pytest.raises(ConfigError, match="results_bytes_max of the resource is 2000000, above calls_bytes_max"):
        Participant(
            "bank", resource=resource, data_directory=tmp_path, coordinator="127.0.0.1:1", limits=Limits(calls_bytes_max=1_000_000)
        )
