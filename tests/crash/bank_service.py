"""A bank as a process: accounts, and an entry for each movement. What it was told shows in its tables, row by row."""

from __future__ import annotations

import os

from bank_terms import ACCOUNTS, OPENING, api
from service import COORDINATOR, DIRECTORY, run

from participant_sdk import Database, Limits, Participant, Refuse, SqliteResource

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    account TEXT NOT NULL PRIMARY KEY,
    balance INTEGER NOT NULL CHECK (balance >= 0)
) STRICT;
CREATE TABLE IF NOT EXISTS entries (
    id       INTEGER NOT NULL PRIMARY KEY,
    transfer TEXT NOT NULL,
    account  TEXT NOT NULL,
    amount   INTEGER NOT NULL
) STRICT;
"""

bank = Participant(
    os.environ.get("BANK_NAME", "bank"),
    resource=SqliteResource(DIRECTORY / "bank.db", schema=SCHEMA),
    data_directory=DIRECTORY,
    coordinator=COORDINATOR,
    limits=Limits(lock_wait_seconds=0.5, local_wait_seconds=2.0, enlist_wait_seconds=0.5),
)


@bank.operation(locks=lambda account: [f"account/{account}"])
def move(db: Database, *, transfer: str, account: str, amount: int) -> int:
    """Change a balance, and note it; returns what it is then."""
    row = db.one("SELECT balance FROM accounts WHERE account = ?", (account,))
    if row is None or row[0] + amount < 0:
        raise Refuse("NO_FUNDS", f"{account} has {row and row[0]}, and {transfer} moves {amount}")
    balance: int = row[0] + amount
    db.execute("UPDATE accounts SET balance = ? WHERE account = ?", (balance, account))
    db.execute("INSERT INTO entries (transfer, account, amount) VALUES (?, ?, ?)", (transfer, account, amount))
    return balance


@bank.operation(locks=lambda account: [f"account/{account}"])
def look(db: Database, *, account: str) -> int:
    """A balance; changes nothing."""
    row = db.one("SELECT balance FROM accounts WHERE account = ?", (account,))
    assert row is not None, account
    return int(row[0])


@bank.invariant(every_seconds=0.5, seconds_max=1.0)
def balances_are_what_was_moved(db: Database) -> str | None:
    """Each balance is the opening one and what its entries say: of what is committed, at any moment, whoever was killed."""
    moved = "SELECT account, sum(amount) AS amount FROM entries GROUP BY account"
    found = f"SELECT account, balance, coalesce(amount, 0) AS moved FROM accounts LEFT JOIN ({moved}) USING (account)"
    row = db.one(f"SELECT * FROM ({found}) WHERE balance != ? + moved", (OPENING,))
    return f"{row[0]} has {row[1]}, and {row[2]} was moved" if row else None


def open_accounts(db: Database) -> None:
    """Give everybody the opening balance, once."""
    if db.one("SELECT 1 FROM accounts LIMIT 1") is None:
        for number in range(ACCOUNTS):
            db.execute("INSERT INTO accounts VALUES (?, ?)", (f"a{number:02}", OPENING))


if __name__ == "__main__":
    run(bank, api(bank), open_accounts)
