"""The outbox in PostgreSQL: its contracts, with each kind of `db`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import django_shop
import psycopg
import pytest
from pg_bench import Database, asyncpg_pool, url
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from participant_sdk import Postgres, PostgresLimits
from participant_sdk.outbox import BODY_BYTES_MAX, Relay, RelayLimits, put, store
from participant_sdk.outbox.store import store_of
from participant_sdk.testing.postgres import PostgresServer
from tests.outbox import LeavingContract, OutboxBench, Received, RelayContract
from tests.outbox_broken import BrokenContract
from tests.outbox_turns import TurnsContract
from tests.relational import until
from troth.errors import RequestError
from troth.log import postgres_branches

LIMITS = PostgresLimits(connections_max=8, lock_wait_seconds=0.3)


class Place:
    """See `OutboxPlace`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.dsn = database.dsn

    async def rows(self) -> list[Any]:
        columns = "encode(body, 'escape'), attempts, error, aside IS NOT NULL"
        return await self._database.sql(f"SELECT {columns} FROM troth.outbox ORDER BY position")

    async def left(self, *messages: tuple[str, str | None, str]) -> None:
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as other:
            for topic, key, body in messages:
                await put(other, topic, body, key=key)

    async def sql(self, statement: str) -> None:
        await self._database.sql(statement.format(outbox="troth.outbox", no_index="DROP INDEX troth.outbox_topic"))

    async def try_again(self) -> None:
        await self._database.sql("UPDATE troth.outbox SET aside = NULL, attempts = 0, due = now() WHERE aside IS NOT NULL")

    async def undecided(self, body: str, key: str) -> None:
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as other:
            await other.execute("BEGIN")
            await put(other, "paid", body, key=key)
            await other.execute("PREPARE TRANSACTION 'undecided'")

    async def decide(self) -> None:
        await self._database.sql("COMMIT PREPARED 'undecided'")


def on_dsn(database: Database, *, blocking: bool = False) -> OutboxBench:
    return OutboxBench(Place(database), lambda: Postgres(database.dsn, limits=LIMITS), blocking)


class TestRelay(RelayContract):
    @pytest.fixture
    def bench(self, database: Database) -> OutboxBench:
        return on_dsn(database)


@pytest.fixture
def place(database: Database) -> Place:
    return Place(database)


class TestTurns(TurnsContract):
    pass


class TestBroken(BrokenContract):
    pass


class TestPsycopg(LeavingContract):
    @pytest.fixture(params=[False, True], ids=["async", "blocking"])
    def bench(self, database: Database, request: pytest.FixtureRequest) -> OutboxBench:
        return on_dsn(database, blocking=request.param)


class TestAsyncpg(LeavingContract):
    @pytest.fixture
    async def bench(self, database: Database) -> AsyncIterator[OutboxBench]:
        pool = await asyncpg_pool(database, max_size=8)
        yield OutboxBench(Place(database), lambda: Postgres(pool, limits=LIMITS))
        await pool.close()


class TestAsyncSessions(LeavingContract):
    @pytest.fixture(params=["psycopg", "asyncpg"])
    async def bench(self, database: Database, request: pytest.FixtureRequest) -> AsyncIterator[OutboxBench]:
        engine = create_async_engine(url(database, request.param))
        yield OutboxBench(Place(database), lambda: Postgres(engine=engine, limits=LIMITS))
        await engine.dispose()


class TestSessions(LeavingContract):
    @pytest.fixture
    async def bench(self, database: Database) -> AsyncIterator[OutboxBench]:
        engine = create_engine(url(database, "psycopg"))
        yield OutboxBench(Place(database), lambda: Postgres(engine=engine, limits=LIMITS), blocking=True)
        engine.dispose()


class TestDjango(LeavingContract):
    @pytest.fixture
    def bench(self, database: Database) -> OutboxBench:
        django_shop.configure(database.dsn)
        return OutboxBench(Place(database), lambda: Postgres(django="default", limits=LIMITS), blocking=True)


@pytest.mark.parametrize(
    ("topic", "key", "body"), [("", None, ""), ("t", "", ""), ("t" * 201, None, ""), ("t", None, b"x" * (BODY_BYTES_MAX + 1))]
)
def test_messages_have_limits(topic: str, key: str | None, body: str | bytes) -> None:
    with pytest.raises(RequestError, match=r"has (0|201) characters|bytes, more than"):
        put(object(), topic, body, key=key)


def test_what_is_no_database_is_told() -> None:
    with pytest.raises(RequestError, match="cannot be left in a object"):
        put(object(), "t", "")


@pytest.mark.parametrize("lacks", ["UPDATE", "DELETE"])
async def test_who_could_not_record_a_delivery_delivers_nothing(database: Database, lacks: str) -> None:
    """Each message would come again for ever."""
    given = {"SELECT", "UPDATE", "DELETE"} - {lacks}
    await database.sql("DROP ROLE IF EXISTS relay; CREATE ROLE relay LOGIN; GRANT USAGE ON SCHEMA troth TO relay")
    await database.sql(f"GRANT {', '.join(given)} ON troth.outbox TO relay")
    outbox = store_of(make_conninfo(database.dsn, user="relay"), 1.0)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with outbox.connected():
            pass
    await database.sql(f"GRANT {lacks} ON troth.outbox TO relay")
    async with outbox.connected():
        pass
    await database.sql("DROP OWNED BY relay; DROP ROLE relay")


@pytest.mark.parametrize("statistics", ["none", "of an empty table", "of another topic"])
async def test_a_look_at_a_topic_does_not_read_the_others(database: Database, statistics: str) -> None:
    """By old statistics the index of keys looked as good as that of topics."""
    if statistics == "of an empty table":
        await database.sql("ANALYZE troth.outbox")
    body = "SELECT 'much', CASE number % 2 WHEN 0 THEN 'k' || number END, '' FROM generate_series(1, 40000) AS number"
    await database.sql(f"INSERT INTO troth.outbox (topic, key, body) {body}")
    if statistics == "of another topic":
        await database.sql("ANALYZE troth.outbox")
    await database.sql("INSERT INTO troth.outbox (topic, key, body) VALUES ('rare', 'z', ''), ('rare', NULL, '')")
    outbox, plans = store_of(database.dsn, 30.0), "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0"
    async with outbox.connected() as connection:
        told = list[str]()
        connection.add_notice_handler(lambda notice: told.append(str(notice.message_primary)))
        await connection.execute(f"{plans}; SET auto_explain.log_analyze = on; SET client_min_messages = log")
        async with outbox.transaction(connection):
            assert len(await outbox.lines(connection, [store.Place("rare", "", 0)], 100)) == 2
            assert await outbox.last(connection, "rare") == ("z", 40_002)
    assert "Index Scan using outbox_topic" in "".join(told) and "Removed by Filter" not in "".join(told)


async def test_an_error_that_the_database_has_no_letters_for_is_recorded(server: PostgresServer) -> None:
    async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as connection:
        await connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    dsn, received = server.dsn("latin"), Received()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for statement in postgres_branches.CREATE:
            await connection.execute(statement)
        await put(connection, "t", "wrong")
        received.wrong[b"wrong"] = ValueError("\u2717")

        async def aside() -> list[str]:
            rows = await connection.execute("SELECT error FROM troth.outbox WHERE aside IS NOT NULL")
            return [row[0] for row in await rows.fetchall()]

        async with Relay(dsn, received, limits=RelayLimits(attempts_max=1)):
            await until(aside)
        assert await aside() == ["ValueError: \\u2717"]
    async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as connection:
        await connection.execute("DROP DATABASE latin WITH (FORCE)")
