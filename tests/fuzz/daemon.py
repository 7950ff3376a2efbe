"""A real `troth serve` of a test: a process of its own, on a free port, with a directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30


def environment() -> dict[str, str]:
    """This process's, without settings of Troth."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
    return {**clean, "PYTHONPATH": str(ROOT), "TROTH_LOG_FORMAT": "console"}


class Daemon:
    """One `troth serve`; ended with the `with` block."""

    def __init__(self, directory: Path, *arguments: str, python: tuple[str, ...] = ()) -> None:
        self._directory = directory
        flags = ("--data-directory", str(directory), "--listen", "127.0.0.1:0", *arguments)
        command = [sys.executable, *python, "-m", "coordinator.cli", "serve", *flags]
        self._said = directory.parent / f"{directory.name}.stderr"
        with self._said.open("w") as said:
            self.process = subprocess.Popen(command, stderr=said, stdout=subprocess.DEVNULL, env=environment())
        self.address = ""

    def __enter__(self) -> Self:
        while "troth: serving on" not in self.said():
            try:
                code = self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"exit {code}: {self.said()}")
        self.address = (self._directory / "address").read_text().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def refused(self) -> int:
        """Wait for the end of one that does not start; its exit code."""
        return self.process.wait(SECONDS)

    def said(self) -> str:
        """What it has said on stderr."""
        return self._said.read_text()

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def rss_bytes(self) -> int:
        """The memory that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024
