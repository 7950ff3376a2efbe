"""Every test of the logs leaves no thread behind: aiosqlite's would keep the process from ending."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from log_samples import PostgresStore
from mariadb_samples import MariadbStore

from participant_sdk.testing.mariadb import MariadbServer
from participant_sdk.testing.postgres import PostgresServer
from tests.patience import SECONDS as PATIENCE_SECONDS
from tests.secured_postgres import nothing_from_outside, secured  # noqa: F401 - fixtures of tests here
from tests.xa_servers import *  # noqa: F403 - fixtures, and a hook


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests that do not stop it; each has a database of its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def postgres_store(postgres: PostgresServer) -> PostgresStore:
    store = PostgresStore(postgres)
    await store.create()
    return store


@pytest.fixture
async def mariadb_store(mariadb: MariadbServer) -> MariadbStore:
    store = MariadbStore(mariadb)
    await store.create()
    return store


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("asyncio_"):
            thread.join(timeout=PATIENCE_SECONDS)
            assert not thread.is_alive(), f"{thread.name} was left behind"
