"""Fixtures: a fake coordinator, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from fake_coordinator import FakeCoordinator

from participant_sdk.client import Client
from tests.given_back import no_task_and_no_timer_is_left as no_task_and_no_timer_is_left
from tests.given_back import no_thread_and_no_descriptor_is_left as no_thread_and_no_descriptor_is_left
from troth.backoff import Backoff


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


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said again, and nothing by itself, because a machine is slow: tests count what is said."""
    monkeypatch.setattr("participant_sdk.client.session.RESEND", Backoff(600.0, 600.0))
    monkeypatch.setattr("participant_sdk.client.session.WATERMARK_SECONDS", 600.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect and ask again without long waits."""
    monkeypatch.setattr("participant_sdk.client.connection.REDIAL", Backoff(0.001, 0.01))
    monkeypatch.setattr("participant_sdk.client.client.ASK_AGAIN", Backoff(0.001, 0.01))
