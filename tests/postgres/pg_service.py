"""A bank on PostgreSQL as a process, any number of times: `python pg_service.py NAME DSN COORDINATOR`."""

from __future__ import annotations

import sys
from typing import Any

import psycopg

from participant_sdk import Participant, Refuse
from participant_sdk.resources.postgres import Postgres, PostgresLimits, PostgresLog


def bank(name: str, dsn: str, coordinator: str) -> Participant:
    """Each transfer leaves a row, under the transfer's number, beside the account that it changes."""
    limits = PostgresLimits(connections_max=8, lock_wait_seconds=1.0)
    participant = Participant(name, resource=Postgres(dsn, limits=limits), log=PostgresLog(dsn), coordinator=coordinator)

    @participant.operation
    async def move(db: psycopg.AsyncConnection[Any], *, transfer: int, account: int, amount: int) -> int:
        cursor = await db.execute(
            "UPDATE account SET balance = balance + %s WHERE number = %s AND balance + %s >= 0 RETURNING balance",
            (amount, account, amount),
        )
        row = await cursor.fetchone()
        if row is None:
            raise Refuse("NO_FUNDS")
        await db.execute("INSERT INTO transfer VALUES (%s)", (transfer,))
        return int(row[0])

    @participant.operation
    def balance(db: psycopg.Connection[Any], *, account: int) -> int:
        row = db.execute("SELECT balance FROM account WHERE number = %s", (account,)).fetchone()
        assert row is not None
        return int(row[0])

    return participant


if __name__ == "__main__":
    sys.exit(bank(*sys.argv[1:4]).run())
