"""A service as several processes on one database: slots are claimed, given back, taken over, and nothing is left in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from pg_bench import ASYNC, LIMITS, Database

from participant_sdk import Participant
from participant_sdk import slots as slots_module
from participant_sdk.client.client import call
from participant_sdk.resources.postgres import Postgres, PostgresLog
from participant_sdk.resources.sqlite import SqliteResource
from participant_sdk.testing.cluster import COORDINATOR, Cluster
from tests.participant.paper_coordinator import PaperCoordinator, operation, transaction
from tests.relational import until
from troth.errors import Aborted, ConfigError, LogDamaged, LogError, Reason
from troth.log import postgres_leases
from troth.log.postgres_store import init
from troth.ready import Append
from troth.v1 import participant_pb2, record_pb2

PATIENT = replace(LIMITS, lock_wait_seconds=4.0)


class Service:
    """Processes of one service, and a coordinator in memory."""

    def __init__(self, database: Database, cluster: Cluster) -> None:
        self._database = database
        self.cluster = cluster
        self.processes: list[Participant] = []

    def make(self, name: str = "pay", **more: Any) -> Participant:
        log = PostgresLog(self._database.dsn, lease_seconds=more.pop("lease_seconds", 3.0), slots_max=more.pop("slots_max", 8))
        participant = Participant(
            name, resource=Postgres(self._database.dsn, limits=PATIENT), log=log, coordinator="memory:1", **more
        )
        for known, function in ASYNC.items():
            participant.operation(name=known)(function)
        participant.rewire(self.cluster._wiring)
        return participant

    async def start(self, name: str = "pay", **more: Any) -> Participant:
        participant = self.make(name, **more)
        self.processes.append(participant)
        await participant.start()
        await participant.wait_connected()
        return participant

    async def put(self, name: str, value: int) -> None:
        await self.cluster.run(call("pay", "put", name=name, value=value), call("other", "put", name=f"o{name}", value=value))


@pytest.fixture
async def service(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(slots_module, "LOOK_SECONDS", 0.05)
    await init(database.dsn, "participant", (), branches=True)
    async with Cluster() as cluster:
        service = Service(database, cluster)
        await service.start("other")
        yield service
        for process in service.processes:
            await process.close()
    assert await database.prepared() == []


async def test_each_process_has_a_slot_and_work_is_spread(service: Service, database: Database) -> None:
    first, second = [await service.start() for _ in range(2)]
    assert (first.slot, second.slot) == ("pay/0", "pay/1")
    await asyncio.gather(*(service.put(f"n{number}", number) for number in range(6)))
    assert all(process.counters.records > 3 for process in (first, second))
    assert len(await database.sql("SELECT 1 FROM item WHERE name LIKE 'n%%'")) == 6


async def test_a_slot_that_was_given_back_is_the_next_processs(service: Service) -> None:
    first, second = [await service.start() for _ in range(2)]
    await first.close()
    third = await service.start()
    assert (second.slot, third.slot) == ("pay/1", "pay/0")
    await service.put("a", 1)


async def test_what_a_dead_process_left_in_doubt_is_finished_by_another(service: Service, database: Database) -> None:
    """It has voted, and dies; the coordinator decides COMMIT; nobody starts it again."""
    first = await service.start()
    blocker = await psycopg.AsyncConnection.connect(database.dsn)
    await blocker.execute("INSERT INTO item VALUES ('b', 0)")
    calls = call("pay", "put", name="a", value=1), call("other", "put", name="b", value=1)
    running = asyncio.create_task(service.cluster.run(*calls))
    assert "troth:pay:0:" in (await until(database.prepared))[0]
    await first.crash()
    await blocker.close()
    second = await service.start()
    assert second.slot in ("pay/0", "pay/1")

    async def settled() -> bool:
        return await database.prepared() == []

    await until(settled)
    (outcome,) = await asyncio.gather(running, return_exceptions=True)
    rows = {row[0] for row in await database.sql("SELECT name FROM item")}
    assert rows == ({"a", "b"} if not isinstance(outcome, Aborted) else set())


async def test_who_takes_a_slot_over_remembers_what_people_have_committed_there_and_forgotten(database: Database) -> None:
    await init(database.dsn, "participant", (), branches=True)
    name = transaction(1)

    def make(address: str) -> Participant:
        log = PostgresLog(database.dsn, lease_seconds=3.0)
        participant = Participant("pay", resource=Postgres(database.dsn, limits=LIMITS), log=log, coordinator=address)
        participant.operation(name="put")(ASYNC["put"])
        return participant

    async with PaperCoordinator() as coordinator:
        first = make(coordinator.address)
        await first.start()
        stream = await coordinator.welcomed()
        prepare = participant_pb2.Prepare(transaction_id=name, order=1, operations=[operation("put", name="a", value=1)])
        prepare.incarnation = stream.hello.incarnation
        stream.say(prepares=[prepare])
        assert (await stream.heard("votes")).kind == participant_pb2.VOTE_KIND_YES
        for kind in (participant_pb2.FORCE_KIND_COMMIT, participant_pb2.FORCE_KIND_FORGET):
            stream.say(forces=[participant_pb2.Force(transaction_id=name, kind=kind, who="ann", why="by phone")])
            await stream.heard("acknowledgements")
        await first.crash()
        second = make(coordinator.address)
        await second.start()
        stream = await coordinator.welcomed()
        assert stream.hello.participant == "pay/0" and stream.queue("reports").empty()
        stream.say(settles=[participant_pb2.RollbackIfUnseen(transaction_id=name, order=1)])
        said = await stream.heard("acknowledgements")
        await second.close()
    assert said.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT and "by phone" in said.detail
    assert await database.sql("SELECT value FROM item WHERE name = 'a'") == [(1,)]


async def test_a_slot_that_nobody_has_is_visited_now_and_then(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in doubt there has its outcome, without a process that starts."""
    monkeypatch.setattr(slots_module, "VISIT_AGAIN_SECONDS", 0.1)
    gone, stays = [await service.start() for _ in range(2)]
    await service.put("warm", 1)
    await gone.close()
    done = await service.cluster.run(call("pay", "get", name="warm"))
    assert done.results == {"pay": [1]}

    async def owners() -> Any:
        return await database.sql("SELECT 1 FROM troth.lease l JOIN troth.log g ON g.number = l.log WHERE g.name = 'pay/0'")

    await until(owners)  # stays visits it
    assert stays.slot == "pay/1"


async def test_calls_of_one_transaction_reach_one_process(service: Service, database: Database) -> None:
    first, second = [await service.start() for _ in range(2)]
    await service.put("known", 1)
    with pytest.raises(Aborted) as aborted:
        async with service.cluster.transaction() as txn:
            for process in (first, second):
                with txn.call():
                    await process.branch().run("put", name=process.slot, value=1)
    assert aborted.value.reason is Reason.SECOND_SLOT and "troth-transaction" in str(aborted.value)
    assert await database.sql("SELECT 1 FROM item WHERE name LIKE 'pay%%'") == []


async def test_a_service_may_say_that_its_branches_need_not_see_each_other(service: Service, database: Database) -> None:
    processes = [await service.start(loosely_coupled=True) for _ in range(2)]
    async with service.cluster.transaction() as txn:
        for process in processes:
            with txn.call():
                await process.branch().run("put", name=process.slot, value=1)
    assert len(await database.sql("SELECT 1 FROM item WHERE name LIKE 'pay%%'")) == 2


async def test_a_process_that_lost_its_connection_gets_a_slot_again(service: Service, database: Database) -> None:
    process = await service.start()
    its = "application_name LIKE 'troth participant pay/%%'"
    assert await database.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {its}")

    async def again() -> bool:
        try:
            await service.put("n", 1)
        except Aborted as aborted:
            assert aborted.retryable
            return False
        return True

    await until(again)
    assert process.health.alive
    assert await database.sql("SELECT 1 FROM item WHERE name LIKE 'n%%'")


async def test_more_processes_than_slots_are_refused(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.start(slots_max=1)
    with pytest.raises(LogError, match="all 1 slots of pay are owned"):
        await service.make(slots_max=1).start()


async def test_a_question_about_a_transaction_reaches_every_slot(service: Service) -> None:
    for _ in range(2):
        await service.start()
    await service.put("a", 1)
    await service.cluster.crash(COORDINATOR)
    await service.cluster.restart(COORDINATOR)
    for process in service.processes:
        await process.wait_connected()
    await service.put("b", 2)


async def test_a_log_needs_a_place_and_a_resource_that_can_be_shared(database: Database, tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="either data_directory or log"):
        Participant("pay", resource=Postgres(database.dsn), coordinator="memory:1")
    with pytest.raises(ConfigError, match="belongs to one process"):
        Participant(
            "pay", resource=SqliteResource(tmp_path / "x.db"), log=PostgresLog(database.dsn), coordinator="memory:1"
        )


async def test_looking_at_the_slots_takes_no_connection_each_time(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, looks, enough = [0], [0], asyncio.Event()
    connect, slots = postgres_leases.connect, PostgresLog.slots

    async def connect_counted(dsn: str, name: str) -> Any:
        opened[0] += 1
        return await connect(dsn, name)

    async def slots_counted(log: PostgresLog, name: str) -> Any:
        looks[0] += 1
        if looks[0] == 8:
            enough.set()
        return await slots(log, name)

    monkeypatch.setattr(postgres_leases, "connect", connect_counted)
    monkeypatch.setattr(PostgresLog, "slots", slots_counted)
    await service.start()
    async with asyncio.timeout(30):
        await enough.wait()
    assert opened == [1]


async def test_a_slot_that_lost_what_this_process_wrote_is_refused(database: Database) -> None:
    await init(database.dsn, "participant", ())
    logs = PostgresLog(database.dsn)
    await logs.make("pay/0")
    log = logs.log("pay/0")
    await log.open()
    await log.write([Append(record_pb2.ParticipantRecord())], sync=True)
    await log.close()
    await database.sql("DELETE FROM troth.batch")
    with pytest.raises(LogDamaged, match="record 1 of it was acknowledged"):
        await logs.log("pay/0").open()
    await logs.close()
