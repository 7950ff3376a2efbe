"""Lets the tests here use the shop, whose processes they kill."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(ROOT / "examples" / "shop"))

from processes import Cluster  # noqa: E402 - it lies in the shop's folder


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Cluster]:
    """The coordinator and the services of the shop, as processes."""
    cluster = Cluster(tmp_path)
    try:
        await cluster.start()
        yield cluster
        await cluster.stop()
    finally:
        cluster.kill()
