"""A service of its own process for `test_bad_input`: python -m tests.fuzz.bank NAME DIRECTORY COORDINATOR."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Any

from participant_sdk import Participant, Refuse, SqliteResource
from troth.errors import TrothError

SCHEMA = """
CREATE TABLE accounts (id TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL CHECK (balance >= 0));
CREATE TABLE keyless (x INTEGER);
INSERT INTO accounts VALUES ('a', 100);
"""


def make(name: str, directory: Path, coordinator: str) -> Participant:
    """The bank, with an operation for each thing that an operation must not do."""
    resource = SqliteResource(directory / "bank.db", schema=SCHEMA)
    bank = Participant(name, resource=resource, data_directory=directory, coordinator=coordinator)

    @bank.operation
    def add(db: Any, *, account: str, amount: int) -> int:
        db.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, account))
        return int(db.one("SELECT balance FROM accounts WHERE id = ?", (account,))[0])

    @bank.operation
    def refuse(db: Any) -> None:
        db.execute("UPDATE accounts SET balance = 0")
        raise Refuse("NO_FUNDS", "there is nothing left")

    @bank.operation
    def sql(db: Any, *, text: str) -> None:
        db.execute("UPDATE accounts SET balance = 0")
        db.execute(text)

    @bank.operation
    def fail(db: Any) -> None:
        db.execute("UPDATE accounts SET balance = 0")
        raise RuntimeError("the password is swordfish")

    @bank.operation
    def result(db: Any, *, kind: str) -> Any:
        db.execute("UPDATE accounts SET balance = 0")
        return {"object": object(), "large": 2**70, "bytes": b"x" * 2_000_000, "coroutine": asyncio.sleep}[kind]

    @bank.operation
    def waits(db: Any) -> Any:
        db.execute("UPDATE accounts SET balance = 0")

        async def later() -> int:
            return 1

        return later()

    return bank


async def serve(bank: Participant) -> None:
    """Until SIGTERM."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with bank:
        serving = asyncio.create_task(bank.serve())
        await bank.wait_connected()
        tell("ready")
        await asyncio.wait((serving, asyncio.create_task(over.wait())), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()


def tell(word: str) -> None:
    """What the test waits for."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(f"{word}\n")
        sys.stdout.flush()


def main() -> int:
    """Returns the exit status."""
    name, directory, coordinator = sys.argv[1:4]
    try:
        asyncio.run(serve(make(name, Path(directory), coordinator)))
    except TrothError as error:
        tell(error.reason.name)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
