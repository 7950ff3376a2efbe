"""Backends killed in the middle of PREPARE TRANSACTION and of COMMIT PREPARED, with each driver.

Where a replica is waited for, both commands have taken effect when they wait: to be killed there is the latest moment. A trigger of
a deferred constraint is inside of PREPARE, too, and is the earliest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from pg_bench import LIMITS, Database
from pg_drivers import DRIVERS, bench_with

from participant_sdk.resources.contract import Done, Refused, Unreachable
from participant_sdk.testing.contract import LONGER, Bench
from participant_sdk.testing.postgres import PostgresServer
from tests.relational import until
from troth.v1 import record_pb2

NOTHING = record_pb2.BranchWork()
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE %s"
CREATE_SLOW = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END'",
    "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
)


@pytest.fixture(scope="module")
def alone() -> Iterator[PostgresServer]:
    """A server that waits for a replica which never comes, once it is told to wait."""
    with PostgresServer(synchronous_standby_names="*") as server:
        yield server


@pytest.fixture
async def primary(alone: PostgresServer) -> AsyncIterator[Database]:
    database = Database(alone)
    await waits(database, False)
    await database.create()
    yield database
    await waits(database, False)
    await database.drop()


async def waits(database: Database, wait: bool) -> None:
    """Whether every session waits for replicas from now on."""
    value = "on" if wait else "local"
    async with await psycopg.AsyncConnection.connect(database.server.dsn(), autocommit=True) as connection:
        await connection.execute(f"ALTER SYSTEM SET synchronous_commit = {value}")
        await connection.execute("SELECT pg_reload_conf()")

        async def told() -> bool:
            shown = await (await connection.execute("SHOW synchronous_commit")).fetchone()
            return shown == (value,)

        await until(told)


@pytest.fixture(params=DRIVERS)
async def bench(request: pytest.FixtureRequest, primary: Database) -> AsyncIterator[Bench]:
    async with bench_with(request.param, primary, LIMITS) as bench:
        yield bench


async def waiting(database: Database, statement: str) -> list[Any]:
    """The backend that waits for a replica with it."""
    found: list[Any] = await until(lambda: database.sql(WAITING, f"{statement}%"))
    return found


async def ended(database: Database, how: str, waiting: list[Any]) -> None:
    await database.sql(f"SELECT pg_{how}_backend(%s)", waiting[0][0])


@pytest.mark.parametrize("commit", [False, True])
@pytest.mark.parametrize("how", ["terminate", "cancel"])
async def test_a_prepare_that_has_taken_effect_is_unknown_and_settled_either_way(
    bench: Bench, primary: Database, how: str, commit: bool
) -> None:
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    await waits(primary, True)
    voting = asyncio.create_task(bench.resource.prepare(branch))
    await ended(primary, how, await waiting(primary, "%PREPARE TRANSACTION"))
    assert isinstance(await voting, Unreachable)
    await waits(primary, False)
    assert await primary.prepared() == [branch]
    if commit:
        assert isinstance(await until(lambda: bench.resource.commit(branch, NOTHING, one_phase=False)), Done)
    else:
        assert isinstance(await until(lambda: bench.resource.rollback(branch, NOTHING)), Done)
    assert (await primary.prepared(), await bench.visible("a")) == ([], 1 if commit else None)


@pytest.mark.parametrize("how", ["terminate", "cancel"])
async def test_a_commit_that_has_taken_effect_is_repeated_until_it_is_known(bench: Bench, primary: Database, how: str) -> None:
    branch, work = await bench.prepared()
    await waits(primary, True)
    committing = asyncio.create_task(bench.resource.commit(branch, work, one_phase=False))
    await ended(primary, how, await waiting(primary, "COMMIT PREPARED"))
    assert isinstance(await committing, Unreachable)
    await waits(primary, False)
    assert isinstance(await until(lambda: bench.resource.commit(branch, work, one_phase=False)), Done)
    assert (await primary.prepared(), await bench.visible("a")) == ([], 1)


async def test_a_commit_in_one_phase_that_has_taken_effect_is_repeated_until_it_is_known(bench: Bench, primary: Database) -> None:
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    await waits(primary, True)
    committing = asyncio.create_task(bench.resource.commit(branch, NOTHING, one_phase=True))
    await ended(primary, "terminate", await waiting(primary, "%COMMIT"))
    assert isinstance(await committing, Unreachable)
    await waits(primary, False)
    assert isinstance(await until(lambda: bench.resource.commit(branch, NOTHING, one_phase=True)), Done)
    assert await bench.visible("a") == 1


async def test_a_prepare_that_is_killed_before_it_takes_effect_leaves_nothing(bench: Bench, primary: Database) -> None:
    for statement in CREATE_SLOW:
        await primary.sql(statement)
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    async with await psycopg.AsyncConnection.connect(primary.dsn) as blocker:
        await blocker.execute("SELECT pg_advisory_xact_lock(7)")
        voting = asyncio.create_task(bench.resource.prepare(branch))
        there = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE '%%PREPARE TRANSACTION%%'"
        await ended(primary, "terminate", await until(lambda: primary.sql(there)))
        assert isinstance(await voting, Unreachable | Refused)
    assert isinstance(await until(lambda: bench.resource.rollback(branch, NOTHING)), Done)
    assert (await primary.prepared(), await bench.visible("a")) == ([], None)
    again = await bench.begin(LONGER)
    await bench.put(again, "a", 2)
    assert isinstance(await bench.resource.commit(again, await bench.prepare(again), one_phase=False), Done)
