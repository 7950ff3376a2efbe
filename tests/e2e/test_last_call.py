"""Calls of which their caller says that they are the last ones: the services prepare at once, and the commit asks nobody.

Everything is real but the processes: a daemon, participants with files, gRPC servers and channels.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from coordinator.config import load
from coordinator.server import Daemon, make_daemon
from participant_sdk import Aborted, Participant, RequestError, SqliteResource, current_scope, entered
from participant_sdk.branch import Branch
from participant_sdk.client import Client, Transaction
from troth.errors import Reason

SCHEMA = "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY NOT NULL, amount INTEGER NOT NULL)"
METHOD = "/last.Service/Do"


def add(db: Any, *, amount: int) -> None:
    """The operation of both services."""
    db.execute("INSERT INTO entry (amount) VALUES (?)", (amount,))


class Service:
    """A service that does what it is asked twice over, and tells what it would carry onward."""

    def __init__(self, make: Callable[[], Participant]) -> None:
        self._make = make
        self.bank = make()
        self.carried: list[bool] = []
        self.handler: Callable[[bytes, Any], Awaitable[bytes]] = self.do
        self.server = grpc.aio.server(interceptors=self.bank.interceptors(), options=[("grpc.so_reuseport", 0)])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        handlers = {"Do": grpc.unary_unary_rpc_method_handler(self._do)}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("last.Service", handlers),))

    async def _do(self, request: bytes, context: Any) -> bytes:
        return await self.handler(request, context)

    async def do(self, request: bytes, context: Any) -> bytes:
        """The handler: several operations are one call."""
        branch = self.bank.branch()
        await branch.run("add", amount=int(request))
        await branch.run("add", amount=int(request))
        scope = current_scope()
        assert scope is not None
        self.carried.append(scope.onward_context().last_call)
        return b""

    async def restart(self) -> None:
        """As after a kill: another process on the same files."""
        await self.bank.crash()
        self.bank = self._make()
        await self.bank.start()
        await self.bank.wait_connected()

    async def total(self) -> int:
        """What is committed here, once nothing is undecided any more."""
        read = self.bank.read(lambda db: db.one("SELECT coalesce(sum(amount), 0) FROM entry")[0], wait_seconds=60)
        return int(await read)


@dataclass
class Town:
    """Two services, a daemon and a client."""

    daemon: Daemon
    services: dict[str, Service]
    client: Client

    async def call(self, name: str, amount: int) -> None:
        """Call a service in the transaction around."""
        async with grpc.aio.insecure_channel(self.services[name].address, interceptors=self.client.interceptors()) as channel:
            await channel.unary_unary(METHOD)(b"%d" % amount)

    async def totals(self) -> list[int]:
        """What is committed, everywhere."""
        return [await service.total() for service in self.services.values()]

    @property
    def prepares(self) -> int:
        """How often a vote was asked for."""
        return self.daemon.counters()["prepares"]


def bank(name: str, directory: Path, coordinator: str) -> Participant:
    resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
    made = Participant(name, resource=resource, data_directory=directory / name, coordinator=coordinator)
    made.operation(locks=[])(add)
    return made


@pytest_asyncio.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    flags = {"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1")}
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(daemon.stop)
        services = {}
        for name in ("left", "right"):
            service = services[name] = Service(lambda name=name: bank(name, tmp_path, daemon.address))
            await service.bank.start()
            stack.push_async_callback(lambda service=service: service.bank.close())
            await service.bank.wait_connected()
            await service.server.start()
            stack.push_async_callback(service.server.stop, None)
        yield Town(daemon, services, await stack.enter_async_context(Client(daemon.address)))


async def one_call_each(town: Town, **options: Any) -> Transaction:
    async with town.client.transaction(**options) as tx:
        await town.call("left", 1)
        await town.call("right", 2)
    return tx


async def test_the_commit_asks_nobody(town: Town) -> None:
    tx = await one_call_each(town, one_call_each=True)
    assert tx.outcome is not None and await town.totals() == [2, 4]
    assert town.prepares == 0, "both had voted"
    assert town.services["left"].carried == [False], "of what is called from there the caller knows nothing"
    await one_call_each(town)
    assert town.prepares == 2 and await town.totals() == [4, 8]


async def test_one_may_be_the_last_and_another_not(town: Town) -> None:
    async with town.client.transaction() as tx:
        await town.call("left", 1)
        with tx.last_call():
            await town.call("right", 1)
        await town.call("left", 1)
    assert town.prepares == 1 and await town.totals() == [4, 2]


async def test_a_further_call_is_refused_and_nothing_is_kept(town: Town) -> None:
    with pytest.raises(Aborted) as caught:
        async with town.client.transaction(one_call_each=True):
            await town.call("left", 1)
            await town.call("right", 1)
            await town.call("left", 1)
    assert caught.value.reason is Reason.NOT_ACTIVE and "last call" in caught.value.message
    assert await town.totals() == [0, 0]


async def test_what_voted_stands_over_a_restart(town: Town) -> None:
    async with town.client.transaction(one_call_each=True):
        await town.call("left", 1)
        await town.call("right", 1)
        await town.services["left"].restart()
    assert town.prepares == 0 and await town.totals() == [2, 2]


async def test_whose_client_is_gone_is_rolled_back(town: Town) -> None:
    client = Client(town.daemon.address)
    async with client:
        tx = client.transaction(one_call_each=True)
        await tx.__aenter__()
        async with grpc.aio.insecure_channel(town.services["left"].address, interceptors=client.interceptors()) as channel:
            await channel.unary_unary(METHOD)(b"1")
        assert town.services["left"].bank.health.in_doubt == 1
        await tx.abort()
        await tx.__aexit__(None, None, None)
    assert await town.totals() == [0, 0]
    assert town.services["left"].bank.health.in_doubt == 0


async def test_what_is_carried_by_hand_votes_by_hand(town: Town) -> None:
    async with town.client.transaction() as tx:
        for service in town.services.values():
            with tx.last_call():
                context = tx.context()
            with entered(context, tells=True) as scope:
                await service.bank.branch().run("add", amount=4)
                await scope.end()
            for done in scope.acknowledgements:
                tx.acknowledge(done)
    assert town.prepares == 0 and await town.totals() == [4, 4]


# ---- servers of the blocking API


@contextlib.asynccontextmanager
async def in_threads(bank: Participant, other: Callable[[bytes, Any], bytes] | None = None) -> AsyncIterator[str]:
    """The service once more, on a server whose handlers run in threads, one of them with a stream of answers; gives its address."""

    def do(request: bytes, context: Any) -> bytes:
        bank.branch_sync().run("add", amount=int(request))
        return b""

    def stream(request: bytes, context: Any) -> Iterator[bytes]:
        yield do(request, context)

    pool = ThreadPoolExecutor(2)
    server = grpc.server(pool, interceptors=bank.interceptors_sync(), options=[("grpc.so_reuseport", 0)])
    handlers = {"Do": grpc.unary_unary_rpc_method_handler(other or do), "Stream": grpc.unary_stream_rpc_method_handler(stream)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("last.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(server.stop(None).wait)


@pytest.mark.parametrize("streams", [False, True])
async def test_handlers_in_threads_vote_as_well(town: Town, streams: bool) -> None:
    async with in_threads(town.services["left"].bank) as address, town.client.transaction(one_call_each=True):
        async with grpc.aio.insecure_channel(address, interceptors=town.client.interceptors()) as channel:
            if streams:
                assert [answer async for answer in channel.unary_stream(f"{METHOD[:-2]}Stream")(b"3")] == [b""]
            else:
                await channel.unary_unary(METHOD)(b"3")
        assert town.services["left"].bank.health.in_doubt == 1, "it is prepared"
        await town.call("right", 1)
    assert town.prepares == 0 and await town.totals() == [3, 2]


# ---- work that its handler did not wait for

OPEN = (Aborted, RequestError)


@pytest.mark.parametrize("last", [False, True])
async def test_a_handler_that_does_not_wait_for_its_work_has_failed(town: Town, last: bool) -> None:
    """Its answer would tell nobody of it: behind a commit it would be rolled back."""
    left = town.services["left"]
    tasks: list[asyncio.Task[None]] = []

    async def forgets(request: bytes, context: Any) -> bytes:
        tasks.append(asyncio.create_task(left.bank.branch().run("add", amount=1)))
        await asyncio.sleep(0)
        return b""

    left.handler = forgets
    with pytest.raises(OPEN, match="an operation or a block of the branch was open"):
        await both_calls(town, last)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await town.totals() == [0, 0]


@pytest.mark.parametrize("last", [False, True])
async def test_a_branch_that_is_kept_works_no_more(town: Town, last: bool) -> None:
    left = town.services["left"]
    kept: list[Branch] = []

    async def keeps(request: bytes, context: Any) -> bytes:
        kept.append(left.bank.branch())
        return b""

    left.handler = keeps
    async with town.client.transaction(one_call_each=last):
        await town.call("left", 1)
        await town.call("right", 1)
        with pytest.raises(RequestError) as caught:
            await kept[0].run("add", amount=1)
    assert caught.value.reason is Reason.NO_CONTEXT
    assert await town.totals() == [0, 2]


async def test_a_handler_in_a_thread_that_does_not_wait_for_its_work_has_failed(town: Town) -> None:
    def forgets(request: bytes, context: Any) -> bytes:
        scope = current_scope()
        assert scope is not None
        scope.work.begins()  # as a thread that it began, and did not join
        return b""

    async with in_threads(town.services["left"].bank, forgets) as address:
        with pytest.raises(OPEN, match="an operation or a block of the branch was open"):
            interceptors = town.client.interceptors()
            async with town.client.transaction(), grpc.aio.insecure_channel(address, interceptors=interceptors) as channel:
                await channel.unary_unary(METHOD)(b"")


async def both_calls(town: Town, last: bool) -> None:
    async with town.client.transaction(one_call_each=last):
        await town.call("right", 1)
        await town.call("left", 1)
