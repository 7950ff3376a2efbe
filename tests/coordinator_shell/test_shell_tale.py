"""The line that is written when a transaction is over."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.config import load
from coordinator.core.effects import Over
from coordinator.core.model import State
from coordinator.core.timeline import Moments
from coordinator.services import tale
from troth import logs
from troth.errors import ConfigError
from troth.v1 import common_pb2

STEPS = ((State.ACTIVE, 1.0), (State.PREPARING, 1.5), (State.ABORTED, 3.5))


def over(**fields: Any) -> Over:
    cause = common_pb2.Cause(reason="REFUSED", participant="stock", code="NO_STOCK", message="none is left")
    values: dict[str, Any] = {
        "transaction_id": "c1.1.0badcafe.1.1", "outcome": common_pb2.OUTCOME_ABORTED, "first_attempt_ms": 1_000, "at_ms": 3_600,
        "participants": ("bank", "stock"), "cause": cause, "key": "order 7", "heuristic": "", "client": "shop", "trace": None,
        "moments": Moments(STEPS, (), (2.0,), 3.5), "is_news": False,
    }  # fmt: skip
    return Over(**{**values, **fields})


def told(choice: str, *overs: Over) -> list[tuple[str, str, dict[str, Any]]]:
    lines: list[tuple[str, str, dict[str, Any]]] = []
    with logs.heard_by(lambda level, event, fields: lines.append((level, event, fields))):
        for one in overs:
            hear = tale.teller(choice)
            if hear is not None:
                hear(one)
    return lines


def test_one_line_has_everything_and_no_key() -> None:
    ((level, event, fields),) = told("all", over())
    assert (level, event) == ("info", tale.EVENT)
    assert fields.pop("key_hash") and fields == {
        "transaction_id": "c1.1.0badcafe.1.1", "outcome": "ABORTED", "participants": ["bank", "stock"], "reason": "REFUSED",
        "refused_by": "stock", "code": "NO_STOCK", "why": "none is left", "age_ms": 2_600, "work_ms": 500.0, "vote_ms": 2_000.0,
        "repeats": 1, "client": "shop",
    }  # fmt: skip


def test_what_is_told_is_chosen() -> None:
    committed = over(outcome=common_pb2.OUTCOME_COMMITTED, cause=None)
    mixed = over(outcome=common_pb2.OUTCOME_MIXED, heuristic="stock was forced")
    assert [level for level, _, _ in told("all", committed, over(), mixed)] == ["info", "info", "warning"]
    assert [fields["outcome"] for _, _, fields in told("not_committed", committed, over(), mixed)] == ["ABORTED", "MIXED"]
    assert told("none", committed, over(), mixed) == []
    with pytest.raises(ConfigError, match="log_transactions"):
        load(environment={}, flags={"log_transactions": "some"})
