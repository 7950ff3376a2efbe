"""One private PostgreSQL server for all of these tests; each test has a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pg_bench import Database
from pg_processes import Processes

from participant_sdk.testing.postgres import PostgresServer
from tests.secured_postgres import nothing_from_outside, secured  # noqa: F401 - fixtures of tests here
from troth import logs


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def breakable() -> Iterator[PostgresServer]:
    """Another one, which tests stop and start."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def database(server: PostgresServer) -> AsyncIterator[Database]:
    database = Database(server)
    await database.create()
    yield database
    await database.drop()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    processes.end()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Expected failures say nothing."""
    with logs.quiet():
        yield
