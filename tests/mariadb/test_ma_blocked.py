"""Who waits for a branch in doubt in MariaDB: told where it is certain, which is where one alone is prepared."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ma_bench import LIMITS, Database

from participant_sdk.registry import Registry
from participant_sdk.resources.contract import Done, HeldUp, Unreachable
from participant_sdk.resources.mariadb import MariaDB
from participant_sdk.testing.mariadb import MariadbServer
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.log import mariadb_branches as branches

LOOK_SECONDS = 0.2
"""InnoDB says the same as before while it is asked more often than every 0.1 seconds."""
PARTICIPANT = "bank"


def prepared(database: Database, number: int) -> str:
    """A branch that has changed a row, and is in doubt."""
    name = branches.branch_name(PARTICIPANT, f"c1.1.0a0b0c0d.1.{number}")
    xid = branches.xid_of(name, database.name).sql
    insert = f"INSERT INTO item VALUES ('row{number}', 1)"
    database.session(f"XA START {xid}", insert, f"XA END {xid}", f"XA PREPARE {xid}").close()
    return name


def wait_for(database: Database, number: int) -> None:
    """Somebody who wants that row, until it is free."""
    database.session("SET innodb_lock_wait_timeout = 60", f"INSERT INTO item VALUES ('row{number}', 2)").close()


async def until(bank: MariaDB, wanted: Any) -> Any:
    """What it tells once that is so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not wanted(found := await bank.blocked()):  # noqa: ASYNC110 - it is a server that gets there
            await asyncio.sleep(LOOK_SECONDS)
        return found


@pytest.mark.both
@pytest.mark.parametrize("driver", ["aiomysql", "pymysql"])
async def test_it_is_told_where_one_alone_is_prepared(driver: str, database: Database) -> None:
    bank = MariaDB(database.dsn(driver=driver), limits=LIMITS)
    bank.bind(PARTICIPANT, Registry())
    assert await bank.open() == Done()
    assert await bank.blocked() == {}
    one = prepared(database, 1)
    assert await until(bank, bool) == {one: HeldUp(0)}
    waiting = asyncio.create_task(asyncio.to_thread(wait_for, database, 1))
    (held_up,) = (await until(bank, lambda found: found[one].sessions)).values()
    assert (held_up.sessions, held_up.tables) == (1, ("bench.item",)) and held_up.seconds > 0
    other = prepared(database, 2)
    assert await until(bank, lambda found: not found) == {}, "of two it is not known whose lock it is"
    database.sql(f"XA ROLLBACK {branches.xid_of(one, database.name).sql}")
    await waiting
    assert await until(bank, lambda found: found and not found[other].sessions) == {other: HeldUp(0)}
    await bank.close()


async def test_who_may_not_look_or_does_not_answer_tells_nothing(database: Database, mariadb: MariadbServer) -> None:
    database.sql("CREATE USER short_sighted@localhost")
    try:
        database.sql(f"GRANT ALL ON {database.name}.* TO short_sighted@localhost")
        for dsn in (mariadb.dsn(database.name, user="short_sighted"), "mysql://127.0.0.1:1/none"):
            bank = MariaDB(dsn, limits=LIMITS)
            bank.bind(PARTICIPANT, Registry())
            assert isinstance(await bank.blocked(), Unreachable)
    finally:
        database.sql("DROP USER short_sighted@localhost")
