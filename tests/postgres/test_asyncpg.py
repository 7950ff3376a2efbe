"""Operations and blocks on the service's own pool of asyncpg: what they may do, and what is said of what they may not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from pg_bench import ASYNCPG, LIMITS, Database, PostgresWorkbench, asyncpg_pool

from participant_sdk import Participant
from participant_sdk.outbox import put as leave
from participant_sdk.resources.contract import Done, Performed, Refused, Unreachable
from participant_sdk.resources.postgres import Postgres, PostgresLimits
from participant_sdk.testing.cluster import Cluster
from participant_sdk.testing.contract import FIRST, LONGER, Bench, operation
from tests.patience import SECONDS as PATIENCE_SECONDS
from tests.relational import impatient, until
from troth.errors import Aborted, ConfigError, Reason, Refuse, RequestError
from troth.v1 import record_pb2

NOTHING = record_pb2.BranchWork()
PUT = "INSERT INTO item VALUES ($1, $2)"
Db = asyncpg.Connection


class Own(asyncpg.Connection):
    """A class of connections that a service has given to its pool."""

    async def count(self) -> int:
        value: int = await self.fetchval("SELECT count(*)::int FROM item")
        return value

    async def finish(self) -> None:
        await self.execute("COMMIT")


async def commit_sql(db: Db) -> None:
    await db.execute("INSERT INTO item VALUES ('b', 1); COMMIT")


async def rollback_sql(db: Db) -> None:
    await db.fetch("ROLLBACK")


async def commit_many(db: Db) -> None:
    await db.executemany("COMMIT", [()])


async def commit_prepared_statement(db: Db) -> None:
    await (await db.prepare("COMMIT")).fetch()


async def commit_of_the_services_class(db: Any) -> None:
    await db.finish()


async def cursor_text(db: Db) -> None:
    async for _ in db.cursor("PREPARE TRANSACTION 'x'"):
        pass


async def begins(db: Db) -> None:
    await db.fetchval("BEGIN")


async def copied(db: Db) -> None:
    await db.copy_from_query("SELECT 1) TO STDOUT; COMMIT; COPY (SELECT 1", output=b"")


async def close_method(db: Db) -> None:
    await db.close()


async def reset_method(db: Db) -> None:
    await db.reset()


async def terminate_method(db: Db) -> None:
    db.terminate()


async def listens(db: Db) -> None:
    await db.add_listener("channel", print)


async def codec(db: Db) -> None:
    await db.set_type_codec("json", encoder=str, decoder=str, schema="pg_catalog")


async def setting(db: Db) -> None:
    await db.fetchrow("SET search_path = pg_catalog")


async def schema_change(db: Db) -> None:
    await db.execute("CREATE TABLE other (a int)")


async def caught(db: Db) -> None:
    with contextlib.suppress(RequestError):
        await db.execute("COMMIT")
    await db.execute(PUT, "b", 1)


async def behind_the_back(db: Any) -> None:
    await db._con._protocol.query("ROLLBACK", 5.0)


async def swallowed(db: Db) -> None:
    with contextlib.suppress(asyncpg.PostgresError):
        await db.execute("SELECT 1/0")


async def given_up(db: Db) -> None:
    with contextlib.suppress(TimeoutError):
        await db.execute("SELECT pg_sleep(60)", timeout=0.05)


async def constraint(db: Db) -> None:
    await db.execute("INSERT INTO item VALUES ('secret', NULL)")


async def mistake(db: Db) -> None:
    await db.fetch("SELECT nonsense")


async def wrong_parameter(db: Db) -> None:
    await db.execute(PUT, 5, "secret")


FORBIDDEN = {
    "FORBIDDEN_SQL": [
        commit_sql, rollback_sql, commit_many, commit_prepared_statement, commit_of_the_services_class, cursor_text, begins, copied,
        close_method, reset_method, terminate_method, listens, codec, setting, schema_change, caught, behind_the_back,
    ],
    "OPERATION_FAILED": [swallowed, given_up, mistake, wrong_parameter],
    "CONSTRAINT": [constraint],
}  # fmt: skip


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Any]:
    pool = await asyncpg_pool(database, connection_class=Own)
    yield pool
    await asyncio.wait_for(pool.close(), PATIENCE_SECONDS)  # which waits for what was not given back


async def bench_of(database: Database, pool: Any, **operations: Callable[..., Any]) -> Bench:
    bench = Bench(PostgresWorkbench(database, {**ASYNCPG, **operations}, lambda dsn: Postgres(pool, limits=LIMITS)))
    await bench.open()
    return bench


@pytest.mark.parametrize(("reason", "function"), [(reason, one) for reason, functions in FORBIDDEN.items() for one in functions])
async def test_what_is_not_allowed_costs_the_branch_and_nothing_else(
    database: Database, pool: Any, reason: str, function: Callable[..., Any]
) -> None:
    bench = await bench_of(database, pool, it=function)
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    refused = await bench.resource.execute(branch, operation("it"))
    assert isinstance(refused, Refused) and refused.cause.reason == reason, refused
    assert "secret" not in refused.cause.message
    assert isinstance(await bench.resource.prepare(branch), Refused)
    assert isinstance(await bench.resource.rollback(branch, NOTHING), Done)
    assert (await bench.visible("a"), await bench.visible("b"), await bench.in_doubt()) == (None, None, [])
    again, work = await bench.prepared(LONGER, "a")
    assert isinstance(await bench.resource.commit(again, work, one_phase=False), Done)
    await bench.resource.close()


async def test_what_people_do_with_a_connection_works(database: Database, pool: Any) -> None:
    async def works(db: Own) -> list[Any]:
        assert isinstance(db, asyncpg.Connection)
        try:
            async with db.transaction():
                await db.execute("INSERT INTO item VALUES ('a', NULL)")
        except asyncpg.NotNullViolationError:
            await db.execute("SET LOCAL work_mem = '8MB'")
        await db.executemany(PUT, [("a", 1), ("b", 2)])
        await db.copy_records_to_table("item", records=[("c", 3)])
        statement = await db.prepare("SELECT value FROM item WHERE name = $1")
        listed = [row["name"] async for row in db.cursor("SELECT name FROM item ORDER BY 1")]
        return [listed, await statement.fetchval("c"), await db.count()]

    bench = await bench_of(database, pool, works=works)
    branch = await bench.begin()
    assert await bench.resource.execute(branch, operation("works")) == Performed([["a", "b", "c"], 3, 3])
    assert isinstance(await bench.resource.commit(branch, await bench.prepare(branch), one_phase=False), Done)
    assert await bench.visible("c") == 3
    async with pool.acquire() as connection:  # the service's own use of it is as before
        assert type(connection._con) is Own
        async with connection.transaction():
            await connection.execute(PUT, "d", 4)
        await connection.execute("SET work_mem = '8MB'")
    assert await bench.visible("d") == 4
    await bench.resource.close()


async def test_a_failed_statement_that_asyncpg_keeps_to_itself_is_found_at_the_vote(database: Database, pool: Any) -> None:
    async def swallows(db: Db) -> None:
        statement = await db.prepare("SELECT 1/$1::int")
        with contextlib.suppress(asyncpg.PostgresError):
            await statement.fetchval(0)

    bench = await bench_of(database, pool, swallows=swallows)
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    assert isinstance(await bench.resource.execute(branch, operation("swallows")), Performed)
    refused = await bench.resource.prepare(branch)
    assert isinstance(refused, Refused) and refused.cause.reason == "OPERATION_FAILED"
    assert (await database.prepared(), await bench.visible("a")) == ([], None)
    await bench.resource.close()


async def test_a_statement_that_still_runs_at_the_vote_is_a_no(database: Database, pool: Any) -> None:
    running: list[asyncio.Task[Any]] = []

    async def leaves(db: Db) -> None:
        running.append(asyncio.create_task(db.execute("SELECT pg_sleep(60)")))
        await asyncio.sleep(0)

    bench = await bench_of(database, pool, leaves=leaves)
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    await bench.resource.execute(branch, operation("leaves"))
    assert isinstance(await bench.resource.prepare(branch), Refused)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await running[0]
    assert (await database.prepared(), await bench.visible("a")) == ([], None)
    assert isinstance(await bench.resource.commit(*await bench.prepared(LONGER, "b"), one_phase=False), Done)
    await bench.resource.close()


async def test_an_operation_that_is_given_up_ends_its_backend(database: Database, pool: Any) -> None:
    async def sleeps(db: Db) -> None:
        await db.execute("SELECT pg_sleep(60)")

    bench = await bench_of(database, pool, sleeps=sleeps)
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    task = asyncio.create_task(bench.resource.execute(branch, operation("sleeps")))
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(60)' AND state = 'active' AND pid <> pg_backend_pid()"
    await until(lambda: database.sql(sleeping))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(await bench.resource.rollback(branch, NOTHING), Done)
    assert isinstance(await bench.resource.commit(*await bench.prepared(LONGER, "b"), one_phase=False), Done)
    await bench.resource.close()


async def test_a_backend_that_is_killed_at_work_is_a_lost_connection(database: Database, pool: Any) -> None:
    async def dies(db: Db) -> None:
        await db.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    bench = await bench_of(database, pool, dies=dies)
    branch = await bench.begin()
    refused = await bench.resource.execute(branch, operation("dies"))
    assert isinstance(refused, Refused) and refused.cause.reason == "PARTICIPANT_AWAY" and refused.cause.retryable
    assert isinstance(await bench.resource.rollback(branch, NOTHING), Done)
    await bench.resource.close()


async def test_locks_and_overload_are_told_apart(database: Database) -> None:
    limits = PostgresLimits(lock_wait_seconds=0.2)
    async with asyncpg_pool(database, max_size=2) as pool:
        bench = Bench(PostgresWorkbench(database, ASYNCPG, lambda dsn: Postgres(pool, limits=limits)))
        await bench.open()
        first, work = await bench.prepared()
        second = await bench.begin(LONGER)
        third = await bench.begin("c1.1.0011223344556677.1.7")
        with impatient(bench.resource):
            refused = await bench.resource.begin("c1.1.0011223344556677.1.8")
        assert isinstance(refused, Refused) and refused.cause.reason == "OVERLOADED" and refused.cause.retryable
        refused = await bench.resource.execute(second, operation("put", name="a", value=2))
        assert isinstance(refused, Refused) and refused.cause.reason == "CONFLICT" and refused.cause.retryable
        # The pool is full of branches that wait for this one: it is committed all the same.
        assert isinstance(await bench.resource.commit(first, work, one_phase=False), Done)
        for branch in (second, third):
            await bench.resource.rollback(branch, NOTHING)
        await bench.resource.close()


async def test_a_function_may_give_the_pool_when_the_loop_is_there(database: Database, pool: Any) -> None:
    async def opened() -> Any:
        return pool

    for transaction_id, given in ((FIRST, lambda: pool), (LONGER, opened)):
        bench = Bench(PostgresWorkbench(database, ASYNCPG, lambda dsn, given=given: Postgres(given, limits=LIMITS)))
        await bench.open()
        assert isinstance(await bench.resource.commit(*await bench.prepared(transaction_id), one_phase=False), Done)
        await bench.resource.close()
    with pytest.raises(ConfigError, match="no pool of asyncpg"):
        await Postgres(lambda: "postgresql://").open()


async def test_a_closed_pool_is_waited_for(database: Database) -> None:
    pool = await asyncpg_pool(database)
    await pool.close()
    resource = Postgres(pool, limits=LIMITS)
    assert isinstance(await resource.open(), Done | Unreachable)
    refused = await resource.begin(LONGER)
    assert isinstance(refused, Refused) and refused.cause.reason == "PARTICIPANT_AWAY"
    await resource.close()


# ---- blocks, and messages


@pytest.fixture
async def cluster(database: Database, pool: Any, tmp_path: Path) -> AsyncIterator[Cluster]:
    limits = PostgresLimits(pinned_max=2, pinned_seconds_max=60.0, idle_seconds_max=20.0)

    def pay() -> Participant:
        return Participant("pay", resource=Postgres(pool, limits=limits), data_directory=tmp_path, coordinator="memory:1")

    async with Cluster(pay) as cluster:
        yield cluster
    assert await database.prepared() == []


async def test_a_handler_works_on_the_branchs_connection(cluster: Cluster, database: Database) -> None:
    async with cluster.transaction() as txn:
        for name in "ab":
            with txn.call():
                async with cluster["pay"].branch() as db:
                    await db.execute(PUT, name, 1)
                    await leave(db, "paid", b"it", key=name)
        assert await database.names() == []
    assert await database.names() == ["a", "b"]
    with pytest.raises(Refuse):
        async with cluster.transaction() as txn:
            with txn.call():
                async with cluster["pay"].branch() as db:
                    await db.execute(PUT, "c", 1)
                    await leave(db, "paid", b"never")
                    raise Refuse("NO_FUNDS")
    assert await database.names() == ["a", "b"]
    async with cluster.transaction() as txn:
        with txn.call():
            async with cluster["pay"].branch() as db:
                message = await leave(db, "sent", "that")
    assert await database.sql("SELECT id, body FROM troth.outbox WHERE topic = 'sent'") == [(message, b"that")]
    assert await database.sql("SELECT key FROM troth.outbox ORDER BY position") == [("a",), ("b",), (None,)]


async def test_a_block_may_not_end_the_transaction_or_be_in_a_thread(cluster: Cluster) -> None:
    def handler() -> None:
        with cluster["pay"].branch_sync():
            raise AssertionError("it ran")

    async with cluster.transaction() as txn:
        with txn.call():
            with pytest.raises(RequestError) as refused:
                async with cluster["pay"].branch() as db:
                    await db.execute("COMMIT")
            assert refused.value.reason is Reason.FORBIDDEN_SQL
            with pytest.raises(RequestError, match="write an async def"):
                await asyncio.to_thread(handler)


async def test_a_block_that_takes_too_long_loses_its_connection(cluster: Cluster, database: Database) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    cluster["pay"]._pins._seconds_max = 1.0
    with pytest.raises(Aborted):
        async with cluster.transaction() as txn:
            with txn.call(), pytest.raises((asyncpg.InterfaceError, asyncpg.PostgresError, psycopg.Error)):
                async with cluster["pay"].branch() as db:
                    await db.execute(PUT, "a", 1)
                    await db.execute("SELECT pg_sleep(60)")
            raise Aborted(Reason.CLIENT_ABORT, "the handler's error ends it")
    assert await database.names() == []
    gc.collect()
    assert complaints == []


def test_who_writes_a_plain_function_is_told_at_once() -> None:
    service = Participant("pay", resource=Postgres(lambda: None), data_directory="x", coordinator="memory:1")
    with pytest.raises(ConfigError, match="write an async def"):

        @service.operation
        def plain(db: Any) -> None:
            """It would block."""
