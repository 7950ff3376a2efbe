"""One transaction through services that call one another: three deep and deeper, in parallel, with refusals on the way.

Everything is real but the processes: a daemon, participants with files, gRPC servers and channels.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from coordinator.config import load
from coordinator.server import make_daemon
from participant_sdk import Aborted, Participant, Refuse, SqliteResource, current_scope
from participant_sdk.client import Client, transactional

SCHEMA = "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY NOT NULL, amount INTEGER NOT NULL)"
METHOD = "/hop.Service/Do"
NAMES = ("a", "b", "c", "d")


@dataclass
class Hop:
    """A service with one participant. A request is a tree: what to do here, then whom to call, and how."""

    bank: Participant
    server: grpc.aio.Server
    address: str

    @classmethod
    @contextlib.asynccontextmanager
    async def served(cls, name: str, directory: Path, coordinator: str) -> AsyncIterator[Self]:
        """The service, from its start to its end."""
        resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
        bank = Participant(name, resource=resource, data_directory=directory / name, coordinator=coordinator)
        bank.operation(locks=[])(add)
        server = grpc.aio.server(interceptors=bank.interceptors(), options=[("grpc.so_reuseport", 0)])
        hop = cls(bank, server, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        handlers = {"Do": grpc.unary_unary_rpc_method_handler(hop.do)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("hop.Service", handlers),))
        async with bank:
            await bank.wait_connected()
            await server.start()
            try:
                yield hop
            finally:
                await server.stop(None)

    async def do(self, request: bytes, context: Any) -> bytes:
        """The handler."""
        tree = json.loads(request)
        for amount in tree.get("add", [1]):
            await self.bank.branch().run("add", amount=amount)
        try:
            if tree.get("how") == "blocking":
                await asyncio.gather(*(asyncio.to_thread(self._call_blocking, each) for each in tree["onward"]))
            elif tree.get("how") == "group":
                async with asyncio.TaskGroup() as group:
                    for each in tree["onward"]:
                        group.create_task(self._call(each))
            else:
                await asyncio.gather(*(self._call(each) for each in tree.get("onward", ())))
        except grpc.RpcError:
            if not tree.get("catches"):
                raise
        if tree.get("refuses"):
            raise Refuse(tree["refuses"], "the handler will not")
        return b""

    async def _call(self, tree: Any) -> None:
        async with grpc.aio.insecure_channel(tree["at"], interceptors=self.bank.onward()) as channel:
            await channel.unary_unary(METHOD)(json.dumps(tree).encode())

    def _call_blocking(self, tree: Any) -> None:
        with grpc.insecure_channel(tree["at"]) as bare:
            channel = grpc.intercept_channel(bare, *self.bank.onward_sync())
            channel.unary_unary(METHOD)(json.dumps(tree).encode())

    async def total(self) -> int:
        """What is committed here."""
        return int(await self.bank.read(lambda db: db.one("SELECT coalesce(sum(amount), 0) FROM entry")[0]))


def add(db: Any, *, amount: int) -> None:
    """The operation of all services."""
    if amount < 0:
        raise Refuse("NO_FUNDS", "too little")
    if amount > 100:
        raise Refuse("BUSY", "too much at a time", retryable=True)
    db.execute("INSERT INTO entry (amount) VALUES (?)", (amount,))


class Company:
    """All services and a client."""

    def __init__(self, hops: dict[str, Hop], client: Client) -> None:
        self.hops = hops
        self.client = client

    def tree(self, name: str, *onward: Any, **fields: Any) -> Any:
        """A request."""
        return {"at": self.hops[name].address, "onward": onward, **fields}

    async def call(self, tree: Any) -> None:
        """Call the first service in the transaction around."""
        async with grpc.aio.insecure_channel(tree["at"], interceptors=self.client.interceptors()) as channel:
            await channel.unary_unary(METHOD)(json.dumps(tree).encode())

    async def totals(self) -> dict[str, int]:
        """What is committed, everywhere."""
        return {name: await hop.total() for name, hop in self.hops.items()}


@pytest_asyncio.fixture
async def company(tmp_path: Path) -> AsyncIterator[Company]:
    """Four services, a daemon and a client."""
    flags = {"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1")}
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(daemon.stop)
        hops = {name: await stack.enter_async_context(Hop.served(name, tmp_path, daemon.address)) for name in NAMES}
        client = await stack.enter_async_context(Client(daemon.address))
        yield Company(hops, client)


@pytest.mark.parametrize("how", ["plain", "group", "blocking"])
async def test_three_deep_is_one_transaction(company: Company, how: str) -> None:
    deepest = company.tree("c", add=[1, 2])
    async with company.client.transaction() as tx:
        await company.call(company.tree("a", company.tree("b", deepest, how=how), how=how))
    assert tx.acknowledged == {"a": 1, "b": 1, "c": 2}
    assert tx.outcome is not None
    assert await company.totals() == {"a": 1, "b": 1, "c": 3, "d": 0}


@pytest.mark.parametrize("how", ["plain", "group", "blocking"])
async def test_calls_in_parallel_are_all_counted_also_to_the_same_service(company: Company, how: str) -> None:
    four = [company.tree("d", add=[1, 1]) for _ in range(4)]
    tree = company.tree("a", company.tree("b", *four, how=how), company.tree("c", *four, how=how), how=how)
    async with company.client.transaction() as tx:
        await company.call(tree)
    assert tx.acknowledged == {"a": 1, "b": 1, "c": 1, "d": 16}
    assert await company.totals() == {"a": 1, "b": 1, "c": 1, "d": 16}


@pytest.mark.parametrize("how", ["plain", "group", "blocking"])
@pytest.mark.parametrize(
    ("fields", "code", "retryable"),
    [({"add": [1, -1]}, "NO_FUNDS", False), ({"add": [101]}, "BUSY", True), ({"refuses": "CLOSED"}, "CLOSED", False)],
)
async def test_a_refusal_at_depth_arrives_with_participant_and_code(
    company: Company, how: str, fields: dict[str, Any], code: str, retryable: bool
) -> None:
    deepest = company.tree("c", **fields)
    with pytest.raises(Aborted) as caught:
        async with company.client.transaction():
            await company.call(company.tree("a", company.tree("b", deepest, how=how), how=how))
    assert (caught.value.participant, caught.value.code, caught.value.retryable) == ("c", code, retryable)
    assert await company.totals() == dict.fromkeys(NAMES, 0)


async def test_the_gravest_of_several_refusals_is_told(company: Company) -> None:
    several = [company.tree("c", add=[101]), company.tree("d", add=[-1])]
    with pytest.raises(Aborted) as caught:
        async with company.client.transaction(), asyncio.TaskGroup() as group:
            for each in several:
                group.create_task(company.call(each))
    assert caught.value.participant in ("c", "d")


async def test_a_refusal_that_a_service_catches_is_its_own_affair(company: Company) -> None:
    async with company.client.transaction() as tx:
        await company.call(company.tree("a", company.tree("c", add=[-1]), catches=True))
    assert tx.acknowledged == {"a": 1}
    assert await company.totals() == {"a": 1, "b": 0, "c": 0, "d": 0}


async def test_work_of_a_call_that_failed_afterwards_aborts_everything(company: Company) -> None:
    with pytest.raises(Aborted, match="OPERATION_COUNT"):
        async with company.client.transaction():
            await company.call(company.tree("a", company.tree("c", refuses="LATE"), company.tree("c"), catches=True))
    assert await company.totals() == dict.fromkeys(NAMES, 0)


async def test_what_is_no_refusal_is_not_told_as_one(company: Company) -> None:
    away = {"at": "127.0.0.1:1", "onward": []}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with company.client.transaction():
            await company.call(company.tree("a", away))
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert await company.totals() == dict.fromkeys(NAMES, 0)


async def test_a_conflict_at_depth_is_retried(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    @transactional(company.client, attempts=3)
    async def work() -> None:
        tried.append(1)
        await company.call(company.tree("a", company.tree("b", add=[101] if len(tried) < 3 else [7])))

    await work()
    assert len(tried) == 3
    assert await company.totals() == {"a": 1, "b": 7, "c": 0, "d": 0}


async def test_outside_of_a_transaction_nothing_is_carried(company: Company) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="NO_CONTEXT"):
        await company.hops["a"]._call(company.tree("b"))
    with pytest.raises(grpc.RpcError, match="NO_CONTEXT"):
        await asyncio.to_thread(company.hops["a"]._call_blocking, company.tree("b"))
    assert current_scope() is None
