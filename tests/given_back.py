"""What a test must have given back when it is over: tasks, timers, threads, descriptors. For `conftest.py`:

    from tests.given_back import nothing_is_left as nothing_is_left

A leak harms no test, and ends a process after months. What may stay is listed, with the reason.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import grpc.aio
import pytest
import pytest_asyncio

from tests.patience import SECONDS as PATIENCE_SECONDS

_FAKE_PEERS = "_StreamRequestMixin._consume_request_iterator"
"""gRPC's task for the stream of a peer that a test plays: it waits for what the test says next, until the loop is closed. Product
code makes its streams by reading and writing, and has no such task."""

LIBRARIES_THREADS = ("asyncio_", "pydevd", "grpc")
"""Of executors that live as long as their loop, and gRPC's own, which live as long as the process."""


def _timers(loop: asyncio.AbstractEventLoop) -> list[str]:
    scheduled: list[asyncio.TimerHandle] = getattr(loop, "_scheduled", [])
    return [repr(handle) for handle in scheduled if not handle.cancelled()]


def _tasks() -> list[str]:
    tasks = (task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done())
    return [said for task in tasks if _FAKE_PEERS not in (said := repr(task))]


@pytest_asyncio.fixture(autouse=True)
async def no_task_and_no_timer_is_left() -> AsyncIterator[None]:
    """When all fixtures of the test have gone, its loop has nothing more to do."""
    yield
    loop, end = asyncio.get_running_loop(), time.monotonic() + PATIENCE_SECONDS
    while (_tasks() or _timers(loop)) and time.monotonic() < end:  # noqa: ASYNC110 - nothing signals it
        await asyncio.sleep(0.002)
    left = [*_tasks(), *_timers(loop)]
    assert not left, f"left behind: {left}"


_MAY_STAY = {"test_the_directory_of_another_coordinator_is_refused": Counter({"socket": 1})}
"""A daemon whose start is refused has taken its port already, and gRPC does not let go of the port of a server that never began;
its process ends."""


def _threads() -> Counter[str]:
    names = (thread.name for thread in threading.enumerate())
    return Counter(name for name in names if not name.startswith(LIBRARIES_THREADS))


def _descriptors() -> Counter[str]:
    """By what they lead to; sockets and pipes by their kind. Pollers are left out: gRPC has some from its first server on, for
    good, and a loop that is not closed shows by its sockets."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the directory's own, which is closed by now
            continue
        if target.startswith("anon_inode:"):
            continue
        found[target.partition(":")[0] if target.startswith(("socket:", "pipe:")) else target] += 1
    return found


def _more(before: Counter[str], now: Counter[str]) -> dict[str, int]:
    return {name: count - before[name] for name, count in now.items() if count > before[name]}


@functools.cache
def _warmed_up() -> None:
    """gRPC's poller lives as long as anybody uses it: from here on that is always."""
    grpc.aio.init_grpc_aio()


@pytest.fixture(autouse=True)
def no_thread_and_no_descriptor_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """When the loop is closed as well, the process has what it had before."""
    _warmed_up()
    threads, descriptors = _threads(), _descriptors()
    yield
    end = time.monotonic() + PATIENCE_SECONDS  # gRPC closes sockets, and threads end, a moment after they were told to
    descriptors += _MAY_STAY.get(request.node.name, Counter())
    while more := {**_more(threads, _threads()), **_more(descriptors, _descriptors())}:
        if time.monotonic() > end:
            raise AssertionError(f"left behind: {more}")
        gc.collect()
        time.sleep(0.005)
