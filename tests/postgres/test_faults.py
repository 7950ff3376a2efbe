"""Faults with the real server. What `shared/FACTS.md` says of PostgreSQL is tried here, and not believed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pg_bench import ASYNC, LIMITS, PUT, Database, PostgresWorkbench, from_dsn
from pg_drivers import DRIVERS, bench_with

from participant_sdk.registry import Registry
from participant_sdk.resources.contract import Begun, BranchOutcome, Broken, Done, Known, Refused, Unreachable
from participant_sdk.resources.postgres import Postgres, PostgresLimits
from participant_sdk.resources.postgres.backends import application_name
from participant_sdk.resources.relational import finishing
from participant_sdk.testing.contract import FIRST, LONGER, Bench
from participant_sdk.testing.postgres import PostgresServer
from tests.relational import all_finish_it, impatient, until
from troth.errors import ConfigError
from troth.gids import gid_of
from troth.log import postgres_branches
from troth.v1 import record_pb2

NOTHING = record_pb2.BranchWork()
GID = gid_of("contract", FIRST)


def bench_of(database: Database) -> Bench:
    return Bench(PostgresWorkbench(database, ASYNC, from_dsn))


FEW = PostgresLimits(connections_max=2, connect_wait_seconds=30.0, lock_wait_seconds=0.5)


@pytest.fixture(params=DRIVERS)
async def bench(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Bench]:
    """What finishes branches beside it is psycopg's."""
    async with bench_with(request.param, database, FEW) as bench:
        yield bench


async def raw(database: Database, *statements: str) -> psycopg.AsyncConnection[Any]:
    """A connection of somebody else, with open work."""
    connection = await psycopg.AsyncConnection.connect(database.dsn, autocommit=True)
    for statement in statements:
        await connection.execute(statement)
    return connection


# ---- what the driver reports, and what is true


async def test_preparing_a_failed_transaction_is_no_error_for_the_driver(database: Database) -> None:
    """The reason why only the command tag counts."""
    connection = await raw(database, "BEGIN")
    with pytest.raises(psycopg.Error):
        await connection.execute("SELECT 1/0")
    cursor = await connection.execute("PREPARE TRANSACTION 'x'")
    assert cursor.statusmessage == "ROLLBACK"
    await connection.close()
    assert await database.prepared() == []


async def test_a_gid_that_somebody_else_has_is_left_to_him(bench: Bench, database: Database) -> None:
    """42710 at PREPARE: sending a rollback by gid would destroy the other's branch."""
    other = await raw(database, "BEGIN", "CREATE TABLE theirs (a int)", f"PREPARE TRANSACTION '{GID}'")
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    assert isinstance(await bench.resource.prepare(branch), Refused)
    assert isinstance(await bench.resource.rollback(branch, NOTHING), Done)
    assert await database.prepared() == [GID]
    await other.close()


async def test_names_of_other_software_and_of_longer_names_are_not_listed(bench: Bench, database: Database) -> None:
    others = ("tm1", "troth:contract-2::x.1", "troth:contract:0:x.1")
    for number, gid in enumerate(others):
        connection = await raw(database, "BEGIN", f"CREATE TABLE t{number} (a int)", f"PREPARE TRANSACTION '{gid}'")
        await connection.close()
    assert await bench.in_doubt() == []


# ---- somebody else finishes


async def test_a_commit_by_hand_is_found_out_when_the_decision_is_abort(bench: Bench, database: Database) -> None:
    branch, work = await bench.prepared()
    await database.sql(f"COMMIT PREPARED '{branch}'")
    assert isinstance(await bench.resource.commit(branch, work, one_phase=False), Done)
    broken = await bench.resource.rollback(branch, work)
    assert isinstance(broken, Broken) and "committed it by hand" in broken.why


async def test_a_rollback_by_hand_is_found_out_when_the_decision_is_commit(bench: Bench, database: Database) -> None:
    branch, work = await bench.prepared()
    await database.sql(f"ROLLBACK PREPARED '{branch}'")
    broken = await bench.resource.commit(branch, work, one_phase=False)
    assert isinstance(broken, Broken) and "by hand" in broken.why
    assert isinstance(await bench.resource.rollback(branch, work), Done)


async def test_five_finishers_at_once_agree(bench: Bench, database: Database) -> None:
    await all_finish_it(bench, [bench_of(database) for _ in range(4)])


# ---- what is slow, and lands late


async def test_a_vote_that_comes_after_its_tombstone_is_a_no(bench: Bench) -> None:
    """Somebody asked for the branch while it worked, and was told that it never will be."""
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    other = bench.resource
    assert isinstance(other, Postgres)
    assert await other._finishing().ask(postgres_branches.ENTOMB, {"gid": branch}) == [(False,)]
    refused = await bench.resource.prepare(branch)
    assert isinstance(refused, Refused)
    assert (await bench.in_doubt(), await bench.visible("a")) == ([], None)


async def test_a_backend_that_is_about_to_prepare_is_ended_before_an_absent_gid_is_believed(
    bench: Bench, database: Database
) -> None:
    name = application_name("contract", "00000000", GID)
    slow = await raw(database, "BEGIN", f"SET LOCAL application_name = '{name}'")
    await slow.execute(PUT, ("a", 1))
    await slow.execute(postgres_branches.MARK, (GID,))
    assert isinstance(await bench.resource.outcome(GID), Unreachable)
    answer = await until(lambda: bench.resource.outcome(GID))
    assert answer == Known(BranchOutcome.NEVER_SEEN)
    with pytest.raises(psycopg.OperationalError):
        await slow.execute(f"PREPARE TRANSACTION '{GID}'")
    assert await database.prepared() == []


async def test_a_prepare_that_landed_after_it_was_looked_for_is_rolled_back(bench: Bench, database: Database) -> None:
    """Its marker is held by the prepared branch: asking again finds the gid."""
    slow = await raw(database, "BEGIN")
    await slow.execute(PUT, ("a", 1))
    await slow.execute(postgres_branches.MARK, (GID,))
    rolling_back = asyncio.create_task(bench.resource.rollback(GID, NOTHING))
    await until(lambda: database.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
    await slow.execute(f"PREPARE TRANSACTION '{GID}'")
    await rolling_back
    assert isinstance(await until(lambda: bench.resource.rollback(GID, NOTHING)), Done)
    assert (await database.prepared(), await bench.visible("a")) == ([], None)
    await slow.close()


async def test_what_an_earlier_process_still_does_is_ended_at_the_next_start(bench: Bench, database: Database) -> None:
    """Its machine may be cut off: its sessions then keep their locks."""
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    successor = bench_of(database)
    successor.resource.bind("contract", Registry())
    await until(successor.resource.open)
    assert isinstance(await bench.resource.prepare(branch), Refused | Unreachable)
    again = await successor.begin(LONGER)
    await successor.resource.rollback(again, NOTHING)
    assert await database.sql("SELECT 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'item'") == []
    await successor.resource.close()


async def test_a_backend_that_is_killed_in_mid_vote_leaves_an_unknown_that_is_settled(bench: Bench, database: Database) -> None:
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    blocker = await raw(database, "BEGIN")
    await blocker.execute("INSERT INTO troth.branch VALUES (%s, false)", (branch,))
    voting = asyncio.create_task(bench.resource.prepare(branch))
    waiting = await until(lambda: database.sql("SELECT pid FROM pg_locks WHERE NOT granted"))
    await database.sql("SELECT pg_terminate_backend(%s)", waiting[0][0])
    assert isinstance(await voting, Refused | Unreachable)
    await blocker.close()
    assert isinstance(await bench.resource.rollback(branch, NOTHING), Done)
    assert (await database.prepared(), await bench.visible("a")) == ([], None)


# ---- the server


@pytest.fixture
async def own(breakable: PostgresServer) -> Database:
    own = Database(breakable)
    await own.create()
    return own


@pytest.fixture(params=DRIVERS)
async def bench_on_own(request: pytest.FixtureRequest, own: Database) -> AsyncIterator[Bench]:
    async with bench_with(request.param, own, FEW) as bench:
        yield bench


async def test_a_server_that_is_killed_between_the_phases_has_lost_nothing(
    own: Database, bench_on_own: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_on_own
    monkeypatch.setattr(finishing, "WAIT_SECONDS", 0.3)
    branch, work = await bench.prepared()
    own.server.stop(signal.SIGQUIT)
    assert isinstance(await bench.resource.commit(branch, work, one_phase=False), Unreachable)
    with impatient(bench.resource):
        away = await bench.resource.begin(LONGER)
    assert isinstance(away, Refused) and away.cause.reason == "PARTICIPANT_AWAY" and away.cause.retryable
    own.server.start()
    assert isinstance(await until(lambda: bench.resource.commit(branch, work, one_phase=False)), Done)
    assert await bench.visible("a") == 1

    async def begins() -> bool:  # the pool's connections of before are found dead, and replaced
        begun = await bench.resource.begin(LONGER)
        assert isinstance(begun, Begun) or begun.cause.retryable
        return isinstance(begun, Begun)

    await until(begins)


async def test_a_password_that_was_changed_is_waited_for_until_the_service_has_it(
    own: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "WAIT_SECONDS", 0.3)
    access, passwords = own.server.data / "pg_hba.conf", tmp_path / "pgpass"
    anybody = access.read_text()

    def has(password: str) -> None:
        passwords.write_text(f"*:*:*:clerk:{password}\n")
        passwords.chmod(0o600)

    await own.sql("DROP ROLE IF EXISTS clerk; CREATE ROLE clerk LOGIN SUPERUSER PASSWORD 'winter'")
    access.write_text(f"local all clerk scram-sha-256\n{anybody}")
    await own.sql("SELECT pg_reload_conf()")
    has("winter")
    where = own.server.dsn(own.name, user="clerk", passfile=passwords)
    bench = Bench(PostgresWorkbench(own, ASYNC, lambda dsn: Postgres(where, limits=FEW)))
    try:
        await bench.open()
        branch, work = await bench.prepared()
        await own.sql("ALTER ROLE clerk PASSWORD 'summer'")
        await own.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'clerk'")
        assert isinstance(await bench.resource.commit(branch, work, one_phase=False), Unreachable)
        with impatient(bench.resource):
            away = await bench.resource.begin(LONGER)
        assert isinstance(away, Refused) and away.cause.reason == "PARTICIPANT_AWAY" and away.cause.retryable
        assert not {"winter", "summer"} & set(str(away.cause).split())
        has("summer")
        assert isinstance(await until(lambda: bench.resource.commit(branch, work, one_phase=False)), Done)
        assert await bench.visible("a") == 1
    finally:
        await bench.resource.close()
        access.write_text(anybody)
        await own.sql("SELECT pg_reload_conf()")


async def test_no_room_for_prepared_transactions_is_a_no_that_may_pass(own: Database) -> None:
    own.server.stop()
    own.server.start(max_prepared_transactions="1")
    bench = bench_of(own)
    await bench.open()
    first, work = await bench.prepared()
    second = await bench.begin(LONGER)
    await bench.put(second, "b", 1)
    refused = await bench.resource.prepare(second)
    assert isinstance(refused, Refused) and refused.cause.reason == "OVERLOADED" and refused.cause.retryable
    assert isinstance(await bench.resource.commit(first, work, one_phase=False), Done)
    assert isinstance(await bench.resource.rollback(second, NOTHING), Done)
    await bench.resource.close()
    own.server.stop()
    own.server.start()


async def test_a_server_that_prepares_nothing_is_refused_at_the_start(own: Database) -> None:
    own.server.stop()
    own.server.start(max_prepared_transactions="0")
    resource = from_dsn(own.dsn)
    broken = await resource.open()
    assert isinstance(broken, Broken) and "ALTER SYSTEM SET max_prepared_transactions" in broken.why
    await resource.close()
    own.server.stop()
    own.server.start()


async def test_a_database_without_the_table_or_the_privileges_says_what_to_do(database: Database) -> None:
    resource = from_dsn(database.dsn + " options='-c search_path=public'")
    await database.sql("DROP TABLE troth.branch")
    broken = await resource.open()
    assert isinstance(broken, Broken) and "troth store init --participant" in broken.why
    for statement in postgres_branches.CREATE:
        await database.sql(statement)
    role = f"app_{database.name}"
    await database.sql(f"CREATE ROLE {role} LOGIN")
    poor = Postgres(database.server.dsn(database.name, user=role), limits=LIMITS)
    broken = await poor.open()
    assert isinstance(broken, Broken) and f"GRANT USAGE ON SCHEMA troth TO {role}" in broken.why
    for statement in postgres_branches.grants(role):
        await database.sql(statement)
    assert isinstance(await poor.open(), Done)
    await poor.close()
    await resource.close()
    await database.sql(f"DROP OWNED BY {role}")
    await database.sql(f"DROP ROLE {role}")


async def test_a_server_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "WAIT_SECONDS", 0.2)
    resource = Postgres(f"host={tmp_path} dbname=nothing")
    assert isinstance(await resource.open(), Unreachable)
    assert isinstance(await resource.in_doubt(), Unreachable)
    await resource.close()


@pytest.mark.parametrize("database", ["this is = no dsn", 5, None])
def test_what_is_no_database_is_refused_at_once(database: Any) -> None:
    with pytest.raises(ConfigError):
        Postgres(database)
    with pytest.raises(ConfigError):
        Postgres("dbname=x", isolation="chaos")
