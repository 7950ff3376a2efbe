"""`Embedded` on two PostgreSQL servers: its own log and those of its participants are in them, and another process takes over."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from embedded_pg import move, service
from pg_bench import Database
from pg_processes import Processes

from participant_sdk import Embedded, Participant
from participant_sdk.testing.postgres import PostgresServer
from tests.relational import until
from troth.errors import LogLocked
from troth.failpoints import VARIABLE
from troth.log.postgres_store import init

SCRIPT = Path(__file__).with_name("embedded_pg.py")


@pytest.fixture
async def databases(server: PostgresServer, breakable: PostgresServer) -> AsyncIterator[tuple[Database, Database]]:
    both = Database(server), Database(breakable)
    for database in both:
        await database.create()
        await init(database.dsn, "participant", (), branches=True)
    yield both
    for database in both:
        assert await database.prepared() == []
        await database.drop()


async def taken_over(north: Database, south: Database) -> tuple[Embedded, Participant, Participant]:
    """Another process of the service, once the leases of the last one have lapsed."""
    started: list[tuple[Embedded, Participant, Participant]] = []

    async def start() -> bool:
        made = service(north.dsn, south.dsn)
        with suppress(LogLocked):
            await made[0].start()
            started.append(made)
        return bool(started)

    await until(start)
    return started[0]


async def names(database: Database) -> list[str]:
    return [row[0] for row in await database.sql("SELECT name FROM item ORDER BY name")]


@pytest.mark.parametrize(
    ("failpoint", "moved"),
    [("coordinator:before-sync:decided=kill@2", 1), ("coordinator:after-sync:decided=kill@2", 2)],
)
async def test_another_process_finishes_what_a_killed_one_has_decided(
    databases: tuple[Database, Database], processes: Processes, failpoint: str, moved: int
) -> None:
    north, south = databases
    first = processes.start("first", str(SCRIPT), north.dsn, south.dsn, "5", environment={VARIABLE: failpoint})
    assert first.wait(60) == -signal.SIGKILL
    processes.running.clear()
    troth, *banks = await taken_over(north, south)
    try:
        await move(troth, tuple(banks), 9)

        async def settled() -> bool:
            return not await north.prepared() and not await south.prepared()

        await until(settled)
        expected = [*(f"t{number}" for number in range(moved)), "t9"]
        assert await names(north) == await names(south) == expected
    finally:
        await troth.close()


async def test_two_processes_do_not_have_it_at_once(databases: tuple[Database, Database]) -> None:
    north, south = databases
    troth, *banks = await taken_over(north, south)
    other = service(north.dsn, south.dsn)[0]
    with pytest.raises(LogLocked):
        await other.start()
    await move(troth, tuple(banks), 1)
    await troth.close()
    assert await names(north) == await names(south) == ["t1"]
