"""The audit logs of two nodes, of which one is killed: together they tell the way of an order that moved with its shard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from cell_of_nodes import PATIENCE_SECONDS, Node

from coordinator.cli.main import run
from coordinator.identity import audit_keys
from participant_sdk.testing.postgres import PostgresServer
from troth.log.postgres_cell import init_cell
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc


def node(dsn: str, root: Path, named: str) -> Node:
    """A node with an audit log of its own; `named` is where it is, and its name but for one that goes by its address."""
    settings = [f"audit_directory={root / named}", f"audit_key={root / 'audit.key'}", f"data_directory={root / named}-data"]
    return Node(dsn, 1, *settings, *([f"node={named}"] if named != "nameless" else []))


async def order(address: str, transaction_id: str) -> str:
    """Order that it is aborted, once a second person has approved it; returns why it is not done at once."""
    request = admin_pb2.ResolveRequest(
        transaction_id=transaction_id, action=admin_pb2.RESOLVE_ACTION_ABORT, who="ann", why="told by phone", review=True
    )  # fmt: skip
    async with grpc.aio.insecure_channel(address) as channel:
        return str((await admin_pb2_grpc.AdminServiceStub(channel).Resolve(request)).refusal.reason)


async def reject(address: str) -> str:
    """Reject the order that waits, as soon as the node knows of it; returns its id."""
    async with asyncio.timeout(PATIENCE_SECONDS), grpc.aio.insecure_channel(address) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        rows: Sequence[admin_pb2.ReviewSummary] = ()
        while not rows:
            with contextlib.suppress(grpc.aio.AioRpcError):  # until the shard is here nobody can tell
                rows = (await admin.ListReviews(admin_pb2.ListReviewsRequest())).reviews
            await asyncio.sleep(0.1)
        await admin.DecideReview(admin_pb2.DecideReviewRequest(review=rows[0].review, approve=False, why="he hung up"))
        return str(rows[0].review)


async def test_an_order_that_was_given_to_a_node_that_died_is_decided_at_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    audit_keys.make(tmp_path / "audit.key")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(PostgresServer())
        await init_cell(server.dsn(), "c1", 1)
        a, other = node(server.dsn(), tmp_path, "a"), node(server.dsn(), tmp_path, "nameless")
        for one in (a, other):
            stack.push_async_callback(one.close)
        await a.start()
        await other.start()
        async with grpc.aio.insecure_channel(a.address) as channel:
            client = client_pb2_grpc.TransactionServiceStub(channel)
            begun = await client.Begin(client_pb2.BeginRequest(timeout_ms=600_000))
        # It comes by the node that has not the shard: who has it does it, and records it.
        assert await order(other.address, begun.transaction_id) == "AWAITS_APPROVAL"
        await a.end(signal.SIGKILL)
        review = await reject(other.address)
        await other.end(signal.SIGTERM)
    logs = ("--directory", f"a={tmp_path / 'a'}", "--directory", f"{other.address}={tmp_path / 'nameless'}")
    assert run(("audit", "show", *logs, "--about", begun.transaction_id, "--json")) == 0
    told = json.loads(capsys.readouterr().out)["entries"]
    assert [(one["node"], one["kind"], one["order"], one["review"]) for one in told] == [
        ("a", "asked", "ABORT", review), (other.address, "asked", "rejected", review)
    ]  # fmt: skip
    assert run(("audit", "verify", *logs, "--key", str(tmp_path / "audit.key.pub"))) == 0
    assert run(("audit", "verify", "--directory", f"b={tmp_path / 'a'}", *logs[2:])) == 1, "it is of a, and says so"
