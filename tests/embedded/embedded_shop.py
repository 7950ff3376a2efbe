"""A service with two databases as a process: `python embedded_shop.py DIRECTORY TRANSFERS`. It prints what it has, moves one from
`left` to `right` so many times, and prints what it has then; `TROTH_FAILPOINTS` may kill it on the way. With `blocking` behind it
it has no loop, and closes nothing by itself."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from participant_sdk import Embedded, Participant, Refuse, SqliteResource
from participant_sdk.client import call
from troth import failpoints

SCHEMA = "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY NOT NULL, amount INTEGER NOT NULL)"


def shop(directory: Path) -> tuple[Embedded, Participant, Participant]:
    """The service: its coordinator, and a participant for each database."""
    troth = Embedded(directory / "troth")
    return troth, bank("left", directory, troth), bank("right", directory, troth)


def bank(name: str, directory: Path, troth: Embedded) -> Participant:
    """One database; at the beginning it has nothing."""
    resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
    participant = Participant(name, resource=resource, data_directory=directory / name, coordinator=troth)

    @participant.operation(locks=["all"])
    def add(db: Any, *, amount: int) -> None:
        if amount > 100:
            raise Refuse("TOO_MUCH")
        db.execute("INSERT INTO entry (amount) VALUES (?)", (amount,))

    return participant


async def total(bank: Participant) -> int:
    """What is committed."""
    return int(await bank.read(lambda db: db.one("SELECT coalesce(sum(amount), 0) FROM entry")[0], wait_seconds=60.0))


async def main(directory: Path, transfers: int) -> None:
    """The process."""
    troth, left, right = shop(directory)
    async with troth:
        sys.stdout.write(f"{await total(left)} {await total(right)}\n")
        sys.stdout.flush()
        for _ in range(transfers):
            await troth.run(call("left", "add", amount=-1), call("right", "add", amount=1))
        sys.stdout.write(f"{await total(left)} {await total(right)}\n")


def sum_up(db: Any) -> int:
    """What is committed."""
    return int(db.one("SELECT coalesce(sum(amount), 0) FROM entry")[0])


def blocking_main(directory: Path, transfers: int) -> None:
    """The same without a loop."""
    troth, left, right = shop(directory)
    for one in (left, right):
        one.operation(locks=["all"])(sum_up)
    troth.start_in_background()

    def say() -> None:
        done = troth.sync.run(call("left", "sum_up"), call("right", "sum_up"))
        sys.stdout.write(f"{done.results['left'][0]} {done.results['right'][0]}\n")

    say()
    for _ in range(transfers):
        troth.sync.run(call("left", "add", amount=-1), call("right", "add", amount=1))
    say()


if __name__ == "__main__":
    failpoints.arm_from_environment()
    if sys.argv[3:] == ["blocking"]:
        blocking_main(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
