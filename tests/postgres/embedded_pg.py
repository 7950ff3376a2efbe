"""One service with two databases and no daemon, and nothing on local disk: `python embedded_pg.py NORTH SOUTH TRANSFERS`; with
`stay` behind it, it stays until it is terminated."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

from participant_sdk import Embedded, Participant, Postgres, PostgresLog
from troth import failpoints


def service(north: str, south: str, **options: Any) -> tuple[Embedded, Participant, Participant]:
    """The coordinator's log is in the first database."""
    troth = Embedded(PostgresLog(north, **options))
    return troth, bank("north", north, troth), bank("south", south, troth)


def bank(name: str, dsn: str, troth: Embedded) -> Participant:
    """One database, in which a transfer leaves a row."""
    return Participant(name, resource=Postgres(dsn), log=PostgresLog(dsn), coordinator=troth)


async def move(troth: Embedded, banks: tuple[Participant, ...], number: int, seconds: float = 5.0) -> None:
    """One transfer, in blocks on both databases."""
    async with troth.transaction(timeout=seconds):
        for bank in banks:
            async with bank.branch() as db:
                await _put(db, number)


async def _put(db: Any, number: int) -> None:
    await db.execute("INSERT INTO item VALUES (%s, 1)", (f"t{number}",))


async def main(north: str, south: str, transfers: int, stay: bool) -> None:
    """The process."""
    troth, *banks = service(north, south)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with troth:
        for number in range(transfers):
            await move(troth, tuple(banks), number, 60.0)
        if stay:
            await over.wait()


if __name__ == "__main__":
    failpoints.arm_from_environment()
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:] == ["stay"]))
