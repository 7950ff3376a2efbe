"""`troth participants`: what a log may lack that took a name over, and cannot be listed, is told wherever an operator looks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from coordinator.attention import attention
from coordinator.config import load
from coordinator.inside import Inside
from coordinator.server import Daemon, make_daemon
from tests.cli.test_cli_offline import make_log
from troth.v1 import record_pb2

ENDED_MS = 1_764_489_600_000
AT = "2025-11-30 08:00:00 UTC"


@pytest_asyncio.fixture
async def restored(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon that could not ask `payments` about all of its commits when another log took the name over."""
    started = record_pb2.EpochStarted(coordinator="c1", epoch=1, nonce="0badcafe", kept=True)
    bound = record_pb2.ParticipantBound(
        participant="payments", log_id="11" * 16, incarnation=1, before_epoch=1, before_order=44, unlisted_epoch=1,
        unlisted_order=42, unlisted_ended_ms=ENDED_MS,
    )  # fmt: skip
    record = record_pb2.CoordinatorRecord
    (tmp_path / "c1").mkdir()
    await make_log(
        tmp_path / "c1" / "coordinator.db", "coordinator", "c1", record(epoch_started=started), record(participant_bound=bound)
    )
    flags = {"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "drain_seconds": 1.0, "hearing_seconds": 0}
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


async def test_commits_that_cannot_be_listed_are_told_of_until_somebody_has_compared(restored: Daemon, troth: Any) -> None:
    ask = ("--coordinator", restored.address)
    told = (await troth("participants", *ask)).out
    assert f"payments may have lost commits that ended until {AT} (of epochs before 1, and of that" in told
    assert "cannot be listed" in told and "troth participants accept-loss payments" in told
    (drift,) = (await troth("reconcile", *ask, "--json")).json()["drifts"]
    assert drift["kind"] == "a log that went back" and AT in drift["what"] and "accept-loss payments" in drift["fix"]
    (item,) = await attention(Inside(restored._routes))
    assert item.kind == "loss" and AT in item.text
    refused = await troth("participants", "accept-loss", "--why", "x", "--yes", *ask)
    assert refused.code == 1, "the coordinator's own log has lost nothing"
    accepted = await troth("participants", "accept-loss", "payments", "--why", "compared with the bank", "--yes", *ask)
    assert accepted.code == 0 and accepted.out.strip() == "Accepted of payments."
    assert "cannot be listed" not in (await troth("participants", *ask)).out
    assert (await troth("reconcile", *ask)).code == 0
