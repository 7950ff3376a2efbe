"""Blocks of a service's own code on a branch's connection, in coroutines and in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pg_bench import PUT, Database

from participant_sdk import Participant
from participant_sdk.context import entered
from participant_sdk.pins import Pins
from participant_sdk.resources.log_only import LogResource
from participant_sdk.resources.postgres import Postgres, PostgresLimits
from participant_sdk.testing.cluster import Cluster
from troth.errors import Aborted, Reason, Refuse, RequestError
from troth.v1 import common_pb2

LIMITS = PostgresLimits(connections_max=6, pinned_max=2, pinned_seconds_max=60.0, idle_seconds_max=20.0)


@pytest.fixture
async def cluster(database: Database, tmp_path: Path) -> AsyncIterator[Cluster]:
    def pay() -> Participant:
        return Participant(
            "pay", resource=Postgres(database.dsn, limits=LIMITS), data_directory=tmp_path / "pay", coordinator="memory:1"
        )

    def mail() -> Participant:
        return Participant("mail", resource=LogResource(), data_directory=tmp_path / "mail", coordinator="memory:1")

    async with Cluster(pay, mail) as cluster:
        yield cluster
    assert await database.prepared() == []


async def test_a_handler_works_on_the_branchs_connection(cluster: Cluster, database: Database) -> None:
    async with cluster.transaction() as txn:
        for name in "ab":
            with txn.call():
                async with cluster["pay"].branch() as db:
                    await db.execute(PUT, (name, 1))
        assert await database.names() == []
    assert await database.names() == ["a", "b"]


async def test_a_handler_in_a_thread_does_the_same(cluster: Cluster, database: Database) -> None:
    def handler() -> int:
        with cluster["pay"].branch_sync() as db:
            db.execute(PUT, ("a", 1))
            return int(db.execute("SELECT count(*) FROM item").fetchone()[0])

    async with cluster.transaction() as txn:
        with txn.call():
            assert await asyncio.to_thread(handler) == 1
    assert await database.names() == ["a"]


@pytest.mark.parametrize("threads", [False, True])
async def test_an_exception_loses_the_branch_and_reaches_the_handler(cluster: Cluster, database: Database, threads: bool) -> None:
    def handler() -> None:
        with cluster["pay"].branch_sync() as db:
            db.execute(PUT, ("a", 1))
            raise Refuse("NO_FUNDS")

    async def asynchronous_handler() -> None:
        async with cluster["pay"].branch() as db:
            await db.execute(PUT, ("a", 1))
            raise Refuse("NO_FUNDS")

    async with cluster.transaction() as txn:
        with txn.call(), pytest.raises(Refuse):
            await (asyncio.to_thread(handler) if threads else asynchronous_handler())
        with txn.call():  # nothing of it is left, and the handler may go on
            async with cluster["pay"].branch() as db:
                await db.execute(PUT, ("b", 1))
    assert await database.names() == ["b"]


SLIPS = [StopIteration, StopAsyncIteration, asyncio.CancelledError, GeneratorExit, SystemExit, ValueError]


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("threads", [False, True])
async def test_whatever_leaves_a_block_is_its_end(
    cluster: Cluster, database: Database, threads: bool, slip: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    too_long = Pins._too_long

    async def handler() -> BaseException | None:
        try:
            async with cluster["pay"].branch() as db:
                await db.execute(PUT, ("a", 1))
                raise slip
        except BaseException as error:
            return error

    def handler_in_thread() -> BaseException | None:
        try:
            with cluster["pay"].branch_sync() as db:
                db.execute(PUT, ("a", 1))
                raise slip
        except BaseException as error:
            return error

    late: list[str] = []
    monkeypatch.setattr(Pins, "_too_long", lambda pins: late.append("until its connection was cut") or too_long(pins))
    async with cluster.transaction() as txn:
        with txn.call():
            assert type(await (asyncio.to_thread(handler_in_thread) if threads else handler())) is slip
    assert late == [] and await database.names() == []


async def test_a_block_may_not_end_the_transaction(cluster: Cluster, database: Database) -> None:
    async with cluster.transaction() as txn:
        with txn.call():
            with pytest.raises(RequestError) as refused:
                async with cluster["pay"].branch() as db:
                    await db.commit()
            assert refused.value.reason is Reason.FORBIDDEN_SQL


async def test_only_so_many_blocks_have_connections(cluster: Cluster) -> None:
    inside: asyncio.Queue[None] = asyncio.Queue()
    leave = asyncio.Event()

    async def stays(number: int) -> None:
        with entered(await context(number)):
            async with cluster["pay"].branch():
                inside.put_nowait(None)
                await leave.wait()

    async def context(number: int) -> common_pb2.TransactionContext:
        txn = await stack.enter_async_context(cluster.transaction())
        return common_pb2.TransactionContext(transaction_id=txn.transaction_id, first_attempt_ms=1, call_id=str(number))

    stack = AsyncExitStack()
    tasks = [asyncio.create_task(stays(number)) for number in range(2)]
    for _ in range(2):
        await inside.get()
    with pytest.raises(RequestError) as refused:
        await stays(3)
    assert refused.value.reason is Reason.OVERLOADED and "pinned_max" in str(refused.value)
    leave.set()
    await asyncio.gather(*tasks)
    await stack.pop_all().__aexit__(Aborted, Aborted(Reason.CLIENT_ABORT, "enough"), None)


@pytest.mark.parametrize("threads", [False, True])
async def test_a_block_that_takes_too_long_loses_its_connection(cluster: Cluster, database: Database, threads: bool) -> None:
    def waits(db: Any) -> None:
        while not db.closed:
            pass

    def handler() -> None:
        with cluster["pay"].branch_sync() as db:
            db.execute(PUT, ("a", 1))
            waits(db)
            db.execute("SELECT 1")

    cluster["pay"]._pins._seconds_max = 1.0
    with pytest.raises(Aborted):
        async with cluster.transaction() as txn:
            with txn.call(), pytest.raises(psycopg.OperationalError):
                if threads:
                    await asyncio.to_thread(handler)
                else:
                    async with cluster["pay"].branch() as db:
                        await db.execute(PUT, ("a", 1))
                        await asyncio.to_thread(waits, db)
                        await db.execute("SELECT 1")
            raise Aborted(Reason.CLIENT_ABORT, "the handler's error ends it")
    assert await database.names() == []


async def test_a_repeated_call_cannot_run_its_block_again(cluster: Cluster) -> None:
    with pytest.raises(Aborted):
        async with cluster.transaction() as txn:
            context = common_pb2.TransactionContext(transaction_id=txn.transaction_id, first_attempt_ms=1, call_id="1")
            with entered(context):
                async with cluster["pay"].branch() as db:
                    await db.execute("SELECT 1")
            with entered(context), pytest.raises(Aborted) as repeated:
                async with cluster["pay"].branch() as db:
                    raise AssertionError("it ran again")
            assert repeated.value.reason is Reason.OPERATION_COUNT and repeated.value.retryable
            raise Aborted(Reason.CLIENT_ABORT, "enough")


async def test_who_has_no_connection_to_give_says_so(cluster: Cluster) -> None:
    async with cluster.transaction() as txn:
        with txn.call():
            with pytest.raises(RequestError, match="has no connection"):
                async with cluster["mail"].branch():
                    pass
            with pytest.raises(RequestError, match="would stop it"), cluster["pay"].branch_sync():
                pass


async def test_blocks_are_no_operations_that_a_client_may_name(cluster: Cluster) -> None:
    with pytest.raises(Aborted):
        async with cluster.transaction() as txn:
            with txn.call(), pytest.raises(RequestError):
                await cluster["pay"].branch().run("troth-block", block=1)
            raise Aborted(Reason.CLIENT_ABORT, "enough")
