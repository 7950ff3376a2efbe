"""A service without a loop of its own, whose one transfer is the last thing that it does: `python blocking_pg.py NORTH SOUTH`, on
SQLAlchemy's blocking engine; with `thread` or `executor` behind it on psycopg, and in such a thread, when the main thread has
ended. What is decided is heard late (`tests.late_decisions`), so it has that to do at its end."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, create_engine, text

from participant_sdk import Embedded, Participant, Postgres, PostgresLog
from tests.late_decisions import pytest_configure

ROW = "INSERT INTO item VALUES ('t0', 1)"


def url_of(dsn: str) -> URL:
    """The same address for SQLAlchemy."""
    return URL.create("postgresql+psycopg", query={name: str(value) for name, value in conninfo_to_dict(dsn).items()})


def move(troth: Embedded, banks: tuple[Participant, ...]) -> None:
    """A row in each, told as soon as it is decided."""
    with troth.sync.transaction():
        for bank in banks:
            with bank.branch_sync() as session:
                session.execute(text(ROW))


def move_in_operations(troth: Embedded, banks: tuple[Participant, ...]) -> None:
    """The same when the main thread has ended, or will have."""
    time.sleep(0.5)
    with troth.sync.transaction():
        for bank in banks:
            bank.branch_sync().run("put")


def main(dsns: tuple[str, str], where: str) -> None:
    """The process."""
    troth = Embedded(PostgresLog(dsns[0]))
    banks = []
    for name, dsn in zip(("north", "south"), dsns, strict=True):
        resource = Postgres(dsn) if where else Postgres(engine=create_engine(url_of(dsn)))
        bank = Participant(name, resource=resource, log=PostgresLog(dsn), coordinator=troth)
        if where:
            bank.operation(put)
        banks.append(bank)
    troth.start_in_background()
    if where == "thread":
        threading.Thread(target=move_in_operations, args=(troth, tuple(banks))).start()
    elif where == "executor":
        ThreadPoolExecutor(1).submit(move_in_operations, troth, tuple(banks))
    else:
        move(troth, tuple(banks))


async def put(db: object) -> None:
    """The row."""
    await db.execute(ROW)  # type: ignore[attr-defined]  # psycopg's connection


if __name__ == "__main__":
    pytest_configure()
    main((sys.argv[1], sys.argv[2]), "".join(sys.argv[3:]))
