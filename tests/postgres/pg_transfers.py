"""Transfers between banks on PostgreSQL: what callers are told of each, and what the tables say of it, whoever wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import psycopg
from pg_bench import Database

from participant_sdk.client import Client, call
from tests.relational import tell
from troth.errors import Aborted, OutcomeUnknown, RequestError
from troth.log.postgres_store import init

ACCOUNTS, MONEY = 4, 1_000


async def make_bank(database: Database) -> None:
    """The tables of a bank, which `pg_service` works on."""
    await init(database.dsn, "participant", (), branches=True)
    await database.sql("CREATE TABLE account (number int PRIMARY KEY, balance int NOT NULL)")
    await database.sql("INSERT INTO account SELECT n, %s FROM generate_series(0, %s) AS n", MONEY, ACCOUNTS - 1)
    await database.sql("CREATE TABLE transfer (number int PRIMARY KEY)")


async def transfers(client: Client, numbers: Iterator[int], told: dict[int, str]) -> None:
    """One caller: a transfer after the other, each told as committed, aborted, or not known."""
    for number in numbers:
        account, amount = number % ACCOUNTS, 1 + number % 7
        transfer = client.run(
            call("north", "move", transfer=number, account=account, amount=-amount),
            call("south", "move", transfer=number, account=account, amount=amount),
            timeout=2.0, attempts=2,
        )  # fmt: skip
        await tell(number, told, transfer)


async def served(client: Client) -> bool:
    """Whether both banks answer."""
    with suppress(Aborted, RequestError, OutcomeUnknown):
        await client.run(call("north", "balance", account=0), call("south", "balance", account=0), timeout=2.0)
        return True
    return False


async def settled(banks: Mapping[str, Database]) -> bool:
    """Whether nothing is in doubt anywhere."""
    try:
        return not any([await database.prepared() for database in banks.values()])
    except psycopg.Error:
        return False


async def wrong(banks: Mapping[str, Database], told: Mapping[int, str]) -> list[str]:
    """What is not all or nothing, not as it was told, or not all of the money."""
    there = {name: {row[0] for row in await database.sql("SELECT number FROM transfer")} for name, database in banks.items()}
    found = [f"{number} is at one bank only" for number in there["north"] ^ there["south"]]
    everywhere = there["north"] & there["south"]
    for number, how in told.items():
        if how == "committed" and number not in everywhere:
            found.append(f"{number} was told committed, and is lost")
        if how == "aborted" and number in everywhere:
            found.append(f"{number} was told aborted, and stands")
    totals = [(await database.sql("SELECT sum(balance) FROM account"))[0][0] for database in banks.values()]
    if sum(totals) != len(banks) * ACCOUNTS * MONEY:
        found.append(f"there is {totals}")
    return found
