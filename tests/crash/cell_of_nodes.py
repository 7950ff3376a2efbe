"""Nodes of a cell as processes, services that note what they have done, and callers who note what they were told."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from participant_sdk import Participant, SqliteResource
from participant_sdk.client import Client, call

ROOT = Path(__file__).resolve().parents[2]
CALLERS = 12
PATIENCE_SECONDS = 90.0
SCHEMA = "CREATE TABLE done (number INTEGER PRIMARY KEY NOT NULL, action TEXT NOT NULL)"


class Node:
    """One `troth serve --store`, at an address that it keeps. `program` is what runs it."""

    def __init__(
        self, dsn: str, hearing_seconds: int = 10, *settings: str, program: Sequence[str] = ("-m", "coordinator.cli")
    ) -> None:
        self._dsn = dsn
        self._program = program
        named = (*settings, f"hearing_seconds={hearing_seconds}")
        if not any(one.startswith("lease_seconds=") for one in settings):
            named = (*named, "lease_seconds=1")
        self._settings = [word for one in named for word in ("--set", one)]
        self._listen = "127.0.0.1:0"
        self.process: asyncio.subprocess.Process | None = None
        self._said = ""
        self._heard = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self.address = ""

    async def start(self) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
        self._said = ""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *self._program, "serve", "--store", self._dsn, "--listen", self._listen,
            *self._settings,
            stderr=asyncio.subprocess.PIPE, env={**clean, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())
        self.address = self._listen = (await self.says(r"(?:serving|standing by) on (127[.\d]+:\d+)"))[1]

    async def _read(self) -> None:
        assert self.process is not None and self.process.stderr is not None
        async for line in self.process.stderr:
            self._said += line.decode()
            self._heard.set()

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until it has said something since it began, or since the last time that it was asked."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (found := re.search(pattern, self._said)) is None:
                self._heard.clear()
                await self._heard.wait()
        self._said = self._said[found.end() :]
        return found

    def forget(self) -> None:
        """Ask only about what it says from now on."""
        self._said = ""

    async def end(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        await self.process.wait()

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            await self.end(signal.SIGKILL)
        if self._reading is not None:
            await self._reading


class Load:
    """Callers that run one action after the other at two services, half of them under a key, and note what they were told."""

    def __init__(self, client: Client, services: Sequence[Participant]) -> None:
        self.client = client
        self._services = services
        self._callers: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()
        self.committed: list[str] = []
        self.errors: list[str] = []
        self._progress = asyncio.Event()

    async def begin(self) -> None:
        """Let them work; returns when some actions have committed."""
        self._callers = [asyncio.create_task(self._caller(number)) for number in range(CALLERS)]
        await self.goes_on()

    async def end(self) -> None:
        """Let them come to their ends."""
        self._over.set()
        await asyncio.gather(*self._callers)

    async def done(self) -> Sequence[Counter[str]]:
        """What each service has done."""
        return [await done_at(service) for service in self._services]

    async def _caller(self, number: int) -> None:
        turn = 0
        while not self._over.is_set():
            action = f"{number}/{turn}"
            key = action if number % 2 else None
            try:
                await self.client.run(
                    call("north", "put", action=action), call("south", "put", action=action), key=key, timeout=60, wait="complete",
                    attempts=20,
                )  # fmt: skip
                self.committed.append(action)
                self._progress.set()
            except Exception as error:
                self.errors.append(f"{action}: {error!r}")
            turn += 1

    async def goes_on(self) -> None:
        """Wait until some more actions have committed."""
        until = len(self.committed) + 3 * CALLERS
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.committed) < until:
                self._progress.clear()
                await self._progress.wait()


async def under_load(stack: AsyncExitStack, directory: Path, nodes: Sequence[Node]) -> Load:
    """Services, a client, and callers at work, at nodes that have begun; all for as long as the stack is."""
    addresses = ",".join(node.address for node in nodes)
    services = [await stack.enter_async_context(participant(name, directory, addresses)) for name in ("north", "south")]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(service.wait_connected() for service in services))
    load = Load(await stack.enter_async_context(Client(addresses)), services)
    await load.begin()
    return load


def participant(name: str, directory: Path, nodes: str) -> Participant:
    """A service that notes each action that it has done."""
    made = Participant(
        name, resource=SqliteResource(directory / f"{name}.db", schema=SCHEMA), data_directory=directory / name, coordinator=nodes
    )

    @made.operation(locks=lambda action: [f"action/{action}"])
    def put(db: Any, *, action: str) -> None:
        db.execute("INSERT INTO done (action) VALUES (?)", (action,))

    return made


async def done_at(service: Participant) -> Counter[str]:
    rows = await service.read(lambda db: [row[0] for row in db.execute("SELECT action FROM done")])
    return Counter(rows)
