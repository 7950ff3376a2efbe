"""Transfers between two banks on PostgreSQL, each in two processes without a disk, while processes and a database are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from itertools import count, takewhile
from typing import Any

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
    async def after(transfers: int) -> None:
        await until(lambda: _true(len(told) >= transfers))

    def backends() -> Awaitable[list[Any]]:
        return banks["south"].sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'troth%%'")

    for number, victim in ((6, "north/0"), (16, "database"), (26, "south/1")):
        await after(number)
        if victim == "database":
            # Of a backend that dies so the postmaster makes a crash of the whole server, and recovers from it.
            pids = await until(backends)
            os.kill(pids[0][0], signal.SIGKILL)
        else:
            name, process = victim.split("/")
            processes.kill(victim)
            processes.bank(name, int(process), banks[name].dsn)


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
        numbers = takewhile(lambda number: number < TRANSFERS or committed(told) < TRANSFERS // 3, count())
        callers = [transfers(client, numbers, told) for _ in range(CALLERS)]
        await asyncio.gather(chaos(processes, banks, told), *callers)
        await until(lambda: served(client))
        await until(lambda: settled(banks))
    assert not await wrong(banks, told)
    assert len(told) >= TRANSFERS and committed(told) >= TRANSFERS // 3, told


def committed(told: dict[int, str]) -> int:
    """How many were told so. On a slow machine more transfers meet somebody who is away: there are more until these are enough."""
    return list(told.values()).count("committed")
