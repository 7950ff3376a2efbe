"""Processes that are measured: started in a directory of their own, found by their address file, stopped by their pid."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
LOOK_SECONDS = 0.01
"""How often a starting process is looked at."""
FORKS = "GRPC_ENABLE_FORK_SUPPORT"
"""Off in the load generator alone: it starts processes while its channels are busy, and gRPC's handlers sometimes crash the child
before it is another program. What is measured has gRPC's default."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class ProcessFailed(Exception):
    """A process ended by itself or did not become ready; the text has its last words."""


class Process:
    """`python -m MODULE ARGUMENTS --directory DIRECTORY`, or another program; it writes where it listens to DIRECTORY/address."""

    def __init__(self, name: str, directory: Path, command: list[str], program: str = sys.executable) -> None:
        self.name = name
        self.directory = directory
        self.address = ""
        self._command = [program, *command]
        self._process: asyncio.subprocess.Process | None = None
        self._log = directory.with_suffix(".log")

    async def start(self) -> None:
        """Start it and wait until it serves. Raises `ProcessFailed`."""
        await self.spawn()
        await self.ready()

    async def spawn(self) -> None:
        """Start it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "address").unlink(missing_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_") and name != FORKS}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, cwd=ROOT, env=kept, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    async def ready(self) -> None:
        """Wait until it serves."""
        file = self.directory / "address"
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not file.exists():
                    if self._process is None or self._process.returncode is not None:
                        code = self._process.returncode if self._process is not None else None
                        raise ProcessFailed(f"{self.name} ended with {code}{self._last_words()}")
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise ProcessFailed(f"{self.name} was not ready after {READY_SECONDS:.0f} s{self._last_words()}") from None
        self.address = file.read_text().strip()

    async def stop(self) -> None:
        """Stop it with SIGTERM, and with SIGKILL when that takes too long."""
        await self.end(signal.SIGTERM)

    async def end(self, number: signal.Signals) -> None:
        """Send a signal that ends it, and wait."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(number)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal that does not end it."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.returncode is None

    def said(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _last_words(self) -> str:
        lines = self.said().splitlines()[-15:]
        return "; its last words:\n    " + "\n    ".join(lines) if lines else ""


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all its threads so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def memory_kib(pid: int, field: str = "VmHWM") -> int:
    """Peak (`VmHWM`) or present (`VmRSS`) resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0


def write_address(directory: Path, address: str) -> None:
    """Tell the benchmark where this process listens."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / "address.new"
    temporary.write_text(address)
    temporary.rename(directory / "address")


class Together(ABC):
    """Processes that run together: when one does not start, or at the end, all of them are stopped. An async context manager."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @abstractmethod
    async def _start(self) -> None:
        """Start them, each with its stop on the stack."""
