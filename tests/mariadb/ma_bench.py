"""A database with the tables of the contract suite, and the suite's operations for each driver."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pymysql

from participant_sdk.registry import Registry
from participant_sdk.resources.contract import Resource
from participant_sdk.resources.mariadb import MariaDB, MariadbLimits
from participant_sdk.testing.mariadb import MariadbServer
from participant_sdk.testing.mysql import MysqlServer
from troth.errors import Refuse
from troth.log import mariadb_branches
from troth.mariadb.dialect import MARIADB, MYSQL, Dialect

TABLE = "CREATE TABLE item (name VARCHAR(60) PRIMARY KEY, value INT NOT NULL) ENGINE = InnoDB"
LIMITS = MariadbLimits(connections_max=6, connect_wait_seconds=5.0, lock_wait_seconds=1.0)


class Database:
    """One database of a server, as new for each test."""

    name = "bench"

    def __init__(self, server: MariadbServer) -> None:
        self.server = server

    @property
    def dialect(self) -> Dialect:
        """Of the server."""
        return MYSQL if isinstance(self.server, MysqlServer) else MARIADB

    def dsn(self, **more: Any) -> str:
        return self.server.dsn(self.name, **more)

    def create(self) -> None:
        self.drop()
        self.sql(f"CREATE DATABASE {self.name}", database="mysql")
        self.sql(TABLE)
        self.sql(mariadb_branches.CREATE)

    def drop(self) -> None:
        """Nobody has it any more, and nothing is in it."""
        sessions = f"SELECT ID FROM information_schema.PROCESSLIST WHERE DB = '{self.name}'"
        for (session,) in self.sql(sessions, database="mysql"):
            with suppress(pymysql.Error):  # it has ended by itself
                self.sql(f"KILL {session}", database="mysql")
        while self.sql(sessions, database="mysql"):
            pass
        for xid in self.prepared():
            self.sql(f"XA ROLLBACK {xid.sql}", database="mysql")
        self.sql(f"DROP DATABASE IF EXISTS {self.name}", database="mysql")

    def session(self, *statements: str, database: str = "", user: str = "root") -> pymysql.Connection[Any]:
        """A connection of somebody else, with open work."""
        connection: Any = pymysql.connect(
            unix_socket=str(self.server.socket), user=user, database=database or self.name, autocommit=True, ssl_disabled=True
        )
        for statement in statements:
            connection.cursor().execute(statement)
        return connection

    def sql(self, statement: str, *parameters: Any, database: str = "") -> list[Any]:
        """Past the resource, as somebody else."""
        connection = self.session(database=database)
        try:
            cursor = connection.cursor()
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())
        finally:
            connection.close()

    def prepared(self) -> list[mariadb_branches.Xid]:
        return mariadb_branches.listed(self.sql("XA RECOVER", database="mysql"))


PUT = "INSERT INTO item (name, value) SELECT n, v FROM (SELECT %s AS n, %s AS v) AS new ON DUPLICATE KEY UPDATE value = v"
"""As both servers take it without a warning."""
GET = "SELECT value FROM item WHERE name = %s"


async def execute(db: Any, statement: str, *parameters: Any) -> Any:
    """The rows of a statement, on a connection of aiomysql or asyncmy."""
    async with db.cursor() as cursor:
        await cursor.execute(statement, parameters or None)
        return await cursor.fetchall() if cursor.description else []


async def put(db: Any, *, name: str, value: int) -> None:
    await execute(db, PUT, name, value)


async def get(db: Any, *, name: str) -> int | None:
    rows = await execute(db, GET, name)
    return rows[0][0] if rows else None


async def refuse(db: Any, *, name: str, value: int) -> None:
    await put(db, name=name, value=value)
    raise Refuse("NO", "it refuses")


def put_blocking(db: Any, *, name: str, value: int) -> None:
    db.cursor().execute(PUT, (name, value))


def get_blocking(db: Any, *, name: str) -> int | None:
    cursor = db.cursor()
    cursor.execute(GET, (name,))
    row = cursor.fetchone()
    return row and row[0]


def refuse_blocking(db: Any, *, name: str, value: int) -> None:
    put_blocking(db, name=name, value=value)
    raise Refuse("NO", "it refuses")


ASYNC: dict[str, Callable[..., Any]] = {"put": put, "get": get, "refuse": refuse}
BLOCKING: dict[str, Callable[..., Any]] = {"put": put_blocking, "get": get_blocking, "refuse": refuse_blocking}


class MariadbWorkbench:
    """The suite's workbench on one database. `make` makes a resource for it."""

    def __init__(
        self, database: Database, operations: dict[str, Callable[..., Any]], make: Callable[[Database], MariaDB]
    ) -> None:
        self._database = database
        self._operations = operations
        self._make = make

    def resource(self) -> Resource:
        return self._make(self._database)

    def register(self, registry: Registry) -> None:
        for name, function in self._operations.items():
            registry.add(function, name=name)

    async def crash(self, resource: Resource) -> None:
        """Its sockets close without a word."""
        assert isinstance(resource, MariaDB)
        for branch in list(resource._branches.values()):
            branch._connection.cut()
        await resource.close()

    async def visible(self, name: str) -> int | None:
        rows = self._database.sql(GET, name)
        return rows[0][0] if rows else None


def from_dsn(driver: str = "aiomysql") -> Callable[[Database], MariaDB]:
    return lambda database: MariaDB(database.dsn(driver=driver), limits=LIMITS)
