"""The coordinator and three banks as processes; each bank, and the clients, reach the coordinator through a proxy of their own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from processes import ROOT, Process, ProcessFailed

from participant_sdk.testing.proxy import FaultProxy

BANKS = ("north", "south", "west")
COORDINATOR = "coordinator"
CLIENTS = "clients"
SERVICE = Path(__file__).with_name("bank_service.py")
SETTINGS = {
    "TROTH_RESEND_FIRST_SECONDS": "0.2",
    "TROTH_RESEND_CAP_SECONDS": "2",
    "TROTH_SESSION_LINGER_SECONDS": "1",
    "TROTH_SETTLE_ANSWER_SECONDS": "1",
    "TROTH_WATERMARK_INTERVAL_SECONDS": "0.2",
    "TROTH_KEEPALIVE_SECONDS": "1",
    "TROTH_KEEPALIVE_TIMEOUT_SECONDS": "1",
    "TROTH_HELLO_SECONDS": "2",
    "TROTH_DRAIN_SECONDS": "5",
    "TROTH_LOG_FORMAT": "console",
}
"""Short times, so that a few seconds are past every one of them."""
PAST_EVERY_TIMEOUT_SECONDS = 3.5
"""Longer than the timeouts of transactions here, and than all that SETTINGS and the banks' limits name."""


class BankCluster:
    """Use it as an async context manager; leaving it kills what still runs."""

    def __init__(self, directory: Path, banks: tuple[str, ...] = BANKS, settings: Mapping[str, str] = SETTINGS) -> None:
        self.directory = directory
        self._banks = banks
        self._stack = AsyncExitStack()
        self.proxies: dict[str, FaultProxy] = {}
        """By the name of the bank, and that of the clients."""
        command = [sys.executable, "-m", "coordinator.cli", "serve"]
        command += ["--data-directory", str(directory / COORDINATOR), "--listen", "{listen}"]
        self.processes = {COORDINATOR: Process(COORDINATOR, command, directory / COORDINATOR, _environment(settings))}

    async def __aenter__(self) -> BankCluster:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            if process.running:
                await process.ended()
        await self._stack.aclose()

    @property
    def coordinator(self) -> Process:
        """The coordinator."""
        return self.processes[COORDINATOR]

    @property
    def banks(self) -> dict[str, Process]:
        """The banks by name."""
        return {name: self.processes[name] for name in self._banks}

    @property
    def clients_address(self) -> str:
        """Where clients reach the coordinator."""
        return self.proxies[CLIENTS].address

    async def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not await self.coordinator.start():
            raise ProcessFailed("the coordinator was killed before it had started")
        for name in (*self._banks, CLIENTS):
            proxy = FaultProxy(self.coordinator.address)
            self.proxies[name] = await self._stack.enter_async_context(proxy)
        for name in self._banks:
            environment = _environment(
                {
                    "BANK_NAME": name,
                    "SHOP_DIRECTORY": str(self.directory / name),
                    "SHOP_COORDINATOR": self.proxies[name].address,
                    "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "examples" / "shop"))),
                }
            )
            self.processes[name] = Process(name, [sys.executable, str(SERVICE)], self.directory / name, environment)
        await asyncio.gather(*(process.start() for process in self.banks.values()))

    async def stop(self) -> None:
        """Stop everything in order: the banks first, since they have more to say. Raises `ProcessFailed`."""
        await asyncio.gather(*(process.stop() for process in self.banks.values()))
        await self.coordinator.stop()


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TROTH_", "SHOP_", "BANK_"))}
    # What gRPC says about connections that are broken on purpose is of no interest.
    return {**kept, "PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "NONE", **more}
