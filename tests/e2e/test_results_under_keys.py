"""A function under a key, whose coordinator is killed when it has committed: whoever calls it again is given what it returned."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf import wrappers_pb2
from processes import Cluster
from test_next_transaction import make, served

from participant_sdk.client import AlreadyCommitted, Client, OutcomeUnknown, transactional

PUT = ("/Stock/Put", wrappers_pb2.StringValue.SerializeToString, wrappers_pb2.StringValue.FromString)


@pytest.mark.parametrize("services", [0, 1, 2])
async def test_the_value_of_then_outlives_a_killed_coordinator(shop: Cluster, tmp_path: Path, services: int) -> None:
    """Of no service there is nothing that could have changed; one decides by itself; two are decided for."""
    address = shop.coordinator.address
    stocks = [make(f"stock-{number}", tmp_path, address) for number in range(services)]
    async with Client(address) as client:
        for stock in stocks:
            await stock.__aenter__()
            await stock.wait_connected()
        try:
            await _placed_twice(shop, client, stocks)
        finally:
            for stock in stocks:
                await stock.__aexit__(None, None, None)


async def _placed_twice(shop: Cluster, client: Client, stocks: list[Any]) -> None:
    ran: list[str] = []

    async def place(order: str, *, price: int = 5) -> dict[str, Any]:
        ran.append(order)
        for stock in stocks:
            async with (
                served(stock) as place_of,
                grpc.aio.insecure_channel(place_of, interceptors=client.interceptors()) as channel,
            ):
                await channel.unary_unary(*PUT)(wrappers_pb2.StringValue(value=order))
        return {"order": order, "price": price, "note": None}

    keyed = transactional(client, key=lambda order, price=5: f"order-{order}", timeout=30.0)(place)
    first = await keyed("o1")
    shop.coordinator.kill()
    await shop.coordinator.ended()
    await shop.coordinator.start()
    assert await _once_known(lambda: keyed("o1")) == first == {"order": "o1", "price": 5, "note": None}
    with pytest.raises(AlreadyCommitted) as caught:
        await keyed("o1", price=6)
    assert caught.value.result == first and ran == ["o1"]
    for stock in stocks:
        assert await stock.read(lambda db: db.execute("SELECT count FROM stock WHERE item = 'o1'")) == [(1,)]


async def _once_known(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Its answer. Of what one service decides by itself nobody knows before that one has said Hello to the coordinator that began
    again: until then the key is told to be in doubt."""
    for _ in range(600):
        with suppress(OutcomeUnknown):
            return await ask()
        await asyncio.sleep(0.05)
    raise AssertionError("its outcome is not known after half a minute")
