"""SQLAlchemy's sessions on `postgresql+asyncpg`: they are told the same as on `postgresql+psycopg`, whatever SQLAlchemy keeps
between a session and asyncpg. What both have in common besides is in `test_sqlalchemy.py`."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pg_bench import LIMITS, Database, PostgresWorkbench, url
from pg_drivers import SESSIONS, Base, Item, disposed
from sqlalchemy import Connection, NullPool, event, insert, select, text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from participant_sdk import Embedded, Participant, PostgresLog
from participant_sdk.client import call
from participant_sdk.outbox import put as leave
from participant_sdk.resources.contract import Done, Performed, Refused, Unreachable
from participant_sdk.resources.postgres import Postgres, PostgresLimits
from participant_sdk.testing.cluster import Cluster
from participant_sdk.testing.contract import FIRST, LONGER, Bench, operation
from participant_sdk.testing.postgres import PostgresServer
from tests.relational import until
from troth.errors import Aborted, Reason, Refuse, RequestError
from troth.log.postgres_store import init
from troth.v1 import record_pb2

NOTHING = record_pb2.BranchWork()
SETTING = text("SET work_mem = '8MB'")


async def commits(session: AsyncSession) -> None:
    session.add(Item(name="b", value=1))
    await session.commit()


async def commits_nothing(session: AsyncSession) -> None:
    await session.connection()
    await session.commit()


async def rolls_back(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1"))
    await session.rollback()


async def rolls_back_after_a_savepoint(session: AsyncSession) -> None:
    with contextlib.suppress(DBAPIError):
        async with session.begin_nested():
            await session.execute(text("SELECT 1/0"))
    await session.rollback()


async def closes(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1"))
    await session.close()


async def ends_by_hand(session: AsyncSession) -> None:
    await session.execute(text("INSERT INTO item VALUES ('b', 1)"))
    await session.execute(text("COMMIT"))


async def ends_past_the_session(session: AsyncSession) -> None:
    raw = await (await session.connection()).get_raw_connection()
    await raw.driver_connection.execute("COMMIT")


async def commits_past_the_session(session: AsyncSession) -> None:
    await (await session.connection()).run_sync(lambda connection: connection.connection.dbapi_connection.commit())


async def many(session: AsyncSession) -> None:
    await (await session.connection()).exec_driver_sql("ROLLBACK", [(), ()])


async def setting(session: AsyncSession) -> None:
    await session.execute(SETTING)


async def schema_change(session: AsyncSession) -> None:
    await (await session.connection()).run_sync(Base.metadata.drop_all)


async def caught(session: AsyncSession) -> None:
    await session.connection()
    with contextlib.suppress(RequestError):
        await session.commit()
    session.add(Item(name="b", value=1))


async def swallowed(session: AsyncSession) -> None:
    with contextlib.suppress(DBAPIError):
        await session.execute(text("SELECT 1/0"))


async def swallowed_and_rolled_back(session: AsyncSession) -> None:
    with contextlib.suppress(DBAPIError):
        await session.execute(text("SELECT 1/0"))
    await session.rollback()


async def constraint(session: AsyncSession) -> None:
    session.add(Item(name="secret", value=None))


async def mistake(session: AsyncSession) -> None:
    await session.execute(text("SELECT nonsense"))


async def lost(session: AsyncSession) -> None:
    await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


async def lost_and_caught(session: AsyncSession) -> None:
    with contextlib.suppress(DBAPIError):
        await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


async def lost_and_begun_again(session: AsyncSession) -> None:
    """SQLAlchemy would connect anew, outside of the branch."""
    with contextlib.suppress(DBAPIError):
        await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    await session.rollback()
    session.add(Item(name="b", value=1))
    await session.commit()


async def given_up(session: AsyncSession) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await session.execute(text("SELECT pg_sleep(60)"))


async def given_up_and_told(session: AsyncSession) -> None:
    async with asyncio.timeout(0.05):
        await session.execute(text("SELECT pg_sleep(60)"))


async def invalidates(session: AsyncSession) -> None:
    await (await session.connection()).invalidate()


async def another_isolation(session: AsyncSession) -> None:
    def sets(connection: Connection) -> None:
        adapter: Any = connection.connection.dbapi_connection
        connection.dialect.set_isolation_level(adapter, "SERIALIZABLE")

    await (await session.connection()).run_sync(sets)


async def only_reads(session: AsyncSession) -> None:
    await (await session.connection()).run_sync(lambda c: c.dialect.set_readonly(c.connection.dbapi_connection, True))


async def a_wrong_parameter_and_rollback(session: AsyncSession) -> None:
    with contextlib.suppress(DBAPIError):
        await session.execute(text("INSERT INTO item VALUES (CAST(:name AS text), 1)"), {"name": 5})
    await session.rollback()


THE_SAME = [
    commits, commits_nothing, rolls_back, rolls_back_after_a_savepoint, closes, ends_by_hand, ends_past_the_session,
    commits_past_the_session, many, setting, schema_change, caught, swallowed, swallowed_and_rolled_back, constraint, mistake, lost,
    lost_and_caught, lost_and_begun_again, given_up, given_up_and_told, invalidates, another_isolation,
    only_reads, a_wrong_parameter_and_rollback,
]  # fmt: skip


async def bench_of(database: Database, engine: AsyncEngine, limits: PostgresLimits = LIMITS, **operations: Any) -> Bench:
    bench = Bench(PostgresWorkbench(database, {**SESSIONS, **operations}, lambda dsn: Postgres(engine=engine, limits=limits)))
    await bench.open()
    return bench


async def refusal(database: Database, driver: str, function: Callable[..., Any]) -> Refused:
    """What is said of an operation, which costs the branch and nothing else."""
    async with disposed(database, driver) as engine:
        bench = await bench_of(database, engine, it=function)
        branch = await bench.begin()
        await bench.put(branch, "a", 1)
        refused = await bench.resource.execute(branch, operation("it"))
        assert isinstance(refused, Refused), refused
        assert isinstance(await bench.resource.prepare(branch), Refused)
        assert isinstance(await bench.resource.rollback(branch, NOTHING), Done)
        assert (await bench.visible("a"), await bench.visible("b"), await bench.in_doubt()) == (None, None, [])
        again, work = await bench.prepared(LONGER, "c")
        assert isinstance(await bench.resource.commit(again, work, one_phase=False), Done)
        assert await bench.visible("c") == 1
        await database.sql("TRUNCATE item, troth.branch")
        await bench.resource.close()
        return refused


def words(refused: Refused) -> str:
    """What is said, whichever error it was, and whatever a driver calls its method."""
    return re.sub(r"error [0-9a-f]{8}|set_autocommit|set_isolation_level", "", refused.cause.message)


@pytest.mark.parametrize("function", THE_SAME, ids=lambda function: function.__name__)
async def test_what_is_said_is_what_psycopg_says(database: Database, function: Callable[..., Any]) -> None:
    said = await refusal(database, "asyncpg", function)
    expected = await refusal(database, "psycopg", function)
    assert (said.cause.reason, said.cause.retryable) == (expected.cause.reason, expected.cause.retryable)
    assert words(said) == words(expected)
    assert "secret" not in said.cause.message


async def test_a_backend_that_is_killed_between_two_statements_is_a_lost_connection(database: Database) -> None:
    """asyncpg has noticed before the second is sent, and says so without a word of the server's."""

    async def goes_on(session: AsyncSession) -> None:
        await database.sql(f"SELECT pg_terminate_backend({await session.scalar(text('SELECT pg_backend_pid()'))})")
        raw = await (await session.connection()).get_raw_connection()

        async def noticed() -> bool:
            closed: bool = raw.driver_connection.is_closed()
            return closed

        await until(noticed)
        await session.execute(text("SELECT 1"))

    refused = await refusal(database, "asyncpg", goes_on)
    assert refused.cause.reason == "PARTICIPANT_AWAY" and refused.cause.retryable


@pytest.mark.parametrize("prepared", [SETTING, text("CREATE TABLE other (a int)"), text("COMMIT")], ids=str)
async def test_a_statement_that_sqlalchemy_has_prepared_before_is_read_all_the_same(database: Database, prepared: Any) -> None:
    """asyncpg's connection is not asked to prepare it again."""

    async def sends(session: AsyncSession) -> None:
        await session.execute(prepared)

    async with disposed(database, pool_size=2, max_overflow=0) as engine:
        bench = await bench_of(database, engine, sends=sends)
        async with engine.connect() as first, engine.connect() as second:  # whichever a branch gets
            for connection in (first, second):
                await connection.execute(prepared)
                await connection.rollback()
        branch = await bench.begin()
        refused = await bench.resource.execute(branch, operation("sends"))
        assert isinstance(refused, Refused) and refused.cause.reason == "FORBIDDEN_SQL", refused
        await bench.resource.rollback(branch, NOTHING)
        await bench.resource.close()


async def test_what_people_do_with_a_session_works(database: Database) -> None:
    async def works(session: AsyncSession) -> list[Any]:
        try:
            async with session.begin_nested():
                session.add(Item(name="a", value=None))
        except DBAPIError:
            await session.execute(text("SET LOCAL work_mem = '8MB'"))
        connection = await session.connection()
        await connection.execute(insert(Item), [{"name": name, "value": 1} for name in "ab"])
        await connection.exec_driver_sql("INSERT INTO item VALUES ($1, $2)", [("c", 3), ("d", 4)])
        rows = await session.stream(select(Item.name).order_by(Item.name).execution_options(yield_per=2))
        listed = [row.name async for row in rows]
        raw = await connection.get_raw_connection()
        return [listed, await raw.driver_connection.fetchval("SELECT count(*) FROM item")]

    async with disposed(database, pool_size=1, max_overflow=1) as engine:
        bench = await bench_of(database, engine, works=works)
        branch = await bench.begin()
        assert await bench.resource.execute(branch, operation("works")) == Performed([["a", "b", "c", "d"], 4])
        assert isinstance(await bench.resource.commit(branch, await bench.prepare(branch), one_phase=False), Done)
        async with engine.connect() as connection:  # the service's own use of it is as before
            raw = await connection.get_raw_connection()
            assert type(raw.driver_connection) is asyncpg.Connection
            assert type(raw.dbapi_connection) is AsyncAdapt_asyncpg_connection
            await connection.execute(SETTING)
            await connection.execute(insert(Item), {"name": "e", "value": 5})
            assert await bench.visible("e") is None, "it does not commit by itself"
            await connection.commit()
        assert await bench.visible("e") == 5
        await bench.resource.close()


async def test_an_engine_whose_events_begin_a_transaction(database: Database) -> None:
    """With psycopg, too, SQLAlchemy begins one for whatever is asked when it connects."""
    async with disposed(database) as engine:

        @event.listens_for(engine.sync_engine, "connect")
        def connected(connection: Any, _: Any) -> None:
            connection.cursor().execute("SELECT 1")

        bench = await bench_of(database, engine)
        assert isinstance(await bench.resource.commit(*await bench.prepared(), one_phase=False), Done)
        assert await bench.visible("a") == 1
        await bench.resource.close()


@pytest.mark.parametrize("options", [{"poolclass": NullPool}, {"isolation_level": "AUTOCOMMIT"}, {"pool_pre_ping": True}], ids=str)
async def test_other_engines(database: Database, options: dict[str, Any]) -> None:
    async with disposed(database, **options) as engine:
        bench = await bench_of(database, engine)
        for transaction_id in (FIRST, LONGER):
            branch = await bench.begin(transaction_id)
            await bench.put(branch, "a", 1)
            assert await bench.visible("a") is None
            assert isinstance(await bench.resource.commit(branch, await bench.prepare(branch), one_phase=False), Done)
            assert await bench.visible("a") == 1
            await database.sql("DELETE FROM item")
        await bench.resource.close()


async def test_an_operation_that_is_given_up_ends_its_backend(database: Database) -> None:
    async def sleeps(session: AsyncSession) -> None:
        await session.execute(text("SELECT pg_sleep(60)"))

    async with disposed(database) as engine:
        bench = await bench_of(database, engine, sleeps=sleeps)
        branch = await bench.begin()
        await bench.put(branch, "a", 1)
        task = asyncio.create_task(bench.resource.execute(branch, operation("sleeps")))
        await until(lambda: database.sql("SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(await bench.resource.rollback(branch, NOTHING), Done)
        assert isinstance(await bench.resource.commit(*await bench.prepared(LONGER, "b"), one_phase=False), Done)
        await bench.resource.close()


async def test_a_server_that_cannot_be_reached_is_waited_for(database: Database) -> None:
    nowhere = url(database).set(drivername="postgresql+asyncpg", query={"host": "/nowhere"})
    resource = Postgres(engine=create_async_engine(nowhere), limits=LIMITS)
    resource.bind("contract", None)
    assert isinstance(await resource.open(), Unreachable)
    refused = await resource.begin(FIRST)
    assert isinstance(refused, Refused) and refused.cause.reason == "PARTICIPANT_AWAY", refused
    await resource.close()


# ---- whole transactions


@pytest.fixture
async def banks(database: Database, breakable: PostgresServer) -> AsyncIterator[tuple[Database, Database]]:
    other = Database(breakable)
    await other.create()
    yield database, other
    assert await database.prepared() == await other.prepared() == []
    await other.drop()


@pytest.fixture
async def cluster(banks: tuple[Database, Database], tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two banks: one whose engine is on asyncpg, and one on psycopg."""
    async with disposed(banks[0]) as north, disposed(banks[1], "psycopg") as south:

        def bank(name: str, engine: AsyncEngine) -> Callable[[], Participant]:
            def make() -> Participant:
                resource = Postgres(engine=engine, limits=PostgresLimits(pinned_seconds_max=60.0))
                bank = Participant(name, resource=resource, data_directory=tmp_path / name, coordinator="memory:1")
                bank.operation(add)
                return bank

            return make

        async with Cluster(bank("north", north), bank("south", south)) as cluster:
            yield cluster


async def add(session: AsyncSession, *, name: str, amount: int) -> int:
    """Change an account; returns what it has then."""
    account = await session.get(Item, name, with_for_update=True)
    if account is None:
        account = Item(name=name, value=0)
        session.add(account)
    account.value += amount
    if account.value < -10:
        raise Refuse("NO_FUNDS")
    return account.value


async def balances(banks: tuple[Database, Database]) -> list[int | None]:
    """What is committed of the account in each bank."""
    return [sum(value for (value,) in await bank.sql("SELECT value FROM item WHERE name = 'a'")) for bank in banks]


async def test_a_transfer_in_operations(cluster: Cluster, banks: tuple[Database, Database]) -> None:
    for number in (1, 2):
        moved = await cluster.run(call("north", "add", name="a", amount=-5), call("south", "add", name="a", amount=5))
        assert moved.results == {"north": [-5 * number], "south": [5 * number]}
        await cluster.restart("north")
    with pytest.raises(Aborted) as refused:
        await cluster.run(call("south", "add", name="a", amount=5), call("north", "add", name="a", amount=-5))
    assert refused.value.code == "NO_FUNDS"
    assert await balances(banks) == [-10, 10]


async def test_a_transfer_in_handlers(cluster: Cluster, banks: tuple[Database, Database]) -> None:
    async with cluster.transaction() as txn:
        for name, amount in (("north", -5), ("south", 5), ("north", -3), ("south", 3)):
            with txn.call():
                async with cluster[name].branch() as session:
                    await add(session, name="a", amount=amount)
                    message = await leave(session, "moved", name, key="a")
        assert await balances(banks) == [0, 0]
    assert await balances(banks) == [-8, 8]
    sent = await banks[0].sql("SELECT key, body, id::text = %s FROM troth.outbox", str(message))
    assert sent == [("a", b"north", False)] * 2
    with pytest.raises(Refuse):
        async with cluster.transaction() as txn:
            with txn.call():
                async with cluster["south"].branch() as session:
                    await add(session, name="a", amount=5)
            with txn.call():
                async with cluster["north"].branch() as session:
                    await add(session, name="a", amount=-5)
    assert await balances(banks) == [-8, 8]


async def test_a_transfer_without_a_daemon(banks: tuple[Database, Database]) -> None:
    """Slots of a service, whose logs are in the databases, share the engine."""
    troth = Embedded(PostgresLog(banks[0].dsn))
    async with contextlib.AsyncExitStack() as stack:
        services = []
        for name, bank in zip(("north", "south"), banks, strict=True):
            await init(bank.dsn, "participant", (), branches=True)
            resource = Postgres(engine=await stack.enter_async_context(disposed(bank)))
            services.append(Participant(name, resource=resource, log=PostgresLog(bank.dsn), coordinator=troth))
        await stack.enter_async_context(troth)
        async with troth.transaction(timeout=60.0, wait="complete"):
            for service, amount in zip(services, (-5, 5), strict=True):
                async with service.branch() as session:
                    await add(session, name="a", amount=amount)
        assert await balances(banks) == [-5, 5]
        with pytest.raises(Refuse):
            async with troth.transaction(timeout=60.0):
                for service, amount in zip(reversed(services), (6, -6), strict=True):
                    async with service.branch() as session:
                        await add(session, name="a", amount=amount)
    assert await balances(banks) == [-5, 5]


async def test_a_block_may_not_end_the_transaction(cluster: Cluster, banks: tuple[Database, Database]) -> None:
    with pytest.raises(RequestError) as refused:
        async with cluster.transaction() as txn:
            with txn.call():
                async with cluster["south"].branch() as session:
                    await add(session, name="a", amount=1)
                async with cluster["north"].branch() as session:
                    await add(session, name="a", amount=1)
                    await session.commit()
    assert refused.value.reason is Reason.FORBIDDEN_SQL
    assert await balances(banks) == [0, 0]


async def test_a_block_that_takes_too_long_loses_its_connection(cluster: Cluster, banks: tuple[Database, Database]) -> None:
    cluster["north"]._pins._seconds_max = 1.0
    with pytest.raises(Aborted):
        async with cluster.transaction() as txn:
            with txn.call(), pytest.raises((DBAPIError, Aborted, RequestError)):
                async with cluster["north"].branch() as session:
                    await add(session, name="a", amount=1)
                    await session.execute(text("SELECT pg_sleep(60)"))
            raise Aborted(Reason.CLIENT_ABORT, "the handler's error ends it")
    assert await balances(banks) == [0, 0]
