"""Transfers between two banks on PostgreSQL, each in two processes without a disk, while processes and a database are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
from pg_bench import Database
from pg_processes import Processes
from pg_transfers import make_bank, served, settled, transfers, wrong

from participant_sdk.client import Client
from participant_sdk.testing.postgres import PostgresServer
from tests.relational import until

TRANSFERS, CALLERS = 40, 6


@pytest.fixture
async def banks(server: PostgresServer, breakable: PostgresServer) -> AsyncIterator[dict[str, Database]]:
    """North on a server that lives, south on one that is killed."""
    banks = {"north": Database(server), "south": Database(breakable)}
    for database in banks.values():
        await database.create()
        await make_bank(database)
    yield banks
    for database in banks.values():
        await database.drop()


async def chaos(processes: Processes, banks: dict[str, Database], told: dict[int, str]) -> None:
    """What is killed, and after how many transfers."""
    async def after(count: int) -> None:
        await until(lambda: _true(len(told) >= count))

    for count, victim in ((6, "north/0"), (16, "database"), (26, "south/1")):
        await after(count)
        if victim == "database":
            # Of a backend that dies so the postmaster makes a crash of the whole server, and recovers from it.
            pids = await banks["south"].sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'troth%%'")
            os.kill(pids[0][0], signal.SIGKILL)
        else:
            name, number = victim.split("/")
            processes.kill(victim)
            processes.bank(name, int(number), banks[name].dsn)


async def _true(value: bool) -> bool:
    return value


async def test_money_is_conserved_and_nothing_is_left_in_doubt(banks: dict[str, Database], processes: Processes) -> None:
    processes.coordinate()
    for name, database in banks.items():
        for number in range(2):
            processes.bank(name, number, database.dsn)
    told: dict[int, str] = {}
    async with Client(processes.address) as client:
        await until(lambda: served(client))
        numbers = iter(range(TRANSFERS))
        callers = [transfers(client, numbers, told) for _ in range(CALLERS)]
        await asyncio.gather(chaos(processes, banks, told), *callers)
        await until(lambda: served(client))
        await until(lambda: settled(banks))
    assert not await wrong(banks, told)
    assert list(told.values()).count("committed") >= TRANSFERS // 3, told
