"""A client belongs to one process and one event loop, and leaves nothing of gRPC behind."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import grpc.aio
import pytest
from fake_coordinator import FakeCoordinator

from participant_sdk.client import Client, call
from troth import forks
from troth.errors import Aborted, ConfigError, RequestError

DEBIT = call("payments", "debit", account="a", amount=5)


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "away"])
async def test_a_closed_client_leaves_no_channel(
    connected: bool, coordinator: FakeCoordinator, without_collector: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC's threads live as long as a channel does, and who forks beside them loses the child."""
    channels: list[weakref.ref[Any]] = []
    real = grpc.aio.insecure_channel

    def insecure_channel(*arguments: Any, **options: Any) -> Any:
        channel = real(*arguments, **options)
        channels.append(weakref.ref(channel))
        return channel

    monkeypatch.setattr(grpc.aio, "insecure_channel", insecure_channel)
    async with Client(coordinator.address if connected else "127.0.0.1:1") as client:
        if connected:
            await client.run(DEBIT)
        else:
            with pytest.raises(Aborted):
                await client.run(DEBIT, timeout=0.1)
    await asyncio.sleep(0)
    assert [channel() for channel in channels] == [None]


async def test_another_loop_is_told_so(client: Client) -> None:
    await client.run(DEBIT)
    for work in (lambda: client.run(DEBIT), lambda: client.get("c1.1.00000000.1.1"), lambda: client.__aexit__(None, None, None)):
        with pytest.raises(RequestError, match="another event loop"):
            await asyncio.to_thread(lambda work=work: asyncio.run(work()))
    await client.run(DEBIT)


async def test_a_child_is_told_so_and_leaves_the_block_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await client.run(DEBIT)
    with monkeypatch.context() as patch:
        patch.setattr(forks, "_generation", forks.generation() + 1)
        with pytest.raises(RequestError, match="before the process was forked"):
            await client.run(DEBIT)
        await client.__aexit__(None, None, None)
    await client.run(DEBIT)


async def test_a_client_is_not_entered_where_grpc_cannot_work(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "_channels_inherited", True)
    with pytest.raises(ConfigError, match="spawn"):
        async with Client(coordinator.address):
            raise AssertionError("it was entered")
