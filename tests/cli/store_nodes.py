"""Nodes of a cell as processes, for tests of the command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120


class Node:
    """One `troth serve --store`, and what it has said so far."""

    def __init__(self, dsn: str, *arguments: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
        flags = ("--store", dsn, "--listen", "127.0.0.1:0", "--set", "lease_seconds=1", *arguments)
        self.running = subprocess.Popen(
            [sys.executable, "-m", "coordinator.cli", "serve", *flags],
            stderr=subprocess.PIPE, text=True, env={**clean, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.address = ""
        self.said = ""
        """All that was read of it."""

    def says(self, *patterns: str) -> None:
        """Read until each of these has matched a line, in any order. Fails when the process ends before."""
        assert self.running.stderr is not None
        wanted = set(patterns)
        impatient = threading.Timer(SECONDS, self.running.kill)
        impatient.start()
        try:
            for line in self.running.stderr:
                self.said += line
                listens = re.search(r"(?:serving|standing by) on (127[.\d]+:\d+)", line)
                self.address = listens[1] if listens else self.address
                wanted = {pattern for pattern in wanted if not re.search(pattern, line)}
                if not wanted:
                    return
        finally:
            impatient.cancel()
        raise AssertionError(f"it ended with {self.running.wait(SECONDS)} before it said {wanted}: {self.said}")

    def ends(self, number: signal.Signals | None = None) -> int:
        if number is not None:
            self.running.send_signal(number)
        self.said += self.running.communicate(timeout=SECONDS)[1]
        return self.running.returncode


@pytest.fixture
def node() -> Iterator[Callable[..., Node]]:
    """Starts nodes, and ends those that a test leaves behind."""
    nodes: list[Node] = []

    def start(*arguments: str) -> Node:
        nodes.append(Node(*arguments))
        return nodes[-1]

    yield start
    for one in nodes:
        if one.running.poll() is None:
            one.running.send_signal(signal.SIGCONT)
            one.running.kill()
        one.running.communicate()
