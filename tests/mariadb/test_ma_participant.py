"""A participant on MariaDB in transactions with others: blocks, slots, crashes, and what is left in the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ma_bench import ASYNC, BLOCKING, LIMITS, PUT, Database, execute

from participant_sdk import MariaDB, MariadbLog, Participant
from participant_sdk import slots as slots_module
from participant_sdk.client.client import call
from participant_sdk.testing.cluster import COORDINATOR, Cluster
from tests.relational import until
from troth.errors import Aborted, LogLocked, RequestError
from troth.log.mariadb_store import init


def value(database: Database, name: str) -> int | None:
    rows = database.sql("SELECT value FROM item WHERE name = %s", name)
    return rows[0][0] if rows else None


def maker(database: Database, directory: Path, name: str, driver: str) -> Participant:
    resource = MariaDB(database.dsn(driver=driver), limits=replace(LIMITS, pinned_max=2))
    participant = Participant(name, resource=resource, data_directory=directory, coordinator="memory:1")
    for known, function in (BLOCKING if driver == "pymysql" else ASYNC).items():
        participant.operation(name=known)(function)
    return participant


async def test_two_participants_on_one_database_commit_and_abort_together(database: Database, tmp_path: Path) -> None:
    drivers = {"one": "asyncmy", "two": "pymysql"}
    makers = [lambda name=name: maker(database, tmp_path, name, drivers[name]) for name in drivers]  # type: ignore[misc]  # a default
    async with Cluster(*makers) as cluster:
        done = await cluster.run(call("one", "put", name="a", value=1), call("two", "put", name="b", value=2))
        assert done.results == {"one": [None], "two": [None]}
        assert (value(database, "a"), value(database, "b")) == (1, 2)
        with pytest.raises(Aborted) as aborted:
            await cluster.run(call("one", "put", name="a", value=9), call("two", "refuse", name="b", value=9))
        assert aborted.value.code == "NO"
        assert (value(database, "a"), value(database, "b")) == (1, 2)
        await cluster.crash(COORDINATOR)
        await cluster.restart(COORDINATOR)
        for name in drivers:
            await cluster.restart(name)
        await cluster.run(call("one", "put", name="a", value=3), call("two", "get", name="b"))
        assert value(database, "a") == 3
        await until(lambda: asyncio.to_thread(lambda: not database.sql("SELECT 1 FROM troth_branch WHERE gid LIKE 'troth:two:%'")))
    assert database.prepared() == []


# ---- blocks


async def test_a_handler_works_on_the_branchs_connection(database: Database, tmp_path: Path) -> None:
    async with Cluster(lambda: maker(database, tmp_path, "pay", "aiomysql")) as cluster:
        async with cluster.transaction() as txn:
            for name in "ab":
                with txn.call():
                    async with cluster["pay"].branch() as db:
                        await execute(db, PUT, name, 1)
            assert value(database, "a") is None
        assert (value(database, "a"), value(database, "b")) == (1, 1)
        with pytest.raises(RequestError, match="the coordinator's decision ends the transaction"):
            async with cluster.transaction() as txn:
                with txn.call():
                    async with cluster["pay"].branch() as db:
                        await execute(db, PUT, "c", 1)
                        await db.commit()
        assert value(database, "c") is None


async def test_a_handler_in_a_thread_does_the_same(database: Database, tmp_path: Path) -> None:
    async with Cluster(lambda: maker(database, tmp_path, "pay", "pymysql")) as cluster:

        def handler() -> None:
            with cluster["pay"].branch_sync() as db:
                db.cursor().execute(PUT, ("a", 1))

        async with cluster.transaction() as txn:
            with txn.call():
                await asyncio.to_thread(handler)
        assert value(database, "a") == 1
        with pytest.raises(RequestError, match="blocks"):
            async with cluster.transaction() as txn:
                with txn.call():
                    async with cluster["pay"].branch() as db:
                        assert db is not None


# ---- slots


class Service:
    """Processes of one service with their logs in its database, and a coordinator in memory."""

    def __init__(self, database: Database, cluster: Cluster) -> None:
        self._database = database
        self.cluster = cluster
        self.processes: list[Participant] = []

    async def start(self, name: str = "pay", slots_max: int = 8) -> Participant:
        log = MariadbLog(self._database.dsn(), slots_max=slots_max)
        resource = MariaDB(self._database.dsn(), limits=replace(LIMITS, lock_wait_seconds=4.0))
        participant = Participant(name, resource=resource, log=log, coordinator="memory:1")
        for known, function in ASYNC.items():
            participant.operation(name=known)(function)
        participant.rewire(self.cluster._wiring)
        self.processes.append(participant)
        await participant.start()
        await participant.wait_connected()
        return participant


@pytest.fixture
async def service(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(slots_module, "LOOK_SECONDS", 0.05)
    await init(database.dsn(), "participant", (), branches=True)
    async with Cluster() as cluster:
        service = Service(database, cluster)
        yield service
        for process in service.processes:
            await process.close()
    assert database.prepared() == []


async def test_each_process_has_a_slot_and_one_that_was_given_back_is_the_next_ones(service: Service) -> None:
    first, second = [await service.start() for _ in range(2)]
    assert (first.slot, second.slot) == ("pay/0", "pay/1")
    await first.close()
    third = await service.start()
    assert third.slot == "pay/0"
    with pytest.raises(LogLocked, match="slots_max"):
        await service.start(slots_max=2)
    service.processes.pop()


@pytest.mark.both
async def test_what_a_dead_process_left_in_doubt_is_finished_by_another(service: Service, database: Database) -> None:
    """It has voted, and dies; the coordinator decides COMMIT; nobody starts it again, and there is no disk."""
    await service.start("other")
    first = await service.start()
    blocker = database.session("BEGIN", "INSERT INTO item VALUES ('b', 0)")
    calls = call("pay", "put", name="a", value=1), call("other", "put", name="b", value=1)
    running: asyncio.Task[Any] = asyncio.create_task(service.cluster.run(*calls))
    await until(lambda: asyncio.to_thread(database.prepared))
    await first.crash()
    second = await service.start()
    blocker.close()
    await running
    await until(lambda: asyncio.to_thread(lambda: value(database, "a") == 1))
    assert second.slot.startswith("pay/")
