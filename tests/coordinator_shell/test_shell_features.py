"""Features: a stream has those that both sides have, and an operator can hold one back until every node is upgraded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from shell_harness import FakeParticipant, hello
from test_shell_cell import client_hello
from test_shell_streams import FakeClient

from coordinator.server import Daemon
from troth import features
from troth.v1 import admin_pb2, admin_pb2_grpc

LOG_ID = "ab" * 16


def hold_back(daemon: Daemon, names: str) -> None:
    """As a reload does."""
    daemon._use_everywhere(replace(daemon.config, shell=replace(daemon.config.shell, features_held_back=names)))


async def agreed(channel: grpc.aio.Channel, *offered: str, name: str = "payments") -> list[str]:
    """What Welcome tells a participant that offers these."""
    person, said = FakeParticipant(channel), hello(name)
    said.capabilities.extend(offered)
    person.send(hello=said, reports_complete=True)
    return list((await person.read_until("welcome")).welcome.capabilities)


async def test_welcome_tells_what_both_have(channel: grpc.aio.Channel) -> None:
    assert await agreed(channel, "directory", "of tomorrow", features.CALLERS) == [features.CALLERS]
    assert await agreed(channel, name="older") == []


async def test_what_is_held_back_is_not_agreed_from_the_next_stream_on(daemon: Daemon, channel: grpc.aio.Channel) -> None:
    assert await agreed(channel, features.CALLERS, name="first") == [features.CALLERS]
    hold_back(daemon, features.ALL)
    assert await agreed(channel, features.CALLERS, name="second") == []
    hold_back(daemon, "")
    assert await agreed(channel, features.CALLERS, name="third") == [features.CALLERS]


async def test_a_client_is_told_none_that_are_not_its(channel: grpc.aio.Channel) -> None:
    client, said = FakeClient(channel), client_hello()
    said.capabilities.append("of tomorrow")
    client.send(hello=said)
    assert not (await client.read_until("welcome")).welcome.capabilities


@pytest.mark.parametrize(("held", "told"), [("", [features.KEY_RESULTS]), (features.KEY_RESULTS, [])])
async def test_a_client_is_told_whether_results_are_kept(
    daemon: Daemon, channel: grpc.aio.Channel, held: str, told: list[str]
) -> None:
    hold_back(daemon, held)
    client, said = FakeClient(channel), client_hello()
    said.capabilities.append(features.KEY_RESULTS)
    client.send(hello=said)
    assert list((await client.read_until("welcome")).welcome.capabilities) == told


async def test_an_order_that_needs_what_is_held_back_is_refused(daemon: Daemon, channel: grpc.aio.Channel) -> None:
    """Whatever it would have come to: who asks a node that passes it on is answered as who asks this one."""
    admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
    request = admin_pb2.AcceptLossRequest(participant="payments", who="ada", why="a test")
    hold_back(daemon, features.PARTICIPANT_LOSSES)
    with pytest.raises(grpc.aio.AioRpcError, match="VERSION_MISMATCH: this needs the feature participant_losses"):
        await admin.AcceptLoss(request)
    hold_back(daemon, "")
    assert (await admin.AcceptLoss(request)).refusal.reason == "UNKNOWN_PARTICIPANT"


async def test_an_order_that_would_write_a_new_record_is_refused_while_that_is_held_back(
    daemon: Daemon, channel: grpc.aio.Channel
) -> None:
    admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
    await FakeParticipant(channel).greet("payments")
    request = admin_pb2.ReplaceParticipantRequest(participant="payments", log_id=LOG_ID, who="ada", why="a test")
    reviews: Any = daemon.admin._reviews
    needed: Callable[[Any], bool] = lambda order: True  # noqa: E731 - as the setting `reviews` would have it
    reviews.needed = needed
    hold_back(daemon, features.REVIEWS)
    with pytest.raises(grpc.aio.AioRpcError, match="features_held_back"):
        await admin.ReplaceParticipant(request)
    assert not (await admin.ListReviews(admin_pb2.ListReviewsRequest())).reviews
    told = {one.name: one.held_back for one in (await admin.GetStatus(admin_pb2.GetStatusRequest())).features}
    assert told == {name: name == features.REVIEWS for name in features.NAMES}
    hold_back(daemon, "")
    assert (await admin.ReplaceParticipant(request)).refusal.reason == "AWAITS_APPROVAL"
    assert len((await admin.ListReviews(admin_pb2.ListReviewsRequest())).reviews) == 1
