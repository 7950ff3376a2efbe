"""A database that is silent: it accepts, and never answers. A real server, all of whose processes are stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from participant_sdk.testing.servers import PrivateServer


@contextmanager
def silent(server: PrivateServer) -> Iterator[None]:
    """Its processes are stopped for the time of the block; each before its children are looked for, so that none is new."""
    stopped: list[int] = []
    _stop(server.pid, stopped)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def _stop(pid: int, stopped: list[int]) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in thread.read_text().split():
            _stop(int(child), stopped)
