"""The contract suite on a real server: both styles of operations, each way of giving connections."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from pg_bench import ASYNC, ASYNCPG, BLOCKING, LIMITS, Database, PostgresWorkbench, asyncpg_pool, from_dsn
from pg_drivers import SESSIONS, disposed
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from participant_sdk.resources.postgres import Postgres
from participant_sdk.testing.contract import ResourceContract, Workbench
from participant_sdk.testing.postgres import PostgresServer
from tests.log.log_pgbouncer import PgBouncer


@pytest.fixture(scope="module")
def bouncer(server: PostgresServer) -> Iterator[PgBouncer]:
    with PgBouncer(server, "transaction") as bouncer:
        yield bouncer


class TestOwnPool(ResourceContract):
    """`async def` on connections that the SDK opens."""

    @pytest.fixture
    def workbench(self, database: Database) -> Workbench:
        return PostgresWorkbench(database, ASYNC, from_dsn)


class TestThreads(ResourceContract):
    """Plain `def` on connections that the SDK opens."""

    @pytest.fixture
    def workbench(self, database: Database) -> Workbench:
        return PostgresWorkbench(database, BLOCKING, from_dsn)


class TestServicesPool(ResourceContract):
    """A mixture on the service's own asynchronous pool, which does not autocommit."""

    @pytest.fixture
    async def workbench(self, database: Database) -> AsyncIterator[Workbench]:
        async with AsyncConnectionPool(database.dsn, min_size=1, max_size=6, open=False) as pool:
            mixed = {**ASYNC, "get": BLOCKING["get"]}
            yield PostgresWorkbench(database, mixed, lambda dsn: Postgres(pool, limits=LIMITS))


class TestPooledByTransaction(ResourceContract):
    """Through a proxy that gives each transaction another backend. Statements must not be prepared in sessions then."""

    @pytest.fixture
    async def workbench(self, database: Database, bouncer: PgBouncer) -> AsyncIterator[Workbench]:
        options = {"prepare_threshold": None}
        async with AsyncConnectionPool(
            bouncer.dsn(database.name), min_size=1, max_size=6, open=False, kwargs=options
        ) as pool:
            yield PostgresWorkbench(database, ASYNC, lambda dsn: Postgres(pool, limits=LIMITS))


class TestServicesBlockingPool(ResourceContract):
    """A mixture on the service's own blocking pool."""

    @pytest.fixture
    def workbench(self, database: Database) -> Iterator[Workbench]:
        with ConnectionPool(database.dsn, min_size=1, max_size=6, open=True) as pool:
            mixed = {**BLOCKING, "refuse": ASYNC["refuse"]}
            yield PostgresWorkbench(database, mixed, lambda dsn: Postgres(pool, limits=LIMITS))


class TestAsyncpg(ResourceContract):
    """On the service's own pool of asyncpg."""

    @pytest.fixture
    async def workbench(self, database: Database) -> AsyncIterator[Workbench]:
        async with asyncpg_pool(database) as pool:
            yield PostgresWorkbench(database, ASYNCPG, lambda dsn: Postgres(pool, limits=LIMITS))


class TestAsyncpgPooledByTransaction(ResourceContract):
    """Through a proxy that gives each transaction another backend; asyncpg keeps no statements then."""

    @pytest.fixture
    async def workbench(self, database: Database, bouncer: PgBouncer) -> AsyncIterator[Workbench]:
        where = conninfo_to_dict(bouncer.dsn(database.name))
        async with asyncpg_pool(database, statement_cache_size=0, host=where["host"], port=where["port"]) as pool:
            yield PostgresWorkbench(database, ASYNCPG, lambda dsn: Postgres(pool, limits=LIMITS))


class TestAsyncpgEnginePooledByTransaction(ResourceContract):
    """The same with SQLAlchemy, which keeps no statements then, and gives those that it prepares a name that nobody else has."""

    @pytest.fixture
    async def workbench(self, database: Database, bouncer: PgBouncer) -> AsyncIterator[Workbench]:
        where = conninfo_to_dict(bouncer.dsn(database.name))
        options = {
            "host": where["host"],
            "port": where["port"],
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"s{uuid.uuid4()}",
        }
        async with disposed(database, connect_args=options) as engine:
            yield PostgresWorkbench(database, SESSIONS, lambda dsn: Postgres(engine=engine, limits=LIMITS))
