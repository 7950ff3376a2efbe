"""Invariants on MariaDB: committed data alone, by drivers that block and drivers that do not; and a function that hangs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from ma_bench import ASYNC, BLOCKING, LIMITS, Database

from participant_sdk import MariaDB, Participant
from participant_sdk.client import call
from participant_sdk.invariants import Standing
from participant_sdk.testing.cluster import Cluster
from tests.checked import checked_again, found

SOON = 0.03
NEGATIVE = "SELECT name, value FROM item WHERE value < 0"


def declare(bank: Participant, driver: str) -> None:
    if driver == "pymysql":

        @bank.invariant(every_seconds=SOON)
        def never_negative(db: Any) -> str | None:
            with db.cursor() as cursor:
                cursor.execute(NEGATIVE)
                row = cursor.fetchone()
            return f"{row[0]} has {row[1]}" if row else None

    else:

        @bank.invariant(every_seconds=SOON, name="never_negative")
        async def never_negative_async(db: Any) -> str | None:
            async with db.cursor() as cursor:
                await cursor.execute(NEGATIVE)
                row = await cursor.fetchone()
            return f"{row[0]} has {row[1]}" if row else None


@pytest.mark.parametrize("driver", ["asyncmy", "aiomysql", "pymysql"])
async def test_a_prepared_branch_is_not_seen_before_it_is_committed(driver: str, database: Database, tmp_path: Path) -> None:
    release = threading.Event()

    def make() -> Participant:
        resource = MariaDB(database.dsn(driver=driver), limits=LIMITS)
        bank = Participant("bank", resource=resource, data_directory=tmp_path, coordinator="memory:1")
        for known, function in (BLOCKING if driver == "pymysql" else ASYNC).items():
            bank.operation(name=known)(function)
        declare(bank, driver)
        if driver == "pymysql":

            @bank.invariant(every_seconds=SOON, seconds_max=0.2)
            def hangs(db: Any) -> None:
                release.wait()

        return bank

    async with Cluster(make) as cluster:
        bank = cluster["bank"]
        await found(bank, "never_negative", Standing.HOLDS)
        branch = "XA START 'other'", "INSERT INTO item VALUES ('alice', -5)", "XA END 'other'", "XA PREPARE 'other'"
        other = await asyncio.to_thread(lambda: database.session(*branch))
        await checked_again(bank, "never_negative")
        assert bank.findings["never_negative"].standing is Standing.HOLDS
        other.cursor().execute("XA COMMIT 'other'")
        other.close()
        assert await found(bank, "never_negative", Standing.VIOLATED) == "alice has -5"
        if driver == "pymysql":
            assert "return" in await found(bank, "hangs", Standing.UNCHECKED)
        await cluster.run(call("bank", "put", name="alice", value=5))
        await found(bank, "never_negative", Standing.HOLDS)
        release.set()
