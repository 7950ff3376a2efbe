"""A node that is cut off from its store, and nobody notices: nothing arrives, and no connection ends. Its shards are taken over, it
tells and writes nothing more of them, and it comes back when the network does. What was on its way arrives then, late."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio
from cell_of_nodes import PATIENCE_SECONDS, Node, under_load

from participant_sdk.client import Client, call
from participant_sdk.testing.proxy import FaultProxy
from tests.secured_postgres import HOST, SecuredPostgres, write_passwords
from troth.log.postgres_cell import init_cell
from troth.log.postgres_store import status
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2

SHARDS = 4
ASKED_SECONDS = 1.0
"""How long the node that is cut off is asked for what it must not tell. It can only miss an error, never invent one."""


async def shards_of(dsn: str, owner: str) -> dict[str, int]:
    """A node's shards and their epochs, as the store says."""
    return {log.name: log.epoch for log in await status(dsn) if log.owner == owner}


async def committed_at(client: Client, shards: dict[str, int]) -> str:
    """Commit until one of these shards has done it; returns the transaction's id."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            action = f"probe/{time.monotonic_ns()}"
            both = (call("north", "put", action=action), call("south", "put", action=action))
            done = await client.run(*both, key=action, timeout=60, wait="complete", attempts=20)
            if done.transaction_id.split(".")[0] in shards:
                return done.transaction_id


async def outcome_at(node: Node, transaction_id: str) -> int | None:
    """What a node tells of a transaction, or None when it says nothing."""
    async with grpc.aio.insecure_channel(node.address) as channel:
        stub = client_pb2_grpc.TransactionServiceStub(channel)
        try:
            got = await stub.Get(client_pb2.GetRequest(transaction_id=transaction_id), timeout=ASKED_SECONDS)
        except grpc.aio.AioRpcError:
            return None
        return got.answer.outcome


async def test_a_node_that_is_cut_off_loses_its_shards_says_nothing_of_them_and_comes_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(SecuredPostgres())
        server.make_database("cell")
        passwords = write_passwords(tmp_path / "passwords")
        dsn = server.secured("cell", passfile=passwords)
        await init_cell(dsn, "c1", SHARDS)
        line = await stack.enter_async_context(FaultProxy(f"{HOST}:{server.port}"))
        port = line.address.rpartition(":")[2]
        nodes = [Node(dsn), Node(server.secured("cell", passfile=passwords, port=port))]
        for node in nodes:
            stack.push_async_callback(node.close)
        for node in nodes:
            await node.start()
        near, far = nodes
        await far.says("2 of 4 shards")
        load = await under_load(stack, tmp_path, nodes)
        before = await shards_of(dsn, far.address)
        assert before, "it has shards to lose"
        near.forget()
        line.cut()
        await near.says("4 of 4 shards")
        await load.goes_on()
        after = await shards_of(dsn, near.address)
        assert all(after[shard] > epoch for shard, epoch in before.items())
        known = await committed_at(load.client, before)
        assert await outcome_at(near, known) == common_pb2.OUTCOME_COMMITTED
        assert await outcome_at(far, known) in (None, common_pb2.OUTCOME_COMMITTED)
        far.forget()
        line.heal()
        await far.says("LOG_FENCED")
        await far.says("[1-3] of 4 shards")
        await load.goes_on()
        assert await outcome_at(far, known) == common_pb2.OUTCOME_COMMITTED
        await load.end()
        north, south = await load.done()
    assert not load.errors
    assert north == south
    assert {action: count for action, count in north.items() if not action.startswith("probe/")} == Counter(load.committed)
    assert set(north.values()) == {1}
