"""What operations may do on their branch's connection, and what is said of what they may not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from pg_bench import ASYNC, BLOCKING, Database, PostgresWorkbench, from_dsn
from psycopg import sql

from participant_sdk.registry import Registry
from participant_sdk.resources.contract import BranchOutcome, Done, Performed, Prepared, Refused
from participant_sdk.testing.contract import FIRST, LONGER, Bench, operation
from tests.relational import impatient, until
from troth.errors import Refuse, RequestError
from troth.v1 import record_pb2

Async = psycopg.AsyncConnection[Any]
Blocking = psycopg.Connection[Any]


async def commit_method(db: Async) -> None:
    await db.commit()


async def rollback_method(db: Async) -> None:
    await db.rollback()


async def context_manager(db: Async) -> None:
    async with db:
        pass


async def autocommit(db: Async) -> None:
    await db.set_autocommit(False)


def commit_in_thread(db: Blocking) -> None:
    db.commit()


def close_in_thread(db: Blocking) -> None:
    db.close()


def autocommit_in_thread(db: Blocking) -> None:
    db.autocommit = False


async def commit_sql(db: Async) -> None:
    await db.execute("INSERT INTO item VALUES ('b', 1); COMMIT")


async def commit_cursor(db: Async) -> None:
    async with db.cursor() as cursor:
        await cursor.execute(b"COMMIT")


async def commit_composed(db: Async) -> None:
    await db.execute(sql.SQL("{}").format(sql.SQL("COMMIT")))


async def caught(db: Async) -> None:
    try:
        await db.execute("COMMIT")
    except RequestError:
        await db.execute("INSERT INTO item VALUES ('b', 1)")


async def schema_change(db: Async) -> None:
    await db.execute("CREATE TABLE other (a int)")


def setting(db: Blocking) -> None:
    db.execute("SET search_path = pg_catalog")


def swallowed(db: Blocking) -> None:
    with contextlib.suppress(psycopg.Error):
        db.execute("SELECT 1/0")


async def unfinished(db: Async) -> None:
    rows = db.cursor().stream("SELECT generate_series(1, 10)")
    await anext(rows)
    db.__dict__["kept"] = rows


async def behind_the_back(db: Async) -> None:
    db.pgconn.exec_(b"ROLLBACK")


async def constraint(db: Async) -> None:
    await db.execute("INSERT INTO item VALUES ('secret', NULL)")


async def mistake(db: Async) -> None:
    await db.execute("SELECT nonsense")


async def cancelled(db: Async) -> None:
    raise asyncio.CancelledError


async def exits(db: Async) -> None:
    raise SystemExit(1)


def stops_in_thread(db: Blocking) -> None:
    raise StopIteration


def cancelled_in_thread(db: Blocking) -> None:
    raise asyncio.CancelledError


def exits_in_thread(db: Blocking) -> None:
    raise SystemExit(1)


async def cut_in_two(db: Async) -> None:
    raise ValueError("\ud83d")


async def refusal_cut_in_two(db: Async) -> None:
    raise Refuse("\ud83d", "\ud83d")


FORBIDDEN = {
    "FORBIDDEN_SQL": [
        commit_method, rollback_method, context_manager, autocommit, commit_in_thread,
        close_in_thread,
        autocommit_in_thread, commit_sql, commit_cursor, commit_composed, caught, schema_change, setting,
        unfinished, behind_the_back,
    ],
    "OPERATION_FAILED": [
        swallowed, mistake, cancelled, exits, stops_in_thread, cancelled_in_thread, exits_in_thread, cut_in_two,
    ],
    "REFUSED": [refusal_cut_in_two],
    "CONSTRAINT": [constraint],
}  # fmt: skip


def bench_of(database: Database, **operations: Callable[..., Any]) -> Bench:
    return Bench(PostgresWorkbench(database, {**ASYNC, **operations}, from_dsn))


@pytest.fixture
async def bench(database: Database) -> AsyncIterator[Bench]:
    every = {function.__name__: function for functions in FORBIDDEN.values() for function in functions}
    bench = bench_of(database, put_blocking=BLOCKING["put"], get_blocking=BLOCKING["get"], **every)
    await bench.open()
    yield bench
    await bench.resource.close()


@pytest.mark.parametrize(
    ("reason", "name"), [(reason, one.__name__) for reason, functions in FORBIDDEN.items() for one in functions]
)
async def test_what_is_not_allowed_costs_the_branch_and_nothing_else(bench: Bench, reason: str, name: str) -> None:
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    refused = await bench.resource.execute(branch, operation(name))
    assert isinstance(refused, Refused) and refused.cause.reason == reason, refused
    assert "secret" not in refused.cause.message
    assert isinstance(await bench.resource.prepare(branch), Refused)
    assert isinstance(await bench.resource.rollback(branch, record_pb2.BranchWork()), Done)
    assert (await bench.visible("a"), await bench.visible("b"), await bench.in_doubt()) == (None, None, [])
    again, work = await bench.prepared(LONGER, "a")
    assert isinstance(await bench.resource.commit(again, work, one_phase=False), Done)


async def test_both_styles_see_each_other_in_one_branch(bench: Bench) -> None:
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    assert await bench.resource.execute(branch, operation("get_blocking", name="a")) == Performed(1)
    await bench.resource.execute(branch, operation("put_blocking", name="a", value=2))
    assert await bench.resource.execute(branch, operation("get", name="a")) == Performed(2)
    work = await bench.prepare(branch)
    assert isinstance(await bench.resource.commit(branch, work, one_phase=False), Done)
    assert await bench.visible("a") == 2


async def test_a_savepoint_of_the_author_keeps_the_branch(database: Database) -> None:
    async def tries(db: Async) -> str:
        try:
            async with db.transaction():
                await db.execute("INSERT INTO item VALUES ('a', NULL)")
        except psycopg.errors.NotNullViolation:
            await db.execute("SET LOCAL work_mem = '8MB'")
            await db.cursor().executemany("INSERT INTO item VALUES (%s, %s)", [("a", 1), ("b", 2)])
        return "went on"

    bench = bench_of(database, tries=tries)
    await bench.open()
    branch = await bench.begin()
    assert await bench.resource.execute(branch, operation("tries")) == Performed("went on")
    assert isinstance(await bench.resource.commit(branch, await bench.prepare(branch), one_phase=False), Done)
    assert (await bench.visible("a"), await bench.visible("b")) == (1, 2)
    await bench.resource.close()


async def test_what_one_branch_has_set_does_not_reach_the_next(database: Database) -> None:
    async def sets(db: Async) -> None:
        await db.execute("SET LOCAL search_path = pg_catalog")

    async def shows(db: Async) -> list[str]:
        names = ("search_path", "application_name", "lock_timeout")
        return [(await (await db.execute(f"SHOW {name}")).fetchone() or [""])[0] for name in names]

    bench = bench_of(database, sets=sets, shows=shows)
    await bench.open()
    for number, name in enumerate(("sets", "shows")):
        branch = await bench.begin(f"c1.1.0011223344556677.1.{number + 5}")
        answer = await bench.resource.execute(branch, operation(name))
        await bench.resource.rollback(branch, record_pb2.BranchWork())
    assert isinstance(answer, Performed)
    assert answer.value[0] == '"$user", public'
    assert answer.value[1].startswith("troth contract ")
    assert answer.value[2] == "500ms"
    await bench.resource.close()


async def test_whoever_waits_too_long_for_a_lock_is_in_conflict(bench: Bench) -> None:
    first, work = await bench.prepared()
    second = await bench.begin(LONGER)
    refused = await bench.resource.execute(second, operation("put", name="a", value=2))
    assert isinstance(refused, Refused) and refused.cause.reason == "CONFLICT" and refused.cause.retryable
    await bench.resource.rollback(second, record_pb2.BranchWork())
    assert isinstance(await bench.resource.commit(first, work, one_phase=False), Done)


async def test_a_connection_is_its_owners_again(database: Database) -> None:
    """With all its methods, and with those that its owner has put into their place."""
    from psycopg_pool import AsyncConnectionPool

    from participant_sdk.resources.postgres import Postgres

    counted = []
    async with AsyncConnectionPool(database.dsn, min_size=1, max_size=1, open=False) as pool:
        async with pool.connection() as db:
            commit = db.commit
            db.commit = lambda: counted.append(1) or commit()  # type: ignore[method-assign, func-returns-value]  # as an owner may
            before = set(vars(db))
        bench = Bench(PostgresWorkbench(database, {**ASYNC, "commits": commit_method}, lambda dsn: Postgres(pool)))
        await bench.open()
        branch = await bench.begin()
        await bench.put(branch, "a", 1)
        counted.clear()
        refused = await bench.resource.execute(branch, operation("commits"))
        assert isinstance(refused, Refused) and refused.cause.reason == "FORBIDDEN_SQL" and not counted
        await bench.resource.rollback(branch, record_pb2.BranchWork())
        async with pool.connection() as db:
            assert type(db) is psycopg.AsyncConnection and set(vars(db)) == before
            counted.clear()
            await db.commit()
            assert counted == [1]
        await bench.resource.close()


async def test_whoever_gets_no_connection_is_told_that_it_is_overload(database: Database) -> None:
    from participant_sdk.resources.postgres import Postgres, PostgresLimits

    limits = PostgresLimits(connections_max=1)
    bench = Bench(PostgresWorkbench(database, ASYNC, lambda dsn: Postgres(dsn, limits=limits)))
    await bench.open()
    branch = await bench.begin()
    with impatient(bench.resource):
        refused = await bench.resource.begin(LONGER)
    assert isinstance(refused, Refused) and refused.cause.reason == "OVERLOADED" and refused.cause.retryable
    await bench.put(branch, "a", 1)
    assert isinstance(await bench.resource.commit(branch, await bench.prepare(branch), one_phase=False), Done)
    await bench.resource.close()


async def test_a_plain_function_that_is_given_up_has_its_query_cancelled(database: Database) -> None:
    def sleeps(db: Blocking) -> None:
        db.execute("SELECT pg_sleep(60)")

    bench = bench_of(database, sleeps=sleeps)
    await bench.open()
    branch = await bench.begin()
    task = asyncio.create_task(bench.resource.execute(branch, operation("sleeps")))
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(60)' AND state = 'active' AND pid <> pg_backend_pid()"
    await until(lambda: database.sql(sleeping))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(await bench.resource.rollback(branch, record_pb2.BranchWork()), Done)
    await bench.resource.close()


async def test_deferred_constraints_and_serialization_failures_are_a_no_vote(database: Database) -> None:
    from participant_sdk.resources.postgres import Postgres

    await database.sql("CREATE TABLE child (parent text REFERENCES item DEFERRABLE INITIALLY DEFERRED)")

    async def orphan(db: Async) -> None:
        await db.execute("INSERT INTO child VALUES ('nobody')")

    async def total(db: Async, *, name: str) -> int:
        row = await (await db.execute("SELECT coalesce(sum(value), 0)::int FROM item")).fetchone()
        assert row is not None
        await db.execute("INSERT INTO item VALUES (%s, %s)", (name, row[0] + 1))
        return int(row[0])

    operations = {"orphan": orphan, "total": total}
    bench = Bench(PostgresWorkbench(database, operations, lambda dsn: Postgres(dsn, isolation="serializable")))
    await bench.open()
    branch = await bench.begin()
    assert await bench.resource.execute(branch, operation("orphan")) == Performed(None)
    refused = await bench.resource.prepare(branch)
    assert isinstance(refused, Refused) and refused.cause.reason == "CONSTRAINT"
    first, second = await bench.begin("c1.1.0011223344556677.1.5"), await bench.begin("c1.1.0011223344556677.1.6")
    for name, one in (("x", first), ("y", second)):
        assert isinstance(await bench.resource.execute(one, operation("total", name=name)), Performed)
    assert isinstance(await bench.resource.prepare(first), Prepared)
    refused = await bench.resource.prepare(second)
    assert isinstance(refused, Refused) and refused.cause.reason == "CONFLICT" and refused.cause.retryable
    await bench.resource.rollback(first, record_pb2.BranchWork())
    await bench.resource.close()


async def test_what_cannot_be_prepared_is_told_in_the_servers_words(database: Database) -> None:
    async def holds(db: Async) -> None:
        await db.execute("DECLARE c CURSOR WITH HOLD FOR SELECT 1")
        await db.execute("INSERT INTO item VALUES ('a', 1)")

    bench = bench_of(database, holds=holds)
    await bench.open()
    branch = await bench.begin()
    assert isinstance(await bench.resource.execute(branch, operation("holds")), Performed)
    refused = await bench.resource.prepare(branch)
    assert isinstance(refused, Refused) and refused.cause.reason == "FORBIDDEN_SQL" and "WITH HOLD" in refused.cause.message
    assert isinstance(await bench.resource.rollback(branch, record_pb2.BranchWork()), Done)
    assert await bench.outcome(branch) is BranchOutcome.NEVER_SEEN
    await bench.resource.close()


async def test_a_read_that_locks_is_held_to_the_outcome(bench: Bench, database: Database) -> None:
    """`SELECT ... FOR UPDATE` has a transaction id: the branch votes YES and keeps its lock."""

    async def locks(db: Async, *, name: str) -> None:
        await db.execute("SELECT 1 FROM item WHERE name = %s FOR UPDATE", (name,))

    await database.sql("INSERT INTO item VALUES ('a', 1)")
    other = bench_of(database, locks=locks)
    await other.open()
    branch = await other.begin()
    await other.resource.execute(branch, operation("locks", name="a"))
    work = await other.prepare(branch)
    blocked = await other.begin(LONGER)
    assert isinstance(await other.resource.execute(blocked, operation("put", name="a", value=2)), Refused)
    await other.resource.rollback(blocked, record_pb2.BranchWork())
    assert isinstance(await other.resource.rollback(branch, work), Done)
    await other.resource.close()


async def test_a_write_that_met_no_row_has_changed_nothing(bench: Bench, database: Database) -> None:
    """It looks like one that writes, and is prepared with its marker in one message; nothing is left of it, and nobody waits."""

    async def misses(db: Async) -> None:
        await db.execute("UPDATE item SET value = 2 WHERE name = 'nobody'")

    other = bench_of(database, misses=misses)
    await other.open()
    branch = await other.begin()
    await other.resource.execute(branch, operation("misses"))
    answer = await other.resource.prepare(branch)
    assert isinstance(answer, Prepared) and not answer.changed
    assert await database.prepared() == [] and await database.sql("SELECT gid FROM troth.branch") == []
    await other.resource.close()


async def test_two_resources_without_a_registry_share_nothing(database: Database) -> None:
    one, other = from_dsn(database.dsn), from_dsn(database.dsn)
    one.bind("a", Registry())
    other.bind("a-2", Registry())
    assert isinstance(await one.open(), Done) and isinstance(await other.open(), Done)
    assert isinstance(await one.begin(FIRST), type(await other.begin(FIRST)))
    await one.close()
    await other.close()
