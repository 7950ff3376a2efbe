"""What a cell and two services of the last landed version have left in databases, when all of them were killed at once, is gone on
with by this version: in the tables that the old one made, with the branches that the old one prepared."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from golden_stores import DATABASE, make_participants, node

from participant_sdk.client import Client, call
from participant_sdk.testing.mariadb import MariadbServer
from participant_sdk.testing.postgres import PostgresServer
from troth.log import mariadb_store, postgres_store

STORES = Path(__file__).parent / "c8bca16" / "stores.json"
RECORDED_MS = 1_796_081_370_000
"""About when. The logs' clock goes on from there, and follows the machine's slowly: what was first tried much later is refused."""
WAIT_SECONDS = 60.0


@pytest.fixture(scope="module")
def left() -> Any:
    """What was written down."""
    return json.loads(STORES.read_text(encoding="utf-8"))


def value_of(plain: Any) -> Any:
    """As the database has it."""
    if not isinstance(plain, dict):
        return plain
    return base64.b64decode(plain["base64"]) if "base64" in plain else plain["text"]


def fill(execute: Any, tables: Any, between: str = "") -> None:
    """Put all rows into tables that are there."""
    for table, found in tables.items():
        columns, marks = ", ".join(found["columns"]), ", ".join(["%s"] * len(found["columns"]))
        for row in found["rows"]:
            execute(f"INSERT INTO {table} ({columns}) {between} VALUES ({marks})", [value_of(one) for one in row])


class Postgres:
    """The database of the cell and of `north`, as it was."""

    def __init__(self, server: PostgresServer, left: Any) -> None:
        self.dsn = server.dsn()
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in left["made"]:
                connection.execute(statement)
            fill(connection.execute, left["tables"], "OVERRIDING SYSTEM VALUE")
            connection.execute("SELECT setval('done_number_seq', 1000)")
            for gid, action in left["prepared"]:
                connection.execute("BEGIN")
                connection.execute("INSERT INTO done (action) VALUES (%s)", [action])
                connection.execute("INSERT INTO troth.branch (gid) VALUES (%s)", [gid])
                connection.execute(f"PREPARE TRANSACTION '{gid}'")  # type: ignore[arg-type]  # it has no parameters

    def ask(self, sql: str) -> list[Any]:
        """The first column of what is found."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return [row[0] for row in connection.execute(sql)]  # type: ignore[arg-type]  # it is no literal

    def prepared(self) -> list[Any]:
        """Branches that are not finished."""
        return self.ask("SELECT gid FROM pg_prepared_xacts")


class Mariadb:
    """The database of `south`, as it was."""

    def __init__(self, server: MariadbServer, left: Any) -> None:
        self.dsn, self._server = server.dsn(DATABASE), server
        self._run(f"CREATE DATABASE {DATABASE}", database=None)
        for statement in left["made"]:
            self._run(statement)
        connection = self._connect(DATABASE)
        fill(connection.cursor().execute, left["tables"])
        connection.close()
        for xid, action, gid in left["prepared"]:
            connection = self._connect(DATABASE)  # a prepared branch stays with its session until that ends
            cursor = connection.cursor()
            cursor.execute(f"XA START {xid}")
            cursor.execute("INSERT INTO done (action) VALUES (%s)", [action])
            cursor.execute("INSERT INTO troth_branch (gid) VALUES (%s)", [gid])
            cursor.execute(f"XA END {xid}")
            cursor.execute(f"XA PREPARE {xid}")
            connection.close()

    def _connect(self, database: str | None) -> Any:
        return pymysql.connect(unix_socket=str(self._server.socket), user="root", database=database, autocommit=True)

    def _run(self, sql: str, database: str | None = DATABASE) -> Any:
        connection = self._connect(database)
        try:
            cursor = connection.cursor()
            cursor.execute(sql)
            return cursor.fetchall()
        finally:
            connection.close()

    def ask(self, sql: str) -> list[Any]:
        """The first column of what is found."""
        return [row[0] for row in self._run(sql)]

    def prepared(self) -> list[Any]:
        """Branches that are not finished."""
        return self.ask("XA RECOVER")


@pytest.fixture(scope="module")
def stores(left: Any) -> Iterator[tuple[Postgres, Mariadb]]:
    """Both databases, as they were."""
    with PostgresServer() as postgres, MariadbServer() as mariadb:
        yield Postgres(postgres, left["postgres"]), Mariadb(mariadb, left["mariadb"])


def test_it_has_work_in_every_state(left: Any) -> None:
    """Or the test below would show little: prepared on either side, decided and not, and committed at one of the two only."""
    done = {row[-1] for row in left["postgres"]["tables"]["done"]["rows"]}
    assert left["postgres"]["prepared"] and left["mariadb"]["prepared"]
    assert done & {action for _, action, _ in left["mariadb"]["prepared"]}, "committed here, in doubt there"
    assert len(left["told"]) >= 40


def of_north_alone(action: str) -> bool:
    """Whether a caller's turn was one that only one service had work in."""
    turn = action.partition("/")[2]
    return turn.isdigit() and int(turn) % 7 == 6


async def test_what_the_old_version_left_in_databases_goes_on(left: Any, stores: tuple[Postgres, Mariadb]) -> None:
    postgres, mariadb = stores
    async with node(postgres.dsn) as address, AsyncExitStack() as stack:
        for one in make_participants(postgres.dsn, mariadb.dsn, address):
            await stack.enter_async_context(one)
            await one.wait_connected()
        client = await stack.enter_async_context(Client(address))
        async with asyncio.timeout(WAIT_SECONDS):
            while postgres.prepared() or mariadb.prepared():  # noqa: ASYNC110 - it is done by the services
                await asyncio.sleep(0.05)
        keyed = next(action for action in left["told"] if int(action[0]) % 2)
        again = [call("north", "put", action=keyed), call("south", "put", action=keyed, refused=False)]
        retried = await client.run(*again, key=keyed, first_attempt_ms=RECORDED_MS)
        assert ".1." in retried.transaction_id.removeprefix("c1-"), "of the life before: it is told, and not done again"
        after = "after the upgrade"
        await client.run(call("north", "put", action=after), call("south", "put", action=after), wait="complete")
    north, south = (Counter(store.ask("SELECT action FROM done")) for store in stores)
    alone = Counter({action: north[action] for action in north if of_north_alone(action)})
    assert north - alone == south, "everywhere or nowhere, and once"
    assert set(left["told"]) <= set(south) and after in south


async def test_the_stores_of_the_old_version_need_no_upgrade(stores: tuple[Postgres, Mariadb]) -> None:
    """Should one need it, the changelog has to say so: everything stops for it."""
    postgres, mariadb = stores
    assert len(await postgres_store.upgrade(postgres.dsn)) == 1
    assert {one.role for one in await postgres_store.status(postgres.dsn)} == {"coordinator", "participant"}
    assert [one.role for one in await mariadb_store.status(mariadb.dsn)] == ["participant"]
    await postgres_store.init(postgres.dsn, "participant", (), branches=True)  # as an operator is told to, for what is new
    await mariadb_store.init(mariadb.dsn, "participant", (), branches=True)
