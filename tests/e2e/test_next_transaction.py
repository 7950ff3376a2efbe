"""One caller, one row, one transaction after the other: nobody is in his way, least of all he himself."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf import wrappers_pb2
from processes import Cluster

from participant_sdk import Limits, Participant, SqliteResource
from participant_sdk.client import Client, call

SCHEMA = "CREATE TABLE IF NOT EXISTS stock (item TEXT NOT NULL PRIMARY KEY, count INTEGER NOT NULL)"
ROUNDS = 40
CALLERS = 32
SECONDS = 100.0
"""How long anybody may stand in line: those before him take their time on a slow machine, and nobody is in his way for that."""


def make(name: str, directory: Path, address: str) -> Participant:
    stock = Participant(
        name, resource=SqliteResource(directory / f"{name}.db", schema=SCHEMA), data_directory=directory / name,
        coordinator=address, limits=Limits(lock_wait_seconds=SECONDS),
    )  # fmt: skip

    @stock.operation(locks=lambda item: [item])
    def put(db: Any, *, item: str) -> None:
        db.execute("INSERT INTO stock VALUES (?, 1) ON CONFLICT (item) DO UPDATE SET count = count + 1", (item,))

    return stock


@contextlib.asynccontextmanager
async def served(stock: Participant) -> AsyncIterator[str]:
    async def handle(request: wrappers_pb2.StringValue, context: Any) -> wrappers_pb2.StringValue:
        await stock.branch().run("put", item=request.value)
        return request

    method = grpc.unary_unary_rpc_method_handler(
        handle, wrappers_pb2.StringValue.FromString, wrappers_pb2.StringValue.SerializeToString
    )
    server = grpc.aio.server(interceptors=stock.interceptors(), options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Stock", {"Put": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_the_block_after_one_that_failed_or_committed_commits(shop: Cluster, tmp_path: Path) -> None:
    stock = make("stock", tmp_path, shop.coordinator.address)
    ended: Counter[str] = Counter()
    async with stock, Client(shop.coordinator.address) as client:
        await stock.wait_connected()
        async with (
            served(stock) as address,
            grpc.aio.insecure_channel(address, interceptors=client.interceptors()) as channel,
        ):
            put = channel.unary_unary(
                "/Stock/Put", wrappers_pb2.StringValue.SerializeToString, wrappers_pb2.StringValue.FromString
            )
            row = wrappers_pb2.StringValue(value="row")
            for _ in range(ROUNDS):
                with pytest.raises(KeyError):
                    async with client.transaction(timeout=SECONDS):
                        await put(row)
                        raise KeyError("the caller's own")
                for _ in range(2):
                    async with client.transaction(timeout=SECONDS) as tx:
                        await put(row)
                    assert tx.outcome is not None
                    ended["interactive"] += 1
                await client.run(call("stock", "put", item="row"), attempts=1, timeout=SECONDS)
                ended["one-shot"] += 1
    assert ended == {"interactive": 2 * ROUNDS, "one-shot": ROUNDS}


async def test_a_run_after_a_run_that_committed_commits(shop: Cluster, tmp_path: Path) -> None:
    one, other = (make(name, tmp_path, shop.coordinator.address) for name in ("one", "other"))
    async with one, other, Client(shop.coordinator.address) as client:
        await one.wait_connected()
        await other.wait_connected()
        for _ in range(5 * ROUNDS):
            await client.run(call("one", "put", item="row"), call("other", "put", item="row"), attempts=1, timeout=SECONDS)


async def test_callers_of_one_row_wait_for_each_other_and_nobody_dies(shop: Cluster, tmp_path: Path) -> None:
    one, other = (make(name, tmp_path, shop.coordinator.address) for name in ("one", "other"))
    async with one, other, Client(shop.coordinator.address) as client:
        await one.wait_connected()
        await other.wait_connected()

        async def caller() -> None:
            for _ in range(5):
                await client.run(call("one", "put", item="row"), call("other", "put", item="row"), attempts=1, timeout=SECONDS)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        await client.run(call("one", "put", item="row"), wait="complete")
        counted = await one.read(lambda db: db.one("SELECT count FROM stock WHERE item = 'row'"), locks=["row"])
    assert counted == (5 * CALLERS + 1,)
