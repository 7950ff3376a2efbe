"""A bank on PostgreSQL as one of several processes, with nothing on disk: the same operations and tables as `bank_service`."""

from __future__ import annotations

import os
from typing import Any

import psycopg
from bank_terms import ACCOUNTS, OPENING, api
from service import COORDINATOR, run

from participant_sdk import Participant, Refuse, slots
from participant_sdk.resources.postgres import Postgres, PostgresLimits, PostgresLog
from troth.log.postgres_store import init

SLOT_LEASE_SECONDS = 1.5
VISIT_AGAIN_SECONDS = 3.0
"""Of a slot that was given back. A question about what nobody remembers waits for every slot: by default for a minute."""
SCHEMA = (
    "CREATE TABLE accounts (account text PRIMARY KEY, balance integer NOT NULL CHECK (balance >= 0))",
    "CREATE TABLE entries (transfer text NOT NULL, account text NOT NULL, amount integer NOT NULL)",
)


async def open_bank(dsn: str) -> None:
    """Make the store of the slots, and the tables, and give everybody the opening balance."""
    await init(dsn, "participant", (), branches=True)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for statement in SCHEMA:
            await connection.execute(statement)
        opened = "INSERT INTO accounts SELECT 'a' || lpad(n::text, 2, '0'), %s FROM generate_series(0, %s) AS n"
        await connection.execute(opened, (OPENING, ACCOUNTS - 1))


def make_bank(name: str, dsn: str) -> Participant:
    """One process of it."""
    limits = PostgresLimits(connections_max=8, lock_wait_seconds=0.5)
    bank = Participant(
        name, resource=Postgres(dsn, limits=limits), log=PostgresLog(dsn, lease_seconds=SLOT_LEASE_SECONDS), coordinator=COORDINATOR
    )

    @bank.operation
    async def move(db: psycopg.AsyncConnection[Any], *, transfer: str, account: str, amount: int) -> int:
        """Change a balance, and note it; returns what it is then."""
        changed = await db.execute(
            "UPDATE accounts SET balance = balance + %s WHERE account = %s AND balance + %s >= 0 RETURNING balance",
            (amount, account, amount),
        )
        row = await changed.fetchone()
        if row is None:
            raise Refuse("NO_FUNDS", f"{transfer} moves {amount} of {account}")
        await db.execute("INSERT INTO entries VALUES (%s, %s, %s)", (transfer, account, amount))
        return int(row[0])

    @bank.operation
    async def look(db: psycopg.AsyncConnection[Any], *, account: str) -> int:
        """A balance; changes nothing."""
        row = await (await db.execute("SELECT balance FROM accounts WHERE account = %s", (account,))).fetchone()
        assert row is not None, account
        return int(row[0])

    return bank


if __name__ == "__main__":
    slots.VISIT_AGAIN_SECONDS = VISIT_AGAIN_SECONDS
    bank = make_bank(os.environ["BANK_NAME"], os.environ["BANK_DSN"])
    run(bank, api(bank), None)
