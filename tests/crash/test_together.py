"""Everything at the same time: a cell of three nodes, two banks of three processes each, two PostgreSQL servers, and transfers with
keys. Nodes, workers, sessions and servers are killed and stopped in an order of chance, each kind of it at least once. Then the
independent checker looks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bank_check import judge
from cell_of_banks import CellOfBanks
from transfers import Clerks

from participant_sdk.testing.postgres import PostgresServer
from tests.patience import SECONDS as PATIENCE_SECONDS
from tests.relational import until

ROUNDS = 2
"""How often each kind of trouble comes."""
MORE = 8
"""Transfers that commit between one trouble and the next, where the next does not come at once."""
AT_ONCE = 0.25
"""How often it does."""


@pytest.fixture
async def cell(tmp_path: Path, chance: random.Random) -> AsyncIterator[CellOfBanks]:
    with PostgresServer() as store, PostgresServer() as data:
        cell = CellOfBanks(tmp_path, store, data, chance)
        try:
            await cell.start()
            yield cell
        finally:
            await cell.kill()


@pytest.fixture
def seed() -> int:
    return random.SystemRandom().randrange(1_000_000)


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)


async def commits(cell: CellOfBanks, clerks: Clerks, more: int) -> None:
    """Wait until so many more transfers have committed."""
    enough = clerks.counts["COMMITTED"] + more

    async def committed() -> bool:
        await cell.supervise()
        return clerks.counts["COMMITTED"] >= enough

    await until(committed)


async def test_money_is_conserved_and_the_told_is_true_whatever_dies(
    cell: CellOfBanks, chance: random.Random, seed: int, tmp_path: Path
) -> None:
    told = tmp_path / "told.jsonl"
    troubles = [*cell.troubles] * ROUNDS
    chance.shuffle(troubles)
    async with Clerks(cell.address, cell.apis, told, seed, past="c1-01") as clerks:
        working = asyncio.create_task(clerks.work())
        await commits(cell, clerks, MORE)
        for trouble in troubles:
            await cell.troubles[trouble]()
            await commits(cell, clerks, 0 if chance.random() < AT_ONCE else MORE)
        await commits(cell, clerks, MORE)
        clerks.over.set()
        async with asyncio.timeout(2 * PATIENCE_SECONDS):
            await working
    await cell.rest()
    await cell.stop()
    assert not cell.prepared()
    verdict = judge(await cell.found(), told)
    assert not verdict.wrong, (seed, troubles, verdict.wrong[:5])
    assert verdict.committed >= MORE * 2, (seed, troubles, verdict)
    cell.undo_half()
    assert any("half done" in wrong for wrong in judge(await cell.found(), told).wrong), "the checker does not see a half transfer"
