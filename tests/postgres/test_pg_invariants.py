"""Invariants on PostgreSQL: committed data alone, in one snapshot; slots; and two databases at one point."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pg_bench import ASYNC, LIMITS, Database

from participant_sdk import Participant, PostgresLog, Read
from participant_sdk.client import call
from participant_sdk.invariants import Standing
from participant_sdk.resources.postgres import Postgres
from participant_sdk.testing.cluster import Cluster
from tests.checked import Sums, checked_again, found, found_that
from troth.errors import ConfigError
from troth.log.postgres_store import init

SOON = 0.03
NEGATIVE = "SELECT name, value FROM item WHERE value < 0"
Connection = psycopg.AsyncConnection[Any]


def bank_of(database: Database, directory: Path, name: str = "bank", **log: Any) -> Participant:
    resource = Postgres(database.dsn, limits=LIMITS)
    bank = Participant(name, resource=resource, coordinator="memory:1", **(log or {"data_directory": directory / name}))
    for known, function in ASYNC.items():
        bank.operation(name=known)(function)
    return bank


def never_negative(bank: Participant) -> None:
    @bank.invariant(every_seconds=SOON)
    async def never_negative(db: Connection) -> str | None:
        row = await (await db.execute(NEGATIVE)).fetchone()
        return f"{row[0]} has {row[1]}" if row else None

    @bank.invariant(every_seconds=SOON)
    def never_negative_blocking(db: psycopg.Connection[Any]) -> str | None:
        row = db.execute(NEGATIVE).fetchone()
        return f"{row[0]} has {row[1]}" if row else None


async def test_a_prepared_branch_is_not_seen_before_it_is_committed(database: Database, tmp_path: Path) -> None:
    def make() -> Participant:
        bank = bank_of(database, tmp_path)
        never_negative(bank)
        return bank

    async with Cluster(make) as cluster:
        bank, names = cluster["bank"], ("never_negative", "never_negative_blocking")
        for name in names:
            await found(bank, name, Standing.HOLDS)
        await database.sql("BEGIN; INSERT INTO item VALUES ('alice', -5); PREPARE TRANSACTION 'somebody'")
        for name in names:
            await checked_again(bank, name)
            assert bank.findings[name].standing is Standing.HOLDS
        await database.sql("COMMIT PREPARED 'somebody'")
        for name in names:
            assert await found(bank, name, Standing.VIOLATED) == "alice has -5"
        await cluster.run(call("bank", "put", name="alice", value=5))
        for name in names:
            await found(bank, name, Standing.HOLDS)


async def test_all_of_a_check_sees_one_state_and_it_only_reads(database: Database, tmp_path: Path) -> None:
    looked, go_on = asyncio.Event(), asyncio.Event()
    seen: list[Any] = []

    def make() -> Participant:
        bank = bank_of(database, tmp_path)

        @bank.invariant(every_seconds=SOON)
        async def twice(db: Connection) -> bool:
            for _ in range(2):
                seen.append((await (await db.execute("SELECT count(*) FROM item")).fetchone())[0])  # type: ignore[index]  # it has a row
                looked.set()
                await go_on.wait()
            return seen[-1] == seen[-2]

        @bank.invariant(every_seconds=SOON)
        async def writes(db: Connection) -> None:
            await db.execute("INSERT INTO item VALUES ('x', 1)")

        return bank

    async with Cluster(make) as cluster:
        await looked.wait()
        await database.sql("INSERT INTO item VALUES ('between', 1)")
        go_on.set()
        await found(cluster["bank"], "twice", Standing.HOLDS)
        assert seen[:2] == [0, 0]
        assert await found(cluster["bank"], "writes", Standing.UNCHECKED) == "it raised ReadOnlySqlTransaction"
    assert await database.sql("SELECT name FROM item") == [("between",)]


async def test_a_function_that_hangs_harms_nothing(database: Database, tmp_path: Path) -> None:
    release = threading.Event()

    def make() -> Participant:
        bank = bank_of(database, tmp_path)
        never_negative(bank)

        @bank.invariant(every_seconds=SOON, seconds_max=0.2)
        def hangs(db: psycopg.Connection[Any]) -> None:
            release.wait()

        @bank.invariant(every_seconds=SOON, seconds_max=0.2)
        def sleeps(db: psycopg.Connection[Any]) -> None:
            db.execute("SELECT pg_sleep(60)")

        @bank.invariant(every_seconds=SOON, seconds_max=0.2)
        async def sleeps_too(db: Connection) -> None:
            await db.execute("SELECT pg_sleep(60)")

        return bank

    async with Cluster(make) as cluster:
        await found_that(cluster["bank"], "hangs", "return")
        for name in ("sleeps", "sleeps_too"):
            await found_that(cluster["bank"], name, "it raised QueryCanceled")
        await cluster.run(call("bank", "put", name="alice", value=-5))
        assert await found(cluster["bank"], "never_negative", Standing.VIOLATED) == "alice has -5"
        release.set()
        await found(cluster["bank"], "hangs", Standing.HOLDS)


async def test_of_several_processes_one_looks_and_another_takes_that_over(database: Database, tmp_path: Path) -> None:
    def make() -> Participant:
        bank = bank_of(database, tmp_path, log=PostgresLog(database.dsn))
        never_negative(bank)
        return bank

    await init(database.dsn, "participant", (), branches=True)
    await database.sql("INSERT INTO item VALUES ('alice', -5)")
    first, second = make(), make()
    async with Cluster() as cluster:
        for one in (first, second):
            one.rewire(cluster._wiring)
            await one.start()
        assert (first.slot, second.slot) == ("bank/0", "bank/1")
        await found(first, "never_negative", Standing.VIOLATED)
        await asyncio.sleep(5 * SOON)
        assert not second.findings
        await first.close()
        assert await found(second, "never_negative", Standing.VIOLATED) == "alice has -5"
        again = make()
        again.rewire(cluster._wiring)
        await again.start()
        assert again.slot == "bank/0"
        await found(again, "never_negative", Standing.VIOLATED)
        await found(second, "never_negative", None)
        for one in (second, again):
            await one.close()


async def test_two_databases_are_read_at_one_point_by_a_key_that_writers_share(database: Database, tmp_path: Path) -> None:
    sums = Sums()

    def make(name: str) -> Participant:
        bank = bank_of(database, tmp_path, name)

        @bank.operation(locks=lambda account: [f"account/{account}", Read("moving")])
        async def pay(db: Connection, *, account: str, amount: int) -> None:
            put = "INSERT INTO item VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = item.value + excluded.value"
            await db.execute(put, (f"{name}/{account}", amount))

        @bank.operation(locks=["moving"])
        async def total(db: Connection) -> int:
            ours = "SELECT coalesce(sum(value), 0) FROM item WHERE name LIKE %s"
            return int((await (await db.execute(ours, (f"{name}/%",))).fetchone())[0])  # type: ignore[index]  # it has a row

        if name == "south":
            sums.declare(bank, SOON)
        return bank

    async with Cluster(lambda: make("north"), lambda: make("south")) as cluster, cluster.client() as client:
        await sums.move_money(client, 15)
        assert set(sums.seen) == {0}
        await database.sql("UPDATE item SET value = value + 7 WHERE name = 'north/a'")
        assert "north has" in await found(cluster["south"], "sums_agree", Standing.VIOLATED)


def test_locks_are_not_for_a_database_that_isolates(database: Database, tmp_path: Path) -> None:
    bank = bank_of(database, tmp_path)
    with pytest.raises(ConfigError, match="has locks"):
        bank.invariant(name="keyed", locks=["a"])(lambda db: None)
