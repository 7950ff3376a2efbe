"""Transfers between banks on PostgreSQL, MariaDB and SQLite, while services, the coordinator and database servers are killed.

North (PostgreSQL) and south (MariaDB) run as two processes each, without a disk; east has a SQLite file. Each transfer changes two
of them, or all three. In the end money is conserved, everything is all or nothing, and nothing is left prepared.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pymysql
import pytest
from ma_bench import Database as MariadbDatabase
from mixed_service import ACCOUNTS, MONEY
from pg_bench import Database as PostgresDatabase
from pg_processes import Processes

from participant_sdk.client import Client, call
from participant_sdk.testing.mariadb import MariadbServer
from participant_sdk.testing.postgres import PostgresServer
from tests.relational import tell, until
from troth.errors import Aborted, OutcomeUnknown, RequestError
from troth.log import mariadb_store, postgres_store

SERVICE = str(Path(__file__).with_name("mixed_service.py"))
TRANSFERS, CALLERS = 500, 12
PROBES = 1_000_000
"""Numbers of transfers that only ask whether all banks answer begin here."""
SECONDS = 900.0
TABLES = ("CREATE TABLE account (number int PRIMARY KEY, balance int NOT NULL)", "CREATE TABLE transfer (number int PRIMARY KEY)")
BANKS = ("north", "south", "east")


class World:
    """The databases, the processes, and what was told of each transfer."""

    def __init__(self, directory: Path, north: PostgresDatabase, south: MariadbDatabase) -> None:
        self.north, self.south, self.east = north, south, directory / "east"
        self.processes = Processes(directory)
        self.told: dict[int, str] = {}
        self.address = ""

    async def make(self) -> None:
        await self.north.create()
        self.south.create()
        await postgres_store.init(self.north.dsn, "participant", (), branches=True)
        await mariadb_store.init(self.south.dsn(), "participant", (), branches=True)
        for statement in (*TABLES, *(f"INSERT INTO account VALUES ({number}, {MONEY})" for number in range(ACCOUNTS))):
            await self.north.sql(statement)
            self.south.sql(statement)
        self.east.mkdir()

    def start(self, name: str) -> None:
        """Start the coordinator or a process of a bank."""
        if name == "c1":
            self.processes.coordinate(self.address or "127.0.0.1:0")
            self.address = self.processes.address
            return
        bank = name.partition("/")[0]
        kind, place = {
            "north": ("postgres", self.north.dsn), "south": ("mariadb", self.south.dsn()), "east": ("sqlite", str(self.east)),
        }[bank]  # fmt: skip
        self.processes.start(name, SERVICE, kind, bank, place, self.address)

    def kill(self, victim: str) -> None:
        """Kill -9, and start again."""
        if victim == "mariadb":
            self.south.server.stop(signal.SIGKILL)
            self.south.server.start()
        elif victim == "postgres":
            # Of a backend that dies so the postmaster makes a crash of the whole server, and recovers from it.
            row = None
            with psycopg.connect(self.north.dsn, autocommit=True) as connection:
                while row is None:  # both of its processes may be dialling just now
                    row = connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'troth %'").fetchone()
            os.kill(row[0], signal.SIGKILL)
        else:
            self.processes.kill(victim)
            self.start(victim)

    def wanted(self) -> Iterator[int]:
        """The numbers of transfers: as many as there are to be, and more until half as many have committed. On a slow machine
        processes are away for longer, and more transfers meet one that is away."""
        for number in count():
            if number >= TRANSFERS and self.committed() >= TRANSFERS // 2:
                return
            yield number

    def committed(self) -> int:
        """How many were told so."""
        return list(self.told.values()).count("committed")

    async def settled(self) -> bool:
        """Whether nothing is in doubt anywhere."""
        try:
            return not await self.north.prepared() and not self.south.prepared()
        except (psycopg.Error, pymysql.Error):
            return False

    async def wrong(self) -> list[str]:
        """What is not all or nothing, not as it was told, or not all of the money."""
        with sqlite3.connect(self.east / "bank.db") as file:
            numbers = {row[0] for row in file.execute("SELECT number FROM transfer")}
            money = sum(row[0] - MONEY for row in file.execute("SELECT balance FROM account"))
        file.close()
        there = {
            "north": {row[0] for row in await self.north.sql("SELECT number FROM transfer")},
            "south": {row[0] for row in self.south.sql("SELECT number FROM transfer")}, "east": numbers,
        }  # fmt: skip
        found = []
        for number in self.told:
            seen = [bank for bank in sides(number) if number in there[bank]]
            if seen and len(seen) < len(sides(number)):
                found.append(f"{number} is at {seen} only")
            if self.told.get(number) == "committed" and not seen:
                found.append(f"{number} was told committed, and is lost")
            if self.told.get(number) == "aborted" and seen:
                found.append(f"{number} was told aborted, and stands")
        money += int((await self.north.sql("SELECT sum(balance) FROM account"))[0][0])
        money += int(self.south.sql("SELECT SUM(balance) FROM account")[0][0])
        return found if money == 2 * ACCOUNTS * MONEY else [*found, f"there is {money}"]


def sides(number: int) -> tuple[str, ...]:
    """The banks of a transfer."""
    return BANKS if number % 4 == 3 else tuple(bank for place, bank in enumerate(BANKS) if place != number % 4)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with PostgresServer() as postgres, MariadbServer() as mariadb:
        world = World(tmp_path, PostgresDatabase(postgres), MariadbDatabase(mariadb))
        await world.make()
        yield world
        world.processes.end()


async def transfers(client: Client, numbers: Iterator[int], told: dict[int, str]) -> None:
    """One caller: a transfer after the other, each told as committed, aborted, or not known."""
    for number in numbers:
        account, amount = number % ACCOUNTS, 1 + number % 7
        first, *others = sides(number)
        shares = {first: -amount * len(others), **dict.fromkeys(others, amount)}
        calls = (call(bank, "move", transfer=number, account=account, amount=share) for bank, share in shares.items())
        await tell(number, told, client.run(*calls, timeout=2.0, attempts=3))


async def chaos(world: World, seed: int) -> list[str]:
    """Everybody is killed once, in an order of chance, spread over the transfers; returns the order."""
    victims = ["north/0", "south/0", "south/1", "east", "c1", "postgres", "mariadb"]
    random.Random(seed).shuffle(victims)
    pause = TRANSFERS // (len(victims) + 2)
    for place, victim in enumerate(victims, 1):
        await until(lambda due=place * pause: _is(len(world.told) >= due))
        await asyncio.to_thread(world.kill, victim)
    return victims


async def _is(value: bool) -> bool:
    return value


async def test_money_is_conserved_over_three_databases_while_everything_is_killed(world: World) -> None:
    for name in ("c1", "north/0", "north/1", "south/0", "south/1", "east"):
        world.start(name)
    seed = random.SystemRandom().randrange(1_000_000)
    async with Client(world.address) as client:
        probes = count(PROBES)
        await until(lambda: served(client, next(probes)))
        numbers = world.wanted()
        callers = [transfers(client, numbers, world.told) for _ in range(CALLERS)]
        async with asyncio.timeout(SECONDS):
            victims, *_ = await asyncio.gather(chaos(world, seed), *callers)
        await asyncio.to_thread(world.kill, "mariadb")  # a branch that it has lost sight of comes back so (`mariadb/finishing.py`)
        await until(lambda: served(client, next(probes)))
        await until(world.settled)
    world.processes.end()
    assert not await world.wrong(), (seed, victims)
    assert len(world.told) >= TRANSFERS and world.committed() >= TRANSFERS // 2, (seed, victims, world.told)


async def served(client: Client, number: int) -> bool:
    """Whether all banks answer; one transfer more."""
    shares = zip(BANKS, (-2, 1, 1), strict=True)
    try:
        await client.run(*(call(bank, "move", transfer=number, account=0, amount=share) for bank, share in shares), timeout=2.0)
    except (Aborted, RequestError, OutcomeUnknown):
        return False
    return True
