"""Every test of the logs leaves no thread behind: aiosqlite's would keep the process from ending."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("asyncio_"):
            thread.join(timeout=10)
            assert not thread.is_alive(), f"{thread.name} was left behind"
