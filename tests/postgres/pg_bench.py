"""A database with the tables of the contract suite, and the suite's operations in both styles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import psycopg
import sqlalchemy

from participant_sdk.registry import Registry
from participant_sdk.resources.contract import Resource
from participant_sdk.resources.postgres import Postgres, PostgresLimits
from participant_sdk.testing.postgres import PostgresServer
from troth.errors import Refuse
from troth.log import postgres_branches

TABLE = "CREATE TABLE item (name text PRIMARY KEY, value integer NOT NULL)"
LIMITS = PostgresLimits(connections_max=6, connect_wait_seconds=5.0, lock_wait_seconds=0.5)


class Database:
    """One database of a server, as new for each test. (To make a database takes ten times as long.)"""

    name = "bench"

    def __init__(self, server: PostgresServer) -> None:
        self.server = server

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    async def create(self) -> None:
        async with await psycopg.AsyncConnection.connect(self.server.dsn(), autocommit=True) as connection:
            cursor = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (self.name,))
            if await cursor.fetchone() is None:
                await connection.execute(f"CREATE DATABASE {self.name}")
        await self.drop()
        await self.sql(f"CREATE SCHEMA public; {TABLE}; {'; '.join(postgres_branches.CREATE)}")

    async def drop(self) -> None:
        """Nobody has it any more, and nothing is in it."""
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        await self.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        for gid in await self.prepared():
            await self.sql(f"ROLLBACK PREPARED '{gid}'")
        await self.sql("DROP SCHEMA IF EXISTS public, troth CASCADE")

    async def names(self) -> list[str]:
        """Of the rows that are committed."""
        return [row[0] for row in await self.sql("SELECT name FROM item ORDER BY 1")]

    async def sql(self, statement: str, *parameters: Any) -> list[Any]:
        """Past the resource, as somebody else."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            cursor = await connection.execute(statement, parameters or None)
            return await cursor.fetchall() if cursor.description else []

    async def prepared(self) -> list[str]:
        rows = await self.sql("SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY 1")
        return [row[0] for row in rows]


PUT = "INSERT INTO item VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
GET = "SELECT value FROM item WHERE name = %s"


async def put(db: psycopg.AsyncConnection[Any], *, name: str, value: int) -> None:
    await db.execute(PUT, (name, value))


async def get(db: psycopg.AsyncConnection[Any], *, name: str) -> int | None:
    row = await (await db.execute(GET, (name,))).fetchone()
    return row and row[0]


async def refuse(db: psycopg.AsyncConnection[Any], *, name: str, value: int) -> None:
    await put(db, name=name, value=value)
    raise Refuse("NO", "it refuses")


def put_blocking(db: psycopg.Connection[Any], *, name: str, value: int) -> None:
    db.execute(PUT, (name, value))


def get_blocking(db: psycopg.Connection[Any], *, name: str) -> int | None:
    row = db.execute(GET, (name,)).fetchone()
    return row and row[0]


def refuse_blocking(db: psycopg.Connection[Any], *, name: str, value: int) -> None:
    put_blocking(db, name=name, value=value)
    raise Refuse("NO", "it refuses")


async def put_asyncpg(db: asyncpg.Connection[Any], *, name: str, value: int) -> None:
    await db.execute(PUT.replace("%s, %s", "$1, $2"), name, value)


async def get_asyncpg(db: asyncpg.Connection[Any], *, name: str) -> int | None:
    value: int | None = await db.fetchval(GET.replace("%s", "$1"), name)
    return value


async def refuse_asyncpg(db: asyncpg.Connection[Any], *, name: str, value: int) -> None:
    await put_asyncpg(db, name=name, value=value)
    raise Refuse("NO", "it refuses")


ASYNC = {"put": put, "get": get, "refuse": refuse}
ASYNCPG = {"put": put_asyncpg, "get": get_asyncpg, "refuse": refuse_asyncpg}
BLOCKING = {"put": put_blocking, "get": get_blocking, "refuse": refuse_blocking}


def asyncpg_pool(database: Database, **options: Any) -> Any:
    """A pool of a service, not opened."""
    where = {"host": str(database.server.directory), "user": "troth", "database": database.name}
    return asyncpg.create_pool(**{"min_size": 0, "max_size": 6, **where, **options})


def url(database: Database, driver: str = "psycopg") -> sqlalchemy.URL:
    """Of an engine."""
    query = {"host": str(database.server.directory)}
    return sqlalchemy.URL.create(f"postgresql+{driver}", username="troth", database=database.name, query=query)


class PostgresWorkbench:
    """The suite's workbench on one database. `make` makes a resource for a DSN."""

    def __init__(self, database: Database, operations: dict[str, Callable[..., Any]], make: Callable[[str], Postgres]) -> None:
        self._database = database
        self._operations = operations
        self._make = make

    def resource(self) -> Resource:
        return self._make(self._database.dsn)

    def register(self, registry: Registry) -> None:
        for name, function in self._operations.items():
            registry.add(function, name=name)

    async def crash(self, resource: Resource) -> None:
        """Its sockets close without a word."""
        assert isinstance(resource, Postgres)
        for branch in list(resource._branches.values()):
            branch.cut()
        await resource.close()

    async def visible(self, name: str) -> int | None:
        rows = await self._database.sql(GET, name)
        return rows[0][0] if rows else None


def from_dsn(dsn: str) -> Postgres:
    return Postgres(dsn, limits=LIMITS)
