"""A daemon, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from coordinator.config import load
from coordinator.server import make_daemon
from participant_sdk.client import Client
from troth import logs


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Expected failures say nothing."""
    with logs.quiet():
        yield


@pytest_asyncio.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[str]:
    """A daemon's address."""
    settings = {"data_directory": str(tmp_path / "c1"), "listen": "127.0.0.1:0"}
    daemon = make_daemon(load(flags=settings, environment={}).config)
    await daemon.start()
    yield daemon.address
    await daemon.stop()


@pytest_asyncio.fixture
async def client(coordinator: str) -> AsyncIterator[Client]:
    """A client of it."""
    async with Client(coordinator) as client:
        yield client
