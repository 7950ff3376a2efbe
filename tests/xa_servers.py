"""MariaDB's tests on both servers that the code serves.

    @pytest.mark.both     on a test, a class or a module: it runs on MySQL too, where that can be had
    on_mysql              on what runs there alone
    TEST_ON=mysql         in the environment: everything runs on MySQL alone, also what says how MariaDB is different

Servers start when a test first wants them: of each kind one that lives, and one that tests stop and start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from participant_sdk.testing.mariadb import MariadbServer
from participant_sdk.testing.mysql import MysqlServer

_ALONE = os.environ.get("TEST_ON", "mariadb")
_MYSQL = pytest.param("mysql", marks=pytest.mark.skipif(not os.environ.get("TEST_MYSQL_BIN"), reason="MySQL is not there"))
on_mysql = pytest.mark.parametrize("kind", [_MYSQL], indirect=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is to run on both has a parameter for that."""
    if "kind" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both") and _ALONE == "mariadb":
        metafunc.parametrize("kind", ["mariadb", _MYSQL], indirect=True)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Which server this test has: "mariadb" or "mysql"."""
    return str(getattr(request, "param", _ALONE))


@pytest.fixture(scope="session")
def living_mariadb() -> Iterator[MariadbServer]:
    with MariadbServer() as server:
        yield server


@pytest.fixture(scope="session")
def stopped_mariadb() -> Iterator[MariadbServer]:
    with MariadbServer() as server:
        yield server


@pytest.fixture(scope="session")
def living_mysql() -> Iterator[MariadbServer]:
    with MysqlServer() as server:
        yield server


@pytest.fixture(scope="session")
def stopped_mysql() -> Iterator[MariadbServer]:
    with MysqlServer() as server:
        yield server


@pytest.fixture
def mariadb(kind: str, request: pytest.FixtureRequest) -> MariadbServer:
    """One server for all tests that do not stop it; each has a database of its own."""
    server: MariadbServer = request.getfixturevalue(f"living_{kind}")
    return server


@pytest.fixture
def breakable_mariadb(kind: str, request: pytest.FixtureRequest) -> MariadbServer:
    """One that tests stop and start."""
    server: MariadbServer = request.getfixturevalue(f"stopped_{kind}")
    return server
