"""One open bank for tests that need no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from sqlite_harness import Bank


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Expected failures say nothing."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    async with Bank(tmp_path / "bank.db") as one:
        yield one
