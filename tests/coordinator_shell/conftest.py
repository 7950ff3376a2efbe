"""Fixtures: a daemon on the real core, and a channel to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest_asyncio
from shell_harness import ScriptedCore, make_config, scripted_daemon

from coordinator.server import Daemon, make_daemon


@pytest_asyncio.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """The real thing, on a free port."""
    daemon = make_daemon(make_config(tmp_path / "c1"))
    await daemon.start()
    yield daemon
    await daemon.stop()


@pytest_asyncio.fixture
async def channel(daemon: Daemon) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the daemon."""
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield channel


Scripted = Callable[..., Awaitable[grpc.aio.Channel]]


@pytest_asyncio.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Scripted]:
    """Starts a daemon on a scripted core and gives a channel to it."""
    started: list[tuple[Daemon, grpc.aio.Channel]] = []

    async def start(core: ScriptedCore, **settings: Any) -> grpc.aio.Channel:
        daemon = scripted_daemon(make_config(tmp_path / "scripted", **settings), core)
        await daemon.start()
        channel = grpc.aio.insecure_channel(daemon.address)
        started.append((daemon, channel))
        return channel

    yield start
    for daemon, channel in started:
        await channel.close()
        await daemon.stop()
