"""Early votes over HTTP with servers that are processes, killed between the vote and its answer, and after it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from hops import fastapi_hop
from services import messages
from web import bank_at_work, on_uvicorn, total

from coordinator.server import Daemon
from participant_sdk.client import Aborted, Client

HERE = Path(__file__).parent
SECONDS = 60.0
SERVERS = {
    "fastapi": ("uvicorn", "--factory", "--log-level", "error", "served:fastapi_app"),
    "flask": ("gunicorn", "--workers", "1", "--log-level", "error", "served:flask_app()"),
    "django-wsgi": ("gunicorn", "--workers", "1", "--threads", "2", "--log-level", "error", "served:django_wsgi()"),
    "django-asgi": ("uvicorn", "--factory", "--log-level", "error", "--lifespan", "off", "served:django_asgi"),
}


@dataclass
class Served:
    """A service under a server, on a socket that stays when it is killed."""

    command: tuple[str, ...]
    environment: dict[str, str]
    listener: socket.socket
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    async def start(self) -> None:
        """Begin, or begin again: gunicorn does that with its worker by itself."""
        number = self.listener.fileno()
        where = ("--fd", str(number)) if self.command[0] == "uvicorn" else ("--bind", f"fd://{number}")
        command = (sys.executable, "-m", self.command[0], *where, *self.command[1:])
        self.processes.append(await asyncio.create_subprocess_exec(*command, env=self.environment, cwd=HERE, pass_fds=(number,)))

    async def restart(self) -> None:
        """What was killed runs again."""
        if self.command[0] == "uvicorn":
            await self.processes[-1].wait()
            await self.start()

    async def state(self) -> dict[str, Any]:
        """What it knows, once it answers."""
        async with httpx.AsyncClient(timeout=SECONDS, trust_env=False) as http:
            return dict((await http.get(self.url + "/state")).raise_for_status().json())

    async def stop(self) -> None:
        """End what still runs."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


@contextlib.asynccontextmanager
async def served(name: str, daemon: Daemon, directory: Path) -> AsyncIterator[Served]:
    root = str(HERE.parents[1])
    told = {"DIRECTORY": str(directory), "TROTH_COORDINATOR": daemon.address, "PYTHONPATH": f"{root}{os.pathsep}{HERE}"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        service = Served(SERVERS[name], {**os.environ, **told}, listener)
        try:
            await service.start()
            yield service
        finally:
            await service.stop()


@pytest.mark.parametrize("name", SERVERS)
async def test_what_voted_stands_and_what_nobody_heard_of_does_not(
    name: str, daemon: Daemon, client: Client, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        other = await stack.enter_async_context(bank_at_work("other", tmp_path, daemon.address))
        beside = await stack.enter_async_context(on_uvicorn(fastapi_hop(other)))
        service = await stack.enter_async_context(served(name, daemon, tmp_path))
        http = await stack.enter_async_context(client.carry(httpx.AsyncClient(timeout=SECONDS, trust_env=False)))
        await service.state()

        async def both(**headers: str) -> None:
            (await http.post(beside + "/do", json={})).raise_for_status()
            (await http.post(service.url + "/do", headers=headers)).raise_for_status()

        async with client.transaction(one_call_each=True):
            await both()
        assert messages(daemon).total() == 0, "nobody was asked"
        assert (await service.state())["total"] == 1

        with pytest.raises(httpx.HTTPError):
            async with client.transaction(one_call_each=True):
                await both(dies="1")
        await service.restart()
        state = await service.state()
        assert (state["total"], state["in_doubt"], await total(other)) == (1, 0, 1), "rolled back, since nobody named it"

        async with client.transaction(one_call_each=True, timeout=SECONDS):
            await both()
            os.kill(state["pid"], signal.SIGKILL)
        await service.restart()
        state = await service.state()
        assert (state["total"], state["in_doubt"], await total(other)) == (2, 0, 2), "its vote stands"
        assert messages(daemon).total() == 0, "and still nobody was asked"

        with pytest.raises(Aborted):
            async with client.transaction(one_call_each=True):
                with pytest.raises(httpx.HTTPError):
                    await both(dies="1")
        await service.restart()
        assert ((await service.state())["total"], await total(other)) == (2, 2), "without the answer there is no commit"

