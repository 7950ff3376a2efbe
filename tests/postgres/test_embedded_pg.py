"""`Embedded` on two PostgreSQL servers: its own log and those of its participants are in them, and another process takes over."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from embedded_pg import move, service
from pg_bench import Database
from pg_processes import Processes

from participant_sdk import Embedded, Participant, Postgres, PostgresLog
from participant_sdk import slots as slots_module
from participant_sdk.client import OutcomeUnknown
from participant_sdk.embedded import service as service_module
from participant_sdk.resources.relational import resource
from participant_sdk.runtime import Runtime
from participant_sdk.testing.postgres import PostgresServer
from tests import late_decisions
from tests.relational import until
from tests.stopped import silent
from troth.errors import Aborted, ConfigError, LogError, LogLocked, Reason, RequestError, TrothError
from troth.failpoints import VARIABLE
from troth.log import owned
from troth.log.postgres_store import init

SCRIPT = Path(__file__).with_name("embedded_pg.py")


@pytest.fixture
async def databases(server: PostgresServer, breakable: PostgresServer) -> AsyncIterator[tuple[Database, Database]]:
    both = Database(server), Database(breakable)
    for database in both:
        await database.create()
        await init(database.dsn, "participant", (), branches=True)
    yield both
    for database in both:
        assert await database.prepared() == []
        await database.drop()


async def taken_over(north: Database, south: Database) -> tuple[Embedded, Participant, Participant]:
    """Another process of the service, once the leases of the last one have lapsed."""
    started: list[tuple[Embedded, Participant, Participant]] = []

    async def start() -> bool:
        made = service(north.dsn, south.dsn)
        with suppress(LogLocked):
            await made[0].start()
            started.append(made)
        return bool(started)

    await until(start)
    return started[0]


@pytest.mark.parametrize(
    ("failpoint", "moved"),
    [("coordinator:before-sync:decided=kill@2", 1), ("coordinator:after-sync:decided=kill@2", 2)],
)
async def test_another_process_finishes_what_a_killed_one_has_decided(
    databases: tuple[Database, Database], processes: Processes, failpoint: str, moved: int
) -> None:
    north, south = databases
    first = processes.start("first", str(SCRIPT), north.dsn, south.dsn, "5", environment={VARIABLE: failpoint})
    assert first.wait(240) == -signal.SIGKILL
    processes.running.clear()
    troth, *banks = await taken_over(north, south)
    try:
        await move(troth, tuple(banks), 9)

        async def settled() -> bool:
            return not await north.prepared() and not await south.prepared()

        await until(settled)
        expected = [*(f"t{number}" for number in range(moved)), "t9"]
        assert await north.names() == await south.names() == expected
    finally:
        await troth.close()


async def test_of_three_processes_the_others_finish_what_a_killed_one_left(
    databases: tuple[Database, Database], processes: Processes
) -> None:
    """Nobody starts it again, and all three run at once: between the prepares and the commits one is killed."""
    failpoint = "coordinator:after-sync:decided=kill@2"
    north, south = databases
    for name in ("a", "b"):
        processes.start(name, str(SCRIPT), north.dsn, south.dsn, "0", "stay")

    async def run() -> bool:
        return len(await owners(north)) == 2

    await until(run)
    killed = processes.start("killed", str(SCRIPT), north.dsn, south.dsn, "5", environment={VARIABLE: failpoint})
    assert killed.wait(240) == -signal.SIGKILL
    assert len(await owners(north)) == 3, "it has given nothing back"
    del processes.running["killed"]

    async def settled() -> bool:
        return not await north.prepared() and not await south.prepared() and len(await owners(north)) == 2

    await until(settled)
    assert await north.names() == await south.names() == ["t0", "t1"]


async def owners(database: Database) -> list[str]:
    """The coordinators' logs that were taken, and not given back."""
    taken = "SELECT name FROM troth.log JOIN troth.lease ON lease.log = log.number WHERE role = 'coordinator' ORDER BY name"
    return [row[0] for row in await database.sql(taken)]


async def test_each_process_has_one_number_of_everything(databases: tuple[Database, Database]) -> None:
    north, south = databases
    made = [service(north.dsn, south.dsn) for _ in range(3)]
    for troth, *_ in made:
        await troth.start()
    assert [[bank.slot for bank in banks] for _, *banks in made] == [[f"north/{n}", f"south/{n}"] for n in range(3)]
    assert await owners(north) == ["embedded", "embedded-1", "embedded-2"]
    for number, (troth, *banks) in enumerate(made):
        await move(troth, tuple(banks), number)
    await made[1][0].close()
    again = service(north.dsn, south.dsn)
    await again[0].start()
    assert again[1].slot == "north/1"
    for troth in (made[0][0], made[2][0], again[0]):
        await troth.close()
    assert await north.names() == await south.names() == ["t0", "t1", "t2"]


async def test_a_process_whose_log_failed_gives_up_what_it_has(databases: tuple[Database, Database]) -> None:
    north, south = databases
    failed: asyncio.Future[TrothError] = asyncio.get_running_loop().create_future()
    troth, *banks = service(north.dsn, south.dsn)
    troth.on_failure = failed.set_result
    async with troth:
        await north.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'troth coordinator%%'")
        with pytest.raises((Aborted, OutcomeUnknown, RequestError)):
            await move(troth, tuple(banks), 1)
        assert isinstance(await failed, LogError)
        other, *others = service(north.dsn, south.dsn)
        async with other:
            assert others[0].slot == "north/0" and await owners(north) == ["embedded"]
            await move(other, tuple(others), 2)
    assert await north.names() == await south.names() == ["t2"]


async def test_who_goes_leaves_nothing_prepared(databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be no other process for long, and the rows would be locked until then."""
    north, south = databases
    monkeypatch.setattr(Runtime, "received", late_decisions.received_late)
    monkeypatch.setattr(late_decisions, "SECONDS", 3600.0)
    troth, *banks = service(north.dsn, south.dsn)
    async with troth:
        await move(troth, tuple(banks), 1)
        assert await north.prepared() and await south.prepared()
        asyncio.get_running_loop().call_later(0.1, late_decisions.hear_all)
    assert not await north.prepared() and not await south.prepared()
    assert await north.names() == await south.names() == ["t1"]


async def test_who_goes_does_not_wait_for_ever(databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not done by then is finished by the next one."""
    north, south = databases
    with monkeypatch.context() as patched:
        patched.setattr(late_decisions, "SECONDS", 60.0)
        patched.setattr(Runtime, "received", late_decisions.received_late)
        patched.setattr(service_module, "FINISH_SECONDS", 0.3)
        troth, *banks = service(north.dsn, south.dsn)
        async with troth:
            await move(troth, tuple(banks), 1)
    assert await north.prepared() and await south.prepared()
    async with service(north.dsn, south.dsn)[0]:
        pass
    assert not await north.prepared() and not await south.prepared()
    assert await north.names() == await south.names() == ["t1"]


@pytest.mark.parametrize("mode", [[], ["thread"], ["executor"]])
async def test_a_service_without_a_loop_closes_with_its_process(databases: tuple[Database, Database], mode: list[str]) -> None:
    """Python's executors end before `atexit`: what was to be finished and closed then could not be. It closes before that, but not
    while the service's own threads work on."""
    north, south = databases
    command = [sys.executable, str(SCRIPT.with_name("blocking_pg.py")), north.dsn, south.dsn, *mode]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    run = functools.partial(subprocess.run, command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    done = await asyncio.to_thread(run)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not await north.prepared() and not await south.prepared()
    assert await north.names() == await south.names() == ["t0"]


async def test_keys_need_one_process(databases: tuple[Database, Database]) -> None:
    """Each of several has a coordinator of its own, which does not know the keys of the others."""
    north, south = databases
    several, *_ = service(north.dsn, south.dsn)
    async with several:
        with pytest.raises(RequestError) as refused:
            async with several.transaction(key="rent"):
                pass
        assert refused.value.reason is Reason.INVALID_KEY and "slots_max=1" in str(refused.value.hint)
    one, *banks = service(north.dsn, south.dsn, slots_max=1)
    async with one:
        async with one.transaction(key="rent"), banks[0].branch() as db:
            await db.execute("INSERT INTO item VALUES ('rent', 1)")
        with pytest.raises(LogLocked):
            await service(north.dsn, south.dsn, slots_max=1)[0].start()
    assert await north.names() == ["rent"]


async def test_what_another_service_of_the_same_name_left_is_left_alone(
    databases: tuple[Database, Database], processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not know its databases cannot finish it, and must not keep it from those who can."""
    monkeypatch.setattr(slots_module, "VISIT_AGAIN_SECONDS", 2.0)  # whoever comes while it is visited waits so long
    north, south = databases
    environment = {VARIABLE: "coordinator:after-sync:decided=kill@2"}
    west, *_ = other_service(north)
    await west.start()
    killed = processes.start("killed", str(SCRIPT), north.dsn, south.dsn, "5", environment=environment)
    assert await asyncio.to_thread(killed.wait, 240) == -signal.SIGKILL  # west lives meanwhile
    processes.running.clear()

    async def given_back() -> bool:
        return await owners(north) == ["embedded"]

    await until(given_back)
    assert await north.prepared() and await south.prepared()
    with pytest.raises(ConfigError, match="north/1, south/1"):
        await other_service(north)[0].start()
    troth, *_ = await taken_over(north, south)

    async def settled() -> bool:
        return not await north.prepared() and not await south.prepared()

    await until(settled)
    assert await north.names() == await south.names() == ["t0", "t1"]
    await troth.close()
    await west.close()


def other_service(database: Database) -> tuple[Embedded, Participant]:
    """One that forgot to give its `Embedded` a name."""
    troth = Embedded(PostgresLog(database.dsn))
    return troth, Participant("west", resource=Postgres(database.dsn), log=PostgresLog(database.dsn), coordinator=troth)


def test_a_name_is_none_of_another_ones_slots() -> None:
    with pytest.raises(ConfigError, match="number"):
        Embedded(PostgresLog("dbname=x"), name="shop-1")


async def test_a_service_lives_on_though_its_databases_are_silent_when_it_is_closed(
    databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They accept and never answer: what it had asked them for was waited for without end. Nothing of it is left behind."""
    north, south = databases
    failed: list[TrothError] = []
    troth, *banks = service(north.dsn, south.dsn)
    troth.on_failure = failed.append
    await troth.start()
    await move(troth, tuple(banks), 1)
    async with troth.transaction():  # of which both still have to do what is decided
        for bank in banks:
            async with bank.branch() as db:
                await db.execute("INSERT INTO item VALUES ('t2', 1)")
    with monkeypatch.context() as patched, silent(north.server), silent(south.server):
        for module, name in ((owned, "ANSWER_SECONDS"), (resource, "CLOSE_SECONDS"), (service_module, "FINISH_SECONDS")):
            patched.setattr(module, name, 0.2)
        await troth.close()
    assert failed == [], "who closes it needs not be told to end"

    async def nothing_is_left() -> bool:
        return all(not task.get_name().startswith("troth") for task in asyncio.all_tasks())

    await until(nothing_is_left)
    again, *banks = await taken_over(north, south)
    try:
        await move(again, tuple(banks), 3)
    finally:
        await again.close()
    assert await north.names() == await south.names() == ["t1", "t2", "t3"]
