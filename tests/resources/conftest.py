"""One open bank for tests that need no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlite_harness import Bank

from troth import logs


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Expected failures say nothing."""
    with logs.quiet():
        yield


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    async with Bank(tmp_path / "bank.db") as one:
        yield one
