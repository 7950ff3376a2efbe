"""Fixtures: a daemon on the real core, and a channel to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from shell_harness import ScriptedCore, make_config, nothing_left, scripted_daemon

from coordinator.server import Daemon, make_daemon
from tests.given_back import no_task_and_no_timer_is_left as no_task_and_no_timer_is_left
from tests.given_back import no_thread_and_no_descriptor_is_left as no_thread_and_no_descriptor_is_left


@pytest_asyncio.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """The real thing, on a free port."""
    daemon = make_daemon(make_config(tmp_path / "c1"))
    await daemon.start()
    yield daemon
    await nothing_left(daemon)
    await daemon.stop()


@pytest_asyncio.fixture
async def channel(daemon: Daemon) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the daemon."""
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield channel


Scripted = Callable[..., Awaitable[grpc.aio.Channel]]
Daemons = Callable[..., Awaitable[tuple[Daemon, grpc.aio.Channel]]]


@pytest_asyncio.fixture
async def daemons(tmp_path: Path) -> AsyncIterator[Daemons]:
    """Starts a daemon on a scripted core, and gives it with a channel to it."""
    started: list[tuple[Daemon, grpc.aio.Channel]] = []

    async def start(core: ScriptedCore, **settings: Any) -> tuple[Daemon, grpc.aio.Channel]:
        daemon = scripted_daemon(make_config(tmp_path / "scripted", **settings), core)
        await daemon.start()
        channel = grpc.aio.insecure_channel(daemon.address)
        started.append((daemon, channel))
        return daemon, channel

    yield start
    for daemon, channel in started:
        await channel.close()
        await nothing_left(daemon)
        await daemon.stop()


@pytest.fixture
def scripted(daemons: Daemons) -> Scripted:
    """Starts a daemon on a scripted core, and gives a channel to it."""

    async def start(core: ScriptedCore, **settings: Any) -> grpc.aio.Channel:
        return (await daemons(core, **settings))[1]

    return start
