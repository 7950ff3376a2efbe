"""The outbox in MariaDB: its contracts, with each driver and each kind of `db`, and what is InnoDB's alone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiomysql
import asyncmy
import pytest
from ma_bench import Database
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from test_ma_sqlalchemy import url

from participant_sdk import MariaDB
from participant_sdk.client import Aborted, call
from participant_sdk.outbox import Relay, of_mariadb, put
from participant_sdk.outbox.store import store_of
from participant_sdk.resources.mariadb import MariadbLimits
from participant_sdk.testing.cluster import Cluster
from tests.outbox import LIMITS as RELAY_LIMITS
from tests.outbox import LeavingContract, OutboxBench, Received, RelayContract, delivered
from tests.outbox_broken import BrokenContract
from tests.outbox_turns import TurnsContract
from tests.relational import until
from tests.xa_servers import on_mysql
from troth.errors import ConfigError, Reason
from troth.log import mariadb_outbox
from troth.mariadb.address import parse
from troth.mariadb.connection import Connection

LIMITS = MariadbLimits(connections_max=8, lock_wait_seconds=1.0)
OTHERS = "X'6F74686572',X'',1"
"""Another software's branch."""


class Place:
    """See `OutboxPlace`."""

    def __init__(self, database: Database, driver: str = "") -> None:
        self._database = database
        self.dsn = database.dsn(driver=driver)
        for statement in (*mariadb_outbox.create(database.dialect), mariadb_outbox.FILL_KEYS):
            database.sql(statement)

    async def rows(self) -> list[Any]:
        columns = "CONVERT(body USING utf8mb4), attempts, error, aside IS NOT NULL"
        return await asyncio.to_thread(self._database.sql, f"SELECT {columns} FROM troth_outbox ORDER BY position")

    async def left(self, *messages: tuple[str, str | None, str]) -> None:
        other = self._database.session()
        for topic, key, body in messages:
            put(other, topic, body, key=key)
        other.close()

    async def sql(self, statement: str) -> None:
        self._database.sql(statement.format(outbox="troth_outbox", no_index="ALTER TABLE troth_outbox DROP INDEX of_topic"))

    async def try_again(self) -> None:
        self._database.sql("UPDATE troth_outbox SET aside = NULL, attempts = 0, due = made WHERE aside IS NOT NULL")

    async def undecided(self, body: str, key: str) -> None:
        other = self._database.session(f"XA START {OTHERS}")
        put(other, "paid", body, key=key)
        for statement in (f"XA END {OTHERS}", f"XA PREPARE {OTHERS}"):
            other.cursor().execute(statement)
        other.close()

    async def decide(self) -> None:
        await until(lambda: asyncio.to_thread(self._decided))

    def _decided(self) -> bool:
        if self._database.prepared():
            self._database.sql(f"XA COMMIT {OTHERS}")
        return not self._database.prepared()


def on_dsn(database: Database, driver: str = "aiomysql") -> OutboxBench:
    dsn = database.dsn(driver=driver)
    return OutboxBench(Place(database, driver), lambda: MariaDB(dsn, limits=LIMITS), blocking=driver == "pymysql")


class TestRelay(RelayContract):
    @pytest.fixture(params=["aiomysql", "asyncmy", "pymysql"])
    def bench(self, database: Database, request: pytest.FixtureRequest) -> OutboxBench:
        return on_dsn(database, request.param)


@on_mysql
class TestMysql(RelayContract, LeavingContract):
    """On MySQL, where a server makes the rows of keys more slowly, with one driver."""

    @pytest.fixture
    def bench(self, database: Database) -> OutboxBench:
        return on_dsn(database, "aiomysql")


@pytest.fixture
def place(database: Database) -> Place:
    return Place(database)


class TestTurns(TurnsContract):
    pass


class TestBroken(BrokenContract):
    pass


class TestDrivers(LeavingContract):
    @pytest.fixture(params=["aiomysql", "asyncmy", "pymysql"])
    def bench(self, database: Database, request: pytest.FixtureRequest) -> OutboxBench:
        return on_dsn(database, request.param)


@pytest.mark.parametrize("bench", ["repeatable read", "serializable"], indirect=True)
class TestIsolation(LeavingContract):
    """The lock of a key is of that key alone, at each isolation level."""

    @pytest.fixture
    def bench(self, database: Database, request: pytest.FixtureRequest) -> OutboxBench:
        return OutboxBench(Place(database), lambda: MariaDB(database.dsn(), isolation=request.param, limits=LIMITS))


class TestPools(LeavingContract):
    """Of the service's own, whose connections have a character set that lacks nearly everything."""

    @pytest.fixture(params=[aiomysql, asyncmy], ids=["aiomysql", "asyncmy"])
    async def bench(self, database: Database, request: pytest.FixtureRequest) -> AsyncIterator[OutboxBench]:
        there = {"unix_socket": str(database.server.socket), "user": "root", "db": database.name, "charset": "latin1"}
        pool = await request.param.create_pool(**there, maxsize=8)
        yield OutboxBench(Place(database), lambda: MariaDB(pool, limits=LIMITS))
        pool.close()
        await pool.wait_closed()


class TestAsyncSessions(LeavingContract):
    @pytest.fixture(params=["aiomysql", "asyncmy"])
    async def bench(self, database: Database, request: pytest.FixtureRequest) -> AsyncIterator[OutboxBench]:
        engine = create_async_engine(url(database, request.param))
        yield OutboxBench(Place(database), lambda: MariaDB(engine=engine, limits=LIMITS))
        await engine.dispose()


class TestSessions(LeavingContract):
    @pytest.fixture
    async def bench(self, database: Database) -> AsyncIterator[OutboxBench]:
        engine = create_engine(url(database, "pymysql"))
        yield OutboxBench(Place(database), lambda: MariaDB(engine=engine, limits=LIMITS), blocking=True)
        engine.dispose()


# ---- what is InnoDB's alone


@pytest.mark.both
async def test_a_branch_in_doubt_keeps_its_key_when_the_server_is_killed(own: Database, tmp_path: Path) -> None:
    """A lock of what was not changed would be gone, and the next message of the key would have come first."""
    bench = on_dsn(own)
    await bench.place.undecided("1", "a")
    await asyncio.to_thread(own.server.stop, signal.SIGKILL)
    await asyncio.to_thread(own.server.start)
    async with Cluster(bench.participant("bank", tmp_path)) as cluster:
        with pytest.raises(Aborted) as busy:
            await cluster.run(call("bank", "leave", keys=["a"], body="2"))
        assert busy.value.reason is Reason.CONFLICT
        await bench.place.decide()
        await cluster.run(call("bank", "leave", keys=["a"], body="3"))
    received = Received()
    await delivered(bench.place, Relay(bench.place.dsn, received, limits=RELAY_LIMITS))
    assert received.bodies() == ["1", "3"]


async def test_a_server_that_is_killed_under_a_relay_loses_nothing(own: Database, tmp_path: Path) -> None:
    bench, received = on_dsn(own), Received()
    async with Cluster(bench.participant("bank", tmp_path)) as cluster:
        for number in range(20):
            await cluster.run(call("bank", "leave", keys=[f"k{number % 2}"], body=str(number)))
    gate = asyncio.Event()

    async def slow(message: Any) -> None:
        await received(message)
        if len(received.messages) == 6:
            gate.set()

    few = replace(RELAY_LIMITS, batch_max=2)  # a commit whose answer is lost is one of many
    async with Relay(bench.place.dsn, slow, limits=few) as relay:
        await gate.wait()
        await asyncio.to_thread(own.server.stop, signal.SIGKILL)
        await asyncio.to_thread(own.server.start)
        await until(lambda: asyncio.sleep(0, len({message.id for message in received.messages}) == 20))
        await until(lambda: asyncio.to_thread(lambda: not own.sql("SELECT 1 FROM troth_outbox")))
        assert relay.delivered >= 14
    for messages in received.by_key().values():
        first = list(dict.fromkeys(int(message.body) for message in messages))
        assert first == sorted(first)


@pytest.mark.both
async def test_what_is_prepared_is_waited_for_by_no_relay_and_no_operator(
    database: Database, place: Place, tmp_path: Path
) -> None:
    """Rows that a branch in doubt has left stand between those that are delivered, fail, and are deleted."""
    for number in range(5):
        put(database.session(), "paid", f"{number}", key=f"k{number}")
    await place.undecided("doubt", "a")
    for number in range(5, 8):
        put(database.session(), "paid", f"{number}", key=f"k{number}")
    received = Received()
    received.wrong[b"3"] = ValueError("no")
    await delivered(place, Relay(place.dsn, received, limits=RELAY_LIMITS))
    assert set(received.bodies()) == {str(number) for number in range(8)}
    assert [(row[0], row[3]) for row in await place.rows()] == [("3", 1)]


async def test_a_key_without_its_row_is_told_and_no_message_is_left(database: Database, place: Place) -> None:
    database.sql("DELETE FROM troth_outbox_key WHERE number = %s", mariadb_outbox.key_number("a"))
    with pytest.raises(ConfigError, match="has not all of its rows"):
        put(database.session(), "paid", "1", key="a")
    put(database.session(), "paid", "2", key="b")
    assert [row[0] for row in await place.rows()] == ["2"]


@pytest.mark.parametrize("mode", ["NO_BACKSLASH_ESCAPES,ANSI_QUOTES", "ORACLE", "EMPTY_STRING_IS_NULL"])
@pytest.mark.parametrize("driver", ["aiomysql", "asyncmy", "pymysql"])
async def test_no_sql_mode_of_the_service_changes_a_message(database: Database, place: Place, driver: str, mode: str) -> None:
    """Where a backslash escapes nothing, what a driver escapes with one is a part of the statement."""
    texts = ["", "'), (1, 2, 3, 4) -- ", "\\' OR 1 = 1 -- \n\0"]
    connection = await Connection.to(parse(database.dsn(driver=driver)))
    await connection.ask("SET SESSION sql_mode = %s", (mode,))
    for text in texts:
        left = put(connection.raw, f"t{text}", text, key=f"k{text}")
        if driver != "pymysql":
            await left
    await connection.close()
    received = Received()
    await delivered(place, Relay(place.dsn, received, limits=RELAY_LIMITS))
    assert sorted((message.topic, message.key, message.body.decode()) for message in received.messages) == sorted(
        (f"t{text}", f"k{text}", text) for text in texts
    )


@pytest.mark.parametrize("lacks", ["UPDATE", "DELETE"])
async def test_who_could_not_record_a_delivery_delivers_nothing(database: Database, place: Place, lacks: str) -> None:
    """MariaDB lets who only reads lock rows, too: each message would come again for ever."""
    put(database.session(), "paid", "1")
    given = {"SELECT", "UPDATE", "DELETE"} - {lacks}
    database.sql("CREATE OR REPLACE USER relay@localhost")
    database.sql(f"GRANT {', '.join(given)} ON troth_outbox TO relay@localhost")
    outbox = store_of(database.dsn(user="relay"), 1.0)
    with pytest.raises(outbox.kinds, match=f"{lacks} command denied"):
        async with outbox.connected():
            pass
    database.sql(f"GRANT {lacks} ON troth_outbox TO relay@localhost")
    received = Received()
    relay = Relay(database.dsn(user="relay"), received, limits=RELAY_LIMITS)
    await delivered(place, relay)
    assert received.bodies() == ["1"]


async def test_a_server_that_is_too_old_is_waited_for_with_a_reason(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_mariadb, "too_old", lambda _, *, relay: relay)
    with pytest.raises(OSError, match=r"a relay takes MariaDB 10\.6 or MySQL 8\.0\.30 or newer"):
        async with of_mariadb.MariadbOutbox(place.dsn, 1.0).connected():
            pass


@pytest.mark.parametrize("dsn", ["mysql://db", "mysql+nothing://db/bank"])
def test_a_relay_of_a_wrong_address_is_refused_at_once(dsn: str) -> None:
    with pytest.raises(ConfigError):
        Relay(dsn, print)
