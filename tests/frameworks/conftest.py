"""A daemon, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from services import Services, services_at_work

from coordinator.config import load
from coordinator.server import Daemon, make_daemon
from participant_sdk.client import Client
from troth import logs


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Expected failures say nothing."""
    with logs.quiet():
        yield


@pytest_asyncio.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A coordinator."""
    settings = {"data_directory": str(tmp_path / "c1"), "listen": "127.0.0.1:0"}
    daemon = make_daemon(load(flags=settings, environment={}).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


@pytest_asyncio.fixture
async def client(daemon: Daemon) -> AsyncIterator[Client]:
    """A client of it."""
    async with Client(daemon.address) as client:
        yield client


@pytest_asyncio.fixture
async def services(daemon: Daemon, client: Client, tmp_path: Path) -> AsyncIterator[Services]:
    """Services that are called."""
    async with services_at_work(daemon, client, tmp_path) as services:
        yield services
