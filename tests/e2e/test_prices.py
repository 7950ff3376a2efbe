"""What transactions cost that come one by one, with long pauses: a daemon and two participants, their real logs and engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import load
from coordinator.server import Daemon, make_daemon
from participant_sdk import LogBranch, LogResource, Participant
from participant_sdk.client import Client, call
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth import engine

ROUNDS = 5


@pytest.fixture
async def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Daemon]:
    """Nobody waits long for company but who is in no hurry at all: as if an hour passed between two transactions, nearly."""
    monkeypatch.setattr(engine, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(engine, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(engine, "COMPANY_SECONDS", 3600.0)
    daemon = make_daemon(load(environment={}, flags={"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1")}).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


def make(name: str, directory: Path, daemon: Daemon) -> Participant:
    made = Participant(name, resource=LogResource(), data_directory=directory / name, coordinator=daemon.address)

    @made.operation(locks=[])
    def work(branch: LogBranch, *, read: bool) -> None:
        if read:
            branch.read_only()

    return made


async def at_rest(engines: list[Any]) -> None:
    """Nothing is written, and what waits is in no hurry."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while any(one._writing or any(not append.patient for append in one._queued) for one in engines):  # noqa: ASYNC110 - no signal for it
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("read, coordinator, each", [(False, 1, 2), (True, 1, 0)], ids=["writes", "reads"])
async def test_ends_and_watermarks_cost_no_syncs_of_their_own(
    daemon: Daemon, tmp_path: Path, read: bool, coordinator: int, each: int
) -> None:
    one, other = (make(name, tmp_path, daemon) for name in ("one", "other"))
    async with one, other, Client(daemon.address) as client:
        for participant in (one, other):
            await participant.wait_connected()
        engines: list[Any] = [daemon._engine, one._runtime._engine, other._runtime._engine]
        for number in range(1 + ROUNDS):
            if number == 1:
                before = [each.counters.syncs for each in engines]
            await client.run(call("one", "work", read=read), call("other", "work", read=read), wait="complete")
            await at_rest(engines)
        paid = [now.counters.syncs - then for now, then in zip(engines, before, strict=True)]
        assert paid == [ROUNDS * coordinator, ROUNDS * each, ROUNDS * each]
