"""`troth doctor` on a real server: what is fit, what is not, and what a prepared transaction blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from coordinator.cli import doctor, finding
from participant_sdk.testing.postgres import PostgresServer

FIT: dict[str, Any] = {
    "version": 150_020, "room": 100, "prepared": 1, "fsync": "on", "pages": "on", "commit": "on", "standbys": "", "replicas": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


async def sql(dsn: str, *statements: str) -> psycopg.AsyncConnection[Any]:
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    for statement in statements:
        await connection.execute(statement)
    return connection


async def test_a_database_that_is_ready_and_one_that_is_not(server: PostgresServer, troth: Any) -> None:
    ran = await troth("doctor", "--dsn", server.dsn())
    assert ran.code == 1 and "troth store init --participant NAME" in ran.out
    await troth("store", "init", "--store", server.dsn(), "--participant", "pay")
    ran = await troth("doctor", "--dsn", server.dsn())
    assert ran.code == 0 and "troth.branch is there" in ran.out
    poor = await sql(server.dsn(), "CREATE ROLE poor LOGIN")
    ran = await troth("doctor", "--dsn", server.dsn(user="poor"))
    assert ran.code == 1 and "GRANT USAGE ON SCHEMA troth TO poor" in ran.out
    await poor.execute("GRANT USAGE ON SCHEMA troth TO poor")
    await poor.execute("GRANT SELECT, INSERT, DELETE ON troth.branch TO poor")
    ran = await troth("doctor", "--dsn", server.dsn(user="poor"))
    assert ran.code == 1 and "the role poor may not use the outbox" in ran.out
    await poor.close()


async def test_what_is_in_doubt_is_listed_with_whom_it_blocks(
    server: PostgresServer, troth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "OLD_SECONDS", 0.0)
    setup = await sql(server.dsn(), "CREATE TABLE stock (n int PRIMARY KEY)", "INSERT INTO stock VALUES (1)")
    for gid, row in (("troth:pay:2:c1.1.9f2c4e1a.1.7", 1), ("other:7", 2)):
        await setup.execute("BEGIN")
        await setup.execute(f"INSERT INTO stock VALUES ({row}) ON CONFLICT (n) DO UPDATE SET n = excluded.n")
        await setup.execute(f"PREPARE TRANSACTION '{gid}'")
    waiter = await sql(server.dsn())
    waiting = asyncio.create_task(waiter.execute("DELETE FROM stock WHERE n = 1"))
    for _ in range(1000):
        found, held = await doctor.examine(server.dsn())
        if held[0].waiting:
            break
        await asyncio.sleep(0.01)
    ours, theirs = held
    assert (ours.participant, ours.transaction, ours.tables, ours.waiting) == ("pay/2", "c1.1.9f2c4e1a.1.7", ["stock"], 1)
    assert (theirs.participant, theirs.waiting) == ("", 0)
    told = {one.what.split(" ")[0]: one for one in found if one.level == "warning"}
    assert "troth txn explain c1.1.9f2c4e1a.1.7" in told[ours.gid].fix and not told[ours.gid].sql
    assert told["other:7"].sql == "ROLLBACK PREPARED 'other:7'"
    table = (await troth("doctor", "--dsn", server.dsn())).out
    assert "pay/2" in table and "other software" in table
    document = (await troth("doctor", "--dsn", server.dsn(), "--json")).json()
    assert [one["gid"] for one in document["prepared"]] == [ours.gid, "other:7"]
    for one in held:
        await setup.execute(f"ROLLBACK PREPARED '{one.gid}'")
    await waiting
    await waiter.close()
    await setup.close()


@pytest.mark.parametrize(
    ("changed", "level", "told"),
    [
        ({"version": 120_005}, "problem", "PostgreSQL 12"),
        ({"room": 0}, "problem", "max_prepared_transactions = 0"),
        ({"prepared": 80}, "warning", "80 of 100"),
        ({"fsync": "off"}, "problem", "fsync = off"),
        ({"pages": "off"}, "problem", "full_page_writes = off"),
        ({"commit": "off"}, "problem", "synchronous_commit = off"),
        ({"commit": "local", "standbys": "a"}, "problem", "synchronous_commit = local"),
        ({"commit": "local"}, "ok", ""),
        ({"replicas": 2}, "warning", "a failover loses"),
        ({"replicas": 2, "standbys": "a"}, "ok", ""),
    ],
)
def test_settings_that_lose_what_was_promised_are_found(changed: dict[str, Any], level: str, told: str) -> None:
    (*found,) = doctor.of_server(**{**FIT, **changed})
    worst = [one for one in found if one.level != "ok"]
    assert [one.level for one in worst] == ([level] if level != "ok" else [])
    assert told in (worst[0].what if worst else "")


async def test_a_server_that_is_away_is_told_in_a_line(troth: Any) -> None:
    ran = await troth("doctor", "--dsn", "host=/nowhere dbname=x")
    assert ran.code != 0 and "cannot be reached" in ran.err
