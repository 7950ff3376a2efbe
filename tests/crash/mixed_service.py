"""A bank as a process, on any of the three databases: `python mixed_service.py KIND NAME PLACE COORDINATOR`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from participant_sdk import Database, MariaDB, MariadbLimits, MariadbLog, Participant, Refuse, SqliteResource
from participant_sdk.resources.postgres import Postgres, PostgresLimits, PostgresLog

ACCOUNTS, MONEY = 40, 1_000
SCHEMA = """
CREATE TABLE IF NOT EXISTS account (number INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS transfer (number INTEGER PRIMARY KEY);
"""
CHANGE = "UPDATE account SET balance = balance + {0} WHERE number = {0} AND balance + {0} >= 0"
NOTE = "INSERT INTO transfer VALUES ({0})"


def sqlite(name: str, place: str, coordinator: str) -> Participant:
    """One process, one file."""
    bank = Participant(
        name, resource=SqliteResource(Path(place) / "bank.db", schema=SCHEMA), data_directory=place, coordinator=coordinator
    )

    @bank.operation(locks=lambda account: [f"account/{account}"])
    def move(db: Database, *, transfer: int, account: int, amount: int) -> None:
        if db.one("SELECT 1 FROM account WHERE number = ?", (account,)) is None:
            db.execute("INSERT INTO account VALUES (?, ?)", (account, MONEY))
        db.execute("UPDATE account SET balance = balance + ? WHERE number = ?", (amount, account))
        db.execute(NOTE.format("?"), (transfer,))

    return bank


def postgres(name: str, place: str, coordinator: str) -> Participant:
    """Any number of processes, with nothing on disk."""
    limits = PostgresLimits(connections_max=8, lock_wait_seconds=1.0)
    bank = Participant(name, resource=Postgres(place, limits=limits), log=PostgresLog(place), coordinator=coordinator)

    @bank.operation
    async def move(db: Any, *, transfer: int, account: int, amount: int) -> None:
        if (await db.execute(CHANGE.format("%s"), (amount, account, amount))).rowcount == 0:
            raise Refuse("NO_FUNDS")
        await db.execute(NOTE.format("%s"), (transfer,))

    return bank


def mariadb(name: str, place: str, coordinator: str) -> Participant:
    """The same on MariaDB."""
    limits = MariadbLimits(connections_max=8, lock_wait_seconds=1.0)
    bank = Participant(name, resource=MariaDB(place, limits=limits), log=MariadbLog(place), coordinator=coordinator)

    @bank.operation
    async def move(db: Any, *, transfer: int, account: int, amount: int) -> None:
        async with db.cursor() as cursor:
            await cursor.execute(CHANGE.format("%s"), (amount, account, amount))
            if cursor.rowcount == 0:
                raise Refuse("NO_FUNDS")
            await cursor.execute(NOTE.format("%s"), (transfer,))

    return bank


KINDS: dict[str, Callable[[str, str, str], Participant]] = {"sqlite": sqlite, "postgres": postgres, "mariadb": mariadb}

if __name__ == "__main__":
    sys.exit(KINDS[sys.argv[1]](*sys.argv[2:5]).run())
