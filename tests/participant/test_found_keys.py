"""Lock keys that depend on data, as a service author uses them: two shops on one coordinator, orders that know their item."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from participant_sdk import Limits, LogBranch, LogResource, Participant, Read, SqliteResource
from participant_sdk.client import call
from participant_sdk.testing.cluster import Cluster
from troth.errors import Aborted

SCHEMA = """
CREATE TABLE item (name TEXT PRIMARY KEY NOT NULL, left INTEGER NOT NULL);
CREATE TABLE wish (id INTEGER PRIMARY KEY, item TEXT NOT NULL);
INSERT INTO item VALUES ('chair', 1000), ('table', 1000);
INSERT INTO wish VALUES (1, 'chair'), (2, 'table');
"""
CALLERS = 12


def shop(directory: Path, name: str) -> Participant:
    resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
    limits = Limits(lock_wait_seconds=60.0)  # on a slow machine those before one in line take their time
    one = Participant(name, resource=resource, data_directory=directory / name, coordinator="127.0.0.1:7420", limits=limits)

    @one.operation(locks=lambda wish: [f"wish/{wish}"])
    def ship(db: Any, *, wish: int) -> int:
        (item,) = db.one("SELECT item FROM wish WHERE id = ?", (wish,))
        db.lock(f"item/{item}")
        db.execute("UPDATE item SET left = left - 1 WHERE name = ?", (item,))
        return int(db.one("SELECT left FROM item WHERE name = ?", (item,))[0])

    @one.operation(locks=lambda item: [f"item/{item}"])
    def restock(db: Any, *, item: str) -> None:
        db.execute("UPDATE item SET left = left + 1 WHERE name = ?", (item,))

    return one


async def test_everybody_gets_the_keys_that_he_finds(tmp_path: Path) -> None:
    async with Cluster(lambda: shop(tmp_path, "north"), lambda: shop(tmp_path, "south")) as cluster:

        async def caller(number: int) -> int:
            one_place = [call("north", "ship", wish=number % 2 + 1)]
            both = [*one_place, call("south", "ship", wish=1)]
            for attempt in range(1, 1000):
                try:
                    await cluster.run(*(one_place if number % 3 else both))
                    return attempt
                except Aborted as aborted:
                    assert aborted.retryable, aborted
                    await asyncio.sleep(0.001 * number)
            raise AssertionError("it never got on")

        restock = call("north", "restock", item="chair")
        attempts, _ = await asyncio.gather(
            asyncio.gather(*map(caller, range(CALLERS))), asyncio.gather(*(cluster.run(restock) for _ in range(5)))
        )
        assert all(attempt == 1 for number, attempt in enumerate(attempts) if number % 3), "in one place it waits"
        left = await cluster["north"].read(lambda db: dict(db.execute("SELECT name, left FROM item")))
        assert left == {"chair": 1000 - CALLERS // 2 + 5, "table": 1000 - CALLERS // 2}
        async with cluster.transaction() as tx:
            with tx.call():
                assert await cluster["south"].branch().run("ship", wish=2) == 999


async def test_an_operation_without_a_database_finds_keys_as_well(tmp_path: Path) -> None:
    one = Participant("limits", resource=LogResource(), data_directory=tmp_path, coordinator="127.0.0.1:7420")
    runs: list[str] = []

    @one.operation(locks=[Read("rules")])
    async def check(branch: LogBranch, *, customer: str) -> str:
        await asyncio.sleep(0)
        branch.lock(f"customer/{customer}")
        runs.append(customer)
        return customer

    @one.operation(locks=[Read("rules")])
    def look(branch: LogBranch, *, customer: str) -> str:
        branch.lock(Read(f"customer/{customer}"), Read("rules"))
        runs.append(customer)
        return customer

    async with Cluster(lambda: one) as cluster:
        done = await asyncio.gather(*(cluster.run(call("limits", name, customer="ada")) for name in ("check", "look", "check")))
        assert [one.results for one in done] == [{"limits": ["ada"]}] * 3 and len(runs) == 3


async def test_an_operation_without_keys_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = Participant(
        "north", resource=SqliteResource(tmp_path / "n.db", schema=SCHEMA), data_directory=tmp_path, coordinator="127.0.0.1:7420"
    )

    @one.operation
    def sweep(db: Any) -> None:
        db.execute("UPDATE item SET left = left + 1")

    @one.operation(locks=["item/chair"])
    def look(db: Any) -> int:
        return int(db.one("SELECT left FROM item WHERE name = 'chair'")[0])

    other = Participant("south", resource=LogResource(), data_directory=tmp_path / "s", coordinator="127.0.0.1:7420")
    other.operation(locks=[])(note)
    async with Cluster(lambda: one, lambda: other) as cluster:
        both = [call("north", "sweep"), call("south", "note")]
        await asyncio.gather(*(cluster.run(*both) for _ in range(3)), cluster.run(call("north", "look"), call("south", "note")))
    told = [record for record in caplog.records if "declares no lock keys" in record.getMessage()]
    assert len(told) == 1 and "sweep" in told[0].getMessage()


def note(branch: LogBranch) -> None:
    """Nothing."""
