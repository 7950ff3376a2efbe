"""Fixtures: places for a history, and transactions that are over."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from coordinator.core.effects import Over
from coordinator.core.model import BranchStep, State
from coordinator.core.timeline import Moments
from coordinator.history.postgres import PostgresHistory
from coordinator.history.sqlite import SqliteHistory
from coordinator.history.store import HistoryStore
from participant_sdk.testing.postgres import PostgresServer
from troth.v1 import common_pb2

MakeOver = Callable[..., Over]


@pytest.fixture
def over() -> MakeOver:
    """Makes a transaction that is over: the nth began n seconds after the epoch and took a second."""

    def make(number: int, **fields: Any) -> Over:
        values: dict[str, Any] = {
            "transaction_id": f"c1.1.0badcafe.1.{number}", "outcome": common_pb2.OUTCOME_COMMITTED,
            "first_attempt_ms": number * 1_000, "at_ms": number * 1_000 + 1_000, "participants": ("bank", "stock"), "cause": None,
            "key": "", "heuristic": "", "client": "", "trace": None, "is_news": False,
            "moments": Moments(((State.ACTIVE, 5.0), (State.COMMITTED, 6.0)), (("bank", 5.5, 6.0, BranchStep.OVER),), (), 6.0),
        }  # fmt: skip
        return Over(**{**values, **fields})

    return make


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def dsn(server: PostgresServer) -> str:
    """A database with a schema for Troth's tables."""
    name = f"h{secrets.token_hex(6)}"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]  # the test's own name
    with psycopg.connect(server.dsn(name), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA troth")
    return server.dsn(name)


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HistoryStore]:
    """An empty place, open."""
    place: HistoryStore
    place = SqliteHistory(tmp_path) if request.param == "sqlite" else PostgresHistory(request.getfixturevalue("dsn"), "c1")
    await place.open()
    yield place
    await place.close()
