"""A process with one or more participants, as a service author would write it, and a plain API beside it.

python -m bench.participant --directory DIR --coordinator ADDRESS --names left [--resource sqlite]
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bench.service import Handler, provide_traces, run_loop, serve
from participant_sdk import Database, LogResource, Participant, Refuse, SqliteResource
from participant_sdk.resources.log_only import LogBranch
from troth import tracing
from troth.identity.tls import Tls

ACCOUNTS = 20_000
OPENING_CENTS = 1_000_000_000
RELEASED = asyncio.Event()
"""Lets all operations `wait` of this process go on."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    account       INTEGER NOT NULL PRIMARY KEY,
    balance_cents INTEGER NOT NULL CHECK (balance_cents >= 0)
) STRICT;
CREATE TABLE IF NOT EXISTS movements (
    id           INTEGER NOT NULL PRIMARY KEY,
    account      INTEGER NOT NULL,
    amount_cents INTEGER NOT NULL
) STRICT;
"""


def log_participant(name: str, directory: Path, coordinator: str, store: str = "", tls: Tls | None = None) -> Participant:
    """A participant that keeps nothing but its log; in a slot of a store, if there is one."""
    if store:
        from participant_sdk.resources.postgres import PostgresLog

        one = Participant(name, resource=LogResource(), log=PostgresLog(store), coordinator=coordinator, tls=tls)
    else:
        one = Participant(name, resource=LogResource(), data_directory=directory / name, coordinator=coordinator, tls=tls)

    @one.operation(locks=[])
    def note(branch: LogBranch, *, account: int, amount: int) -> int:
        return amount

    @one.operation(locks=[])
    def look(branch: LogBranch, *, account: int) -> int:
        branch.read_only()
        return account

    @one.operation(locks=[])
    async def wait(branch: LogBranch) -> None:
        await RELEASED.wait()

    @one.operation(locks=[])
    def refuse(branch: LogBranch) -> None:
        raise Refuse("NOT_TODAY")

    @one.operation(locks=lambda key: [f"key/{key}"])
    def contend(branch: LogBranch, *, key: int) -> int:
        return key

    return one


def sqlite_participant(name: str, directory: Path, coordinator: str) -> Participant:
    """A bank: what it does is a real transfer."""
    resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
    one = Participant(name, resource=resource, data_directory=directory / name, coordinator=coordinator)

    @one.operation(locks=lambda account: [f"account/{account}"])
    def move(db: Database, *, account: int, amount: int) -> int:
        row = db.one("SELECT balance_cents FROM accounts WHERE account = ?", (account,))
        if row is None:
            raise Refuse("UNKNOWN_ACCOUNT", f"there is no account {account}")
        left: int = row[0] + amount
        if left < 0:
            raise Refuse("NO_FUNDS", f"account {account} has {row[0]} cents")
        db.execute("UPDATE accounts SET balance_cents = ? WHERE account = ?", (left, account))
        db.execute("INSERT INTO movements (account, amount_cents) VALUES (?, ?)", (account, amount))
        return left

    return one


def open_accounts(db: Database) -> None:
    """Give every account its opening balance, once."""
    if db.one("SELECT 1 FROM accounts LIMIT 1") is None:
        for account in range(ACCOUNTS):
            db.execute("INSERT INTO accounts VALUES (?, ?)", (account, OPENING_CENTS))


def handlers(first: Participant, others: list[Participant]) -> dict[str, Handler]:
    """The plain API: the same work inside a transaction and without one, and the counters."""

    async def work(request: bytes, context: Any) -> bytes:
        result = await first.branch().run("note", account=int(request), amount=1)
        return b"%d" % result

    async def plain(request: bytes, context: Any) -> bytes:
        return b"%d" % int(request)

    async def counters(request: bytes, context: Any) -> bytes:
        every = [one.counters for one in (first, *others)]
        return json.dumps({name: sum(getattr(one, name) for one in every) for name in ("forced_records", "syncs")}).encode()

    async def release(request: bytes, context: Any) -> bytes:
        RELEASED.set()
        return b""

    return {"Work": work, "Plain": plain, "Counters": counters, "Release": release}


Make = Callable[[str, Path, str], Participant]


async def work(directory: Path, coordinator: str, names: list[str], make: Make) -> None:
    """Serve until SIGTERM."""
    async with AsyncExitStack() as stack:
        participants = [await stack.enter_async_context(make(name, directory, coordinator)) for name in names]
        if make is sqlite_participant:
            await participants[0].local(open_accounts)
        await asyncio.gather(*(one.wait_connected() for one in participants))
        await serve(directory, handlers(participants[0], participants[1:]), participants[0].interceptors())


def main() -> None:
    """Parse what to be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--names", required=True)
    parser.add_argument("--store", default="")
    parser.add_argument("--tls", default="", metavar="AUTHORITIES,CERTIFICATE,KEY")
    parser.add_argument("--traced", action="store_true")
    parser.add_argument("--resource", choices=("log", "sqlite"), default="log")
    options = parser.parse_args()
    if options.traced:
        provide_traces()
        tracing.enable()
    tls = Tls(*options.tls.split(",")) if options.tls else None
    make: Make = sqlite_participant if options.resource == "sqlite" else partial(log_participant, store=options.store, tls=tls)
    run_loop(work(options.directory, options.coordinator, options.names.split(","), make))


if __name__ == "__main__":
    main()
