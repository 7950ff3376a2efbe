"""A database that is silent: it accepts, and never answers. A real server, all of whose processes are stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from participant_sdk.testing.servers import PrivateServer


@contextmanager
def silent(server: PrivateServer) -> Iterator[None]:
    """Its processes are stopped for the time of the block; each before its children are looked for, so that none is new. A process
    has stopped when its last thread has, some time after the signal."""
    stopped: list[int] = []
    _stop(server.pid, stopped)
    try:
        yield
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):  # it had ended, and its parent was woken first
                os.kill(pid, signal.SIGCONT)


def _stop(pid: int, stopped: list[int]) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
    while any(_runs(thread) for thread in Path(f"/proc/{pid}/task").glob("*/stat")):
        time.sleep(0.001)
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in thread.read_text().split():
            _stop(int(child), stopped)


def _runs(thread: Path) -> bool:
    """Whether it may still do something: it is neither stopped nor ended (proc(5), the state behind the name)."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return thread.read_text().rpartition(")")[2].split()[0] not in "TtZX"
    return False
