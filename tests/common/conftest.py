"""Fixtures of the common ground's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from engine_rig import Rig, Start


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts an engine, and stops it at the end."""
    rigs: list[Rig] = []

    async def started(rig: Rig) -> Rig:
        await rig.engine.start()
        rigs.append(rig)
        return rig

    yield started
    for rig in rigs:
        rig.log.gated = False
        rig.log.let_go()
        await rig.engine.stop()
