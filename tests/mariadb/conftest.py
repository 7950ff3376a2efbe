"""Private MariaDB servers for all of these tests: one that lives, and one that tests stop and start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ma_bench import Database

from participant_sdk.testing.mariadb import MariadbServer
from tests.xa_servers import *  # noqa: F403 - fixtures, and a hook
from troth import logs


@pytest.fixture
def database(mariadb: MariadbServer) -> Iterator[Database]:
    database = Database(mariadb)
    database.create()
    yield database
    database.drop()


@pytest.fixture
def own(breakable_mariadb: MariadbServer) -> Database:
    """On the server that tests stop and start."""
    own = Database(breakable_mariadb)
    own.create()
    return own


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Expected failures say nothing."""
    with logs.quiet():
        yield
