"""Commands that ask a coordinator of an earlier version: it passes over what it does not know of an order, and does another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from coordinator.cli.calling import Remote, opened
from coordinator.cli.failure import Failure
from coordinator.server import Daemon
from troth import features
from troth.v1 import admin_pb2, admin_pb2_grpc

ABSENT = "c1.1.0badcafe.3.4"


class Older(admin_pb2_grpc.AdminServiceServicer):
    """Has no word for features, takes every order, and does it at once."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.address = ""
        self.features: list[admin_pb2.FeatureStatus] = []

    async def GetStatus(self, request: admin_pb2.GetStatusRequest, context: Any) -> admin_pb2.GetStatusResponse:
        """As it told it then."""
        return admin_pb2.GetStatusResponse(coordinator="c1", version="0.1.0", caller="ada", features=self.features)

    async def AcceptLoss(self, request: admin_pb2.AcceptLossRequest, context: Any) -> admin_pb2.AcceptLossResponse:
        """Of the coordinator's log: it knows of no other."""
        self.done.append(request)
        return admin_pb2.AcceptLossResponse()

    async def Resolve(self, request: admin_pb2.ResolveRequest, context: Any) -> admin_pb2.ResolveResponse:
        """At once: it lets nothing wait that its settings do not let wait."""
        self.done.append(request)
        return admin_pb2.ResolveResponse()


@pytest_asyncio.fixture
async def older() -> AsyncIterator[Older]:
    """Such a coordinator, that listens."""
    older, server = Older(), grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    admin_pb2_grpc.add_AdminServiceServicer_to_server(older, server)
    older.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield older
    await server.stop(None)


async def test_an_order_that_it_would_take_for_another_one_is_not_given(troth: Any, older: Older) -> None:
    at = ("--why", "a test", "--yes", "--coordinator", older.address)
    refused = await troth("participants", "accept-loss", "payments", *at)
    assert refused.code == 1 and "VERSION_MISMATCH" in refused.err and features.PARTICIPANT_LOSSES in refused.err
    assert not older.done, "it would have gone on without what its own log has lost"
    assert (await troth("participants", "accept-loss", *at)).code == 0
    assert len(older.done) == 1, "what it understands is asked"


async def test_an_order_that_needs_what_is_held_back_is_not_given(older: Older) -> None:
    """Other nodes of its cell may be older."""
    older.features = [admin_pb2.FeatureStatus(name=features.REVIEWS, held_back=True)]
    with pytest.raises(Failure, match="reviews"):
        await ordered(older.address)
    older.features[0].held_back = False
    await ordered(older.address)
    assert len(older.done) == 1


async def test_a_call_that_it_does_not_know_is_told_as_that(troth: Any, older: Older) -> None:
    ran = await troth("participants", "affected", "payments", "--coordinator", older.address)
    assert (ran.code, ran.err.partition(":")[2].partition(":")[0].strip()) == (1, "VERSION_MISMATCH")
    assert "is of an earlier version, and does not know this call" in ran.err


async def test_what_was_to_wait_for_a_second_person_is_not_ordered(older: Older) -> None:
    """As `troth reconcile --apply` orders it."""
    with pytest.raises(Failure, match="reviews") as caught:
        await ordered(older.address)
    assert caught.value.reason == "VERSION_MISMATCH" and not older.done


async def test_one_of_this_version_is_given_it(daemon: Daemon) -> None:
    with pytest.raises(Failure) as caught:
        await ordered(daemon.address)
    assert caught.value.reason == "UNKNOWN_TRANSACTION"


async def ordered(address: str) -> Any:
    """Order what a second person has to approve."""
    order = admin_pb2.ResolveRequest(
        transaction_id=ABSENT, action=admin_pb2.RESOLVE_ACTION_ABORT, who="ada", why="a test", review=True
    )

    def ask() -> Any:
        with opened(address, 10.0) as remote:
            asked: Remote = remote
            return asked.call(asked.admin.Resolve, order)

    return await asyncio.to_thread(ask)
