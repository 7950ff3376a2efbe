"""The store's primary is killed under load, and its replica takes over: nodes and slots follow by the connection string that names
both. With synchronous replication nothing is lost that was acknowledged. With asynchronous replication something is, and then it
is found out: by who wrote it, and by who has heard it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pytest
from cell_of_nodes import Node, under_load
from pg_bench import ASYNC, Database, PostgresWorkbench, from_dsn
from pg_pair import Pair
from pg_processes import Processes
from pg_transfers import make_bank, served, settled, transfers, wrong

from participant_sdk.client import Client
from participant_sdk.resources.contract import BranchOutcome, Done, Unreachable
from participant_sdk.testing.contract import Bench
from tests.relational import until
from troth.errors import LogFailed
from troth.log.postgres import PostgresLog
from troth.log.postgres_cell import init_cell
from troth.ready import Append
from troth.v1 import record_pb2

SHARDS, NODES, CALLERS, SOME = 4, 2, 6, 12
HEARING_SECONDS = 1
"""Who is bound, and does not come back under that name: slots may change hands."""


class Bank(Database):
    """A bank's database in a pair of servers."""

    def __init__(self, pair: Pair, name: str) -> None:
        super().__init__(pair)
        self.name = name


@asynccontextmanager
async def cell(pair: Pair, nodes: int = NODES) -> AsyncIterator[list[Node]]:
    """Nodes of a cell whose store is the pair."""
    async with AsyncExitStack() as stack:
        running = [Node(pair.dsn(), HEARING_SECONDS) for _ in range(nodes)]
        for node in running:
            stack.push_async_callback(node.close)
        await asyncio.gather(*(node.start() for node in running))
        yield running


async def true(what: Callable[[], bool]) -> bool:
    return what()


async def committed(told: dict[int, str], more: int) -> None:
    """Until so many more transfers have been told committed."""
    enough = list(told.values()).count("committed") + more
    await until(lambda: true(lambda: list(told.values()).count("committed") >= enough))


async def test_a_failover_to_a_synchronous_replica_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Of two services in two processes each as well, whose data and slots are in databases of the same two servers."""
    processes, told, over = Processes(tmp_path), dict[int, str](), asyncio.Event()
    async with AsyncExitStack() as stack:
        pair = stack.enter_context(Pair(synchronous=True))
        await init_cell(pair.dsn(), "c1", SHARDS)
        nodes = await stack.enter_async_context(cell(pair))
        processes.address = ",".join(node.address for node in nodes)
        stack.callback(processes.end)
        banks: dict[str, Database] = {name: Bank(pair, name) for name in ("north", "south")}
        for name, database in banks.items():
            await database.create()
            await make_bank(database)
            for number in range(2):
                processes.bank(name, number, database.dsn)
        client = await stack.enter_async_context(Client(processes.address))
        await until(lambda: served(client))
        numbers = takewhile(lambda _: not over.is_set(), count())
        callers = [asyncio.create_task(transfers(client, numbers, told)) for _ in range(CALLERS)]
        await committed(told, SOME)
        await asyncio.to_thread(pair.fail_over)
        await committed(told, SOME)
        over.set()
        await asyncio.gather(*callers)
        await until(lambda: served(client))
        await until(lambda: settled(banks))
        assert not await wrong(banks, told)


async def test_what_an_asynchronous_failover_has_lost_is_refused_by_who_wrote_it_and_by_who_has_heard_it(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        pair = stack.enter_context(Pair(synchronous=False))
        await init_cell(pair.dsn(), "c1", SHARDS)
        (node,) = await stack.enter_async_context(cell(pair, 1))
        load = await under_load(stack, tmp_path, [node])
        await asyncio.to_thread(pair.part)
        await load.goes_on()
        await load.end()
        await asyncio.to_thread(pair.fail_over)
        await node.says(r"ends at record \d+, but record \d+ of it was acknowledged")
        await node.end(signal.SIGKILL)
        await node.start()
        await node.says("the log has lost what participants have heard")
        assert not load.errors


@pytest.fixture(scope="module")
def synchronous() -> Iterator[Pair]:
    """For tests that part the two for a moment."""
    with Pair(synchronous=True) as pair:
        yield pair


async def cancelled(pair: Pair, doing: Coroutine[Any, Any, Any]) -> Any:
    """What is done while the replica hears nothing, and whoever waits for it is cancelled: the server calls that a success."""
    await asyncio.to_thread(pair.part)
    task = asyncio.ensure_future(doing)
    await until(lambda: asyncio.to_thread(pair.waiting))
    await asyncio.to_thread(pair.cancel)
    try:
        return await task
    finally:
        await asyncio.to_thread(pair.meet)


async def test_an_append_that_no_replica_has_is_a_failed_log(synchronous: Pair) -> None:
    await init_cell(synchronous.dsn(), "c2", 1)
    log = PostgresLog(synchronous.dsn(), role="coordinator", name="c2")
    await log.open()
    record = record_pb2.CoordinatorRecord(epoch_started=record_pb2.EpochStarted(coordinator="c2", epoch=1))
    with pytest.raises(LogFailed, match="replica"):
        await cancelled(synchronous, log.write([Append(record)], sync=True))
    await log.close()
    log = PostgresLog(synchronous.dsn(), role="coordinator", name="c2")
    _, records = await log.open()
    await log.close()
    assert len(records) == 1, "the next claim has waited for the replica, and tells what there is"


async def test_a_vote_and_a_commit_that_no_replica_has_are_not_told(synchronous: Pair) -> None:
    """Until the replica has them: who asks again waits for it, and is not told by what this server shows already."""
    database = Bank(synchronous, "south")
    await database.create()
    await make_bank(database)
    bench = Bench(PostgresWorkbench(database, ASYNC, from_dsn))
    await bench.open()
    resource, branch, work = bench.resource, await bench.begin(), record_pb2.BranchWork()
    await bench.put(branch, "a", 1)
    assert isinstance(await cancelled(synchronous, resource.prepare(branch)), Unreachable)
    await until(lambda: resource.outcome(branch))
    assert await bench.outcome(branch) is BranchOutcome.PREPARED
    assert isinstance(await cancelled(synchronous, resource.commit(branch, work, one_phase=False)), Unreachable)
    await asyncio.to_thread(synchronous.part)
    asking = asyncio.ensure_future(resource.commit(branch, work, one_phase=False))
    await until(lambda: asyncio.to_thread(synchronous.waiting))
    assert not asking.done()
    await asyncio.to_thread(synchronous.meet)
    assert await asking == Done()
    await resource.close()
