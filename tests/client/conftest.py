"""Fixtures: a fake coordinator, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from fake_coordinator import FakeCoordinator

from participant_sdk.client import Client


@pytest_asyncio.fixture
async def coordinator() -> AsyncIterator[FakeCoordinator]:
    """A coordinator that answers from a script."""
    fake = FakeCoordinator()
    await fake.start()
    yield fake
    await fake.stop()


@pytest_asyncio.fixture
async def client(coordinator: FakeCoordinator) -> AsyncIterator[Client]:
    """A client that is connected to it, and does not wait long at its end."""
    async with Client(coordinator.address, grace_seconds=0.2) as client:
        yield client
        coordinator.drop()
