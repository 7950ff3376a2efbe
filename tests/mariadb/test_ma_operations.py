"""What operations may do on their branch's connection, with each driver, and what is said of what they may not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiomysql
import asyncmy
import pymysql
import pytest
from ma_bench import ASYNC, BLOCKING, LIMITS, Database, MariadbWorkbench, execute, from_dsn

from participant_sdk.registry import Registry
from participant_sdk.resources.contract import BranchOutcome, Done, Performed, Prepared, Refused
from participant_sdk.resources.mariadb import MariaDB, MariadbLimits
from participant_sdk.testing.contract import FIRST, LONGER, Bench, operation
from tests.relational import impatient, until
from troth.errors import ConfigError, RequestError
from troth.mariadb import drivers
from troth.v1 import record_pb2

NOTHING = record_pb2.BranchWork()
Function = Callable[..., Any]


def bench_of(database: Database, driver: str = "aiomysql", **operations: Function) -> Bench:
    suite = BLOCKING if driver == "pymysql" else ASYNC
    return Bench(MariadbWorkbench(database, {**suite, **operations}, from_dsn(driver)))


# ---- what is forbidden


def sql(statement: str) -> Function:
    async def said(db: Any) -> None:
        await execute(db, statement)

    return said


def method(name: str, *arguments: Any) -> Function:
    async def called(db: Any) -> None:
        answer = getattr(db, name)(*arguments)
        if asyncio.iscoroutine(answer):
            await answer

    return called


async def caught(db: Any) -> None:
    try:
        await execute(db, "COMMIT")
    except RequestError:
        await execute(db, "INSERT INTO item VALUES ('b', 1)")


async def swallowed_rollback(db: Any) -> None:
    """As a library does after an error; then it goes on as if nothing were."""
    with contextlib.suppress(pymysql.Error, asyncmy.errors.Error):
        await execute(db, "INSERT INTO item VALUES ('b', NULL)")
    await db.rollback()
    await execute(db, "INSERT INTO item VALUES ('b', 1)")


FORBIDDEN: dict[str, Function] = {
    "commit()": method("commit"),
    "rollback()": method("rollback"),
    "begin()": method("begin"),
    "autocommit()": method("autocommit", False),
    "select_db()": method("select_db", "mysql"),
    "close()": method("close"),
    "ping(), which connects anew": method("ping"),
    "COMMIT": sql("COMMIT"),
    "a second statement": sql("INSERT INTO item VALUES ('b', 1); COMMIT"),
    "XA": sql("XA END 'a'"),
    "DDL": sql("CREATE TABLE other (a INT)"),
    "a temporary table": sql("CREATE TEMPORARY TABLE other (a INT)"),
    "SET": sql("SET SESSION sql_mode = ''"),
    "a lock of a name": sql("SELECT GET_LOCK('mine', 0)"),
    "LOCK TABLES": sql("LOCK TABLES item WRITE"),
    "a comment that is executed": sql("SELECT 1 /*!50000 + 1 */"),
    "what is refused and caught": caught,
    "a table that cannot roll back": sql("INSERT INTO journal VALUES ('b')"),
}


@pytest.mark.parametrize("driver", ["aiomysql", "asyncmy"])
@pytest.mark.parametrize("what", FORBIDDEN)
async def test_what_ends_or_outlives_the_transaction_is_refused(database: Database, what: str, driver: str) -> None:
    database.sql("CREATE TABLE journal (a VARCHAR(9)) ENGINE = MyISAM")
    bench = bench_of(database, driver, act=FORBIDDEN[what])
    await bench.open()
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    refused = await bench.resource.execute(branch, operation("act"))
    assert isinstance(refused, Refused) and refused.cause.reason == "FORBIDDEN_SQL", refused
    assert isinstance(await bench.resource.prepare(branch), Refused), "whoever caught it has lost the branch all the same"
    assert (await bench.visible("a"), await bench.visible("b"), database.sql("SELECT * FROM journal")) == (None, None, [])
    await bench.resource.close()


async def test_the_driver_that_blocks_is_guarded_in_its_thread(database: Database) -> None:
    def commit(db: Any) -> None:
        db.commit()

    def say_commit(db: Any) -> None:
        db.cursor().execute(b"COMMIT")

    bench = bench_of(database, "pymysql", commit=commit, say_commit=say_commit)
    await bench.open()
    for name, transaction_id in (("commit", FIRST), ("say_commit", LONGER)):
        branch = await bench.begin(transaction_id)
        await bench.put(branch, "a", 1)
        refused = await bench.resource.execute(branch, operation(name))
        assert isinstance(refused, Refused) and refused.cause.reason == "FORBIDDEN_SQL"
        assert isinstance(await bench.resource.rollback(branch, NOTHING), Done)
    assert await bench.visible("a") is None
    await bench.resource.close()


@pytest.mark.parametrize("driver", ["aiomysql", "asyncmy"])
async def test_a_library_that_rolls_back_after_an_error_has_lost_the_branch(database: Database, driver: str) -> None:
    bench = bench_of(database, driver, act=swallowed_rollback)
    await bench.open()
    branch = await bench.begin()
    refused = await bench.resource.execute(branch, operation("act"))
    assert isinstance(refused, Refused) and refused.cause.reason == "CONSTRAINT" and "value" in refused.cause.message
    await bench.resource.rollback(branch, NOTHING)
    await bench.resource.close()


@pytest.mark.both
async def test_values_of_rows_stay_in_the_participants_log(database: Database) -> None:
    bench = bench_of(database, act=sql("INSERT INTO item VALUES ('s3cret', 1), ('s3cret', 2)"))
    await bench.open()
    branch = await bench.begin()
    refused = await bench.resource.execute(branch, operation("act"))
    assert isinstance(refused, Refused) and refused.cause.reason == "CONSTRAINT"
    assert "s3cret" not in refused.cause.message and "PRIMARY" in refused.cause.message
    await bench.resource.close()


async def test_a_constraint_that_the_author_handles_is_none(database: Database) -> None:
    async def insert_or_update(db: Any) -> None:
        try:
            await execute(db, "INSERT INTO item VALUES ('a', 1)")
        except pymysql.err.IntegrityError:
            await execute(db, "UPDATE item SET value = value + 1 WHERE name = 'a'")

    database.sql("INSERT INTO item VALUES ('a', 1)")
    bench = bench_of(database, act=insert_or_update)
    await bench.open()
    branch = await bench.begin()
    assert await bench.resource.execute(branch, operation("act")) == Performed(None)
    await bench.resource.commit(branch, await bench.prepare(branch), one_phase=False)
    assert await bench.visible("a") == 2
    await bench.resource.close()


# ---- what is allowed


@pytest.mark.parametrize(
    "statement",
    [
        "SAVEPOINT s", "SET STATEMENT max_statement_time = 1 FOR SELECT 1", "WITH c AS (SELECT 1) SELECT * FROM c",
        "SELECT 'COMMIT; -- no' -- COMMIT\n", 'SELECT "SET x"', "SELECT /* DROP TABLE item */ 1", "SELECT `value` FROM item",
    ],
)  # fmt: skip
async def test_what_only_looks_like_it_is_allowed(database: Database, statement: str) -> None:
    bench = bench_of(database, act=sql(statement))
    await bench.open()
    branch = await bench.begin()
    assert isinstance(await bench.resource.execute(branch, operation("act")), Performed)
    await bench.resource.close()


async def test_a_savepoint_undoes_a_part(database: Database) -> None:
    async def partly(db: Any) -> None:
        await execute(db, "SAVEPOINT s")
        await execute(db, "INSERT INTO item VALUES ('b', 1)")
        await execute(db, "ROLLBACK TO SAVEPOINT s")
        await execute(db, "RELEASE SAVEPOINT s")

    bench = bench_of(database, partly=partly)
    await bench.open()
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    assert await bench.resource.execute(branch, operation("partly")) == Performed(None)
    await bench.resource.commit(branch, await bench.prepare(branch), one_phase=False)
    assert (await bench.visible("a"), await bench.visible("b")) == (1, None)
    await bench.resource.close()


@pytest.mark.both
async def test_locks_and_updates_that_change_nothing_are_no_change(database: Database) -> None:
    """So such a branch votes READ_ONLY: MariaDB would forget it in a crash."""
    database.sql("INSERT INTO item VALUES ('a', 1)")
    bench = bench_of(database, act=sql("UPDATE item SET value = value"), lock=sql("SELECT * FROM item FOR UPDATE"))
    await bench.open()
    branch = await bench.begin()
    for name in ("act", "lock"):
        await bench.resource.execute(branch, operation(name))
    assert await bench.resource.prepare(branch) == Prepared(False)
    await bench.resource.close()


# ---- time and cancellation


@pytest.mark.both
@pytest.mark.parametrize("driver", ["aiomysql", "pymysql"])
async def test_a_statement_that_takes_too_long_is_a_timeout(database: Database, driver: str) -> None:
    query = "SELECT COUNT(*) FROM information_schema.COLUMNS a, information_schema.COLUMNS b, information_schema.COLUMNS c"

    def blocking(db: Any) -> None:
        db.cursor().execute(query)

    limits = MariadbLimits(statement_seconds_max=0.2)
    act = blocking if driver == "pymysql" else sql(query)
    suite = MariadbWorkbench(database, {"act": act}, lambda database: MariaDB(database.dsn(driver=driver), limits=limits))
    bench = Bench(suite)
    await bench.open()
    branch = await bench.begin()
    refused = await bench.resource.execute(branch, operation("act"))
    assert isinstance(refused, Refused) and refused.cause.reason == "TIMEOUT"
    await bench.resource.close()


@pytest.mark.parametrize("driver", ["aiomysql", "pymysql"])
async def test_who_is_cancelled_leaves_nothing(database: Database, driver: str) -> None:
    def blocking(db: Any) -> None:
        db.cursor().execute("SELECT SLEEP(30)")

    bench = bench_of(database, driver, act=blocking if driver == "pymysql" else sql("SELECT SLEEP(30)"))
    await bench.open()
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    running = asyncio.create_task(bench.resource.execute(branch, operation("act")))
    sleeping = "SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%'"
    await until(lambda: asyncio.to_thread(database.sql, sleeping))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert isinstance(await bench.resource.rollback(branch, NOTHING), Done)
    assert await until(lambda: bench.resource.outcome(branch))
    assert await bench.outcome(branch) is BranchOutcome.NEVER_SEEN
    await bench.resource.close()


# ---- the service's own connections


@pytest.fixture(params=["aiomysql", "asyncmy"])
async def pool(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Any]:
    module = {"aiomysql": aiomysql, "asyncmy": asyncmy}[request.param]
    pool = await module.create_pool(
        minsize=1, maxsize=2, unix_socket=str(database.server.socket), user="root", db=database.name, autocommit=False
    )
    yield pool
    pool.close()
    await pool.wait_closed()


@pytest.mark.both
async def test_a_pool_of_the_service_gets_its_connections_back_as_they_were(pool: Any, database: Database) -> None:
    bench = Bench(MariadbWorkbench(database, ASYNC, lambda _: MariaDB(pool)))
    await bench.open()
    settings = "SELECT " + ", ".join(f"@@{name}" for name in database.dialect.settings("", 1, 1.0, 1))

    async def session() -> Any:
        async with pool.acquire() as connection:
            return await execute(connection, settings)

    before = await session()
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    assert isinstance(await bench.resource.commit(branch, NOTHING, one_phase=True), Done)
    branch, work = await bench.prepared(LONGER, "b")
    assert isinstance(await bench.resource.commit(branch, work, one_phase=False), Done)
    for _ in range(2):
        assert await session() == before
    held = [await bench.begin(f"{FIRST}{number}") for number in range(2)]
    with impatient(bench.resource):
        busy = await bench.resource.begin(f"{FIRST}9")
    assert isinstance(busy, Refused) and busy.cause.reason == "OVERLOADED"
    for branch in held:
        await bench.resource.rollback(branch, NOTHING)
    await bench.resource.close()


async def test_a_pool_that_leads_elsewhere_is_refused(database: Database) -> None:
    pool = await aiomysql.create_pool(minsize=1, maxsize=3, unix_socket=str(database.server.socket), user="root", db=database.name)
    bench = Bench(MariadbWorkbench(database, ASYNC, lambda _: MariaDB(pool)))
    await bench.open()
    async with pool.acquire() as connection:
        await connection.select_db("mysql")
    refused = await bench.resource.begin(FIRST)
    assert isinstance(refused, Refused) and "leads to the database 'mysql'" in refused.cause.message
    await bench.resource.close()
    pool.close()
    await pool.wait_closed()


def test_a_driver_serves_one_style(database: Database) -> None:
    resource = MariaDB(database.dsn(driver="pymysql"), limits=LIMITS)
    registry = Registry(async_reason=resource.async_reason)
    with pytest.raises(ConfigError, match="pymysql blocks"):
        registry.add(ASYNC["put"], name="put")
    assert "asynchronous" in MariaDB(database.dsn()).plain_reason


def test_an_asyncmy_with_an_injection_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "ASYNCMY_MIN", (99, 0, 0))
    with pytest.raises(ConfigError, match="CVE-2025-65896"):
        MariaDB(database.dsn(driver="asyncmy"))
