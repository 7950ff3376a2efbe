"""A log that was put back to an earlier moment of a life that everybody knows, with real participants on a real core (rule 21)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from participant_sdk import Participant
from participant_sdk.client import call
from participant_sdk.testing.cluster import COORDINATOR, Cluster
from tests.participant.test_cluster import make_bank
from troth.errors import TransactionError
from troth.v1 import record_pb2

PAY = call("bank", "pay_in", account="a", amount=1), call("till", "pay_in", account="a", amount=1)


def makers(directory: Path) -> list[Callable[[], Participant]]:
    return [lambda: make_bank(directory), lambda: make_bank(directory, "till")]


async def refused(cluster: Cluster, name: str) -> str:
    """Why a participant does not serve."""
    with pytest.raises(TransactionError) as caught:
        await cluster[name].wait_connected()
    return str(caught.value)


async def test_a_resources_file_that_was_put_back_beside_its_identity_is_refused(tmp_path: Path) -> None:
    bank, backup = tmp_path / "bank.db", tmp_path / "backup.db"
    async with Cluster(*makers(tmp_path)) as cluster:
        await cluster.run(*PAY)
        await cluster.crash("bank")
        shutil.copy(bank, backup)
        await cluster.restart("bank")
        await cluster.run(*PAY)
        await cluster.crash("bank")
        shutil.copy(backup, bank)
        with pytest.raises(TransactionError, match=r"LOG_WENT_BACK: the log of 'bank' was heard to position"):
            await cluster.restart("bank")


async def test_a_coordinators_log_that_lost_its_end_finds_out_at_the_first_hello(tmp_path: Path) -> None:
    async with Cluster(*makers(tmp_path)) as cluster:
        await cluster.run(*PAY)
        await cluster.crash(COORDINATOR)
        disk = cluster._coordinator._disk
        kinds = [record_pb2.CoordinatorRecord.FromString(stored.body).WhichOneof("kind") for stored in disk.durable]
        del disk.durable[kinds.index("decided") :]
        await cluster.restart(COORDINATOR)
        for name in ("bank", "till"):
            assert f"LOG_WENT_BACK: '{name}' has heard epoch 1" in await refused(cluster, name)
        assert cluster._coordinator._core is not None and cluster._coordinator._core.has_lost


async def test_restarts_and_crashes_of_all_lose_nothing_that_was_told(tmp_path: Path) -> None:
    async with Cluster(*makers(tmp_path)) as cluster:
        for name in (COORDINATOR, "bank", "till", COORDINATOR, "till"):
            await cluster.run(*PAY)
            await cluster.crash(name)
            await cluster.restart(name)
            for participant in ("bank", "till"):
                await cluster[participant].wait_connected()
        await cluster.run(*PAY)
        assert cluster["till"].health.error is None
