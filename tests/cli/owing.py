"""A daemon whose participants are away: it owes them a commit, has aborted another transaction, and knows nothing of a third."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from coordinator.config import load
from coordinator.server import Daemon, make_daemon
from tests.cli.test_cli_offline import decided, make_log
from troth.v1 import common_pb2, record_pb2

__all__ = ["owing"]
ABORTED, UNKNOWN = "c1.1.0badcafe.3.6", "c1.1.0badcafe.3.8"


def records() -> list[record_pb2.CoordinatorRecord]:
    """A log that owes a commit to `orders` and `payments`, and has aborted another transaction."""
    started = record_pb2.EpochStarted(coordinator="c1", epoch=1, nonce="0badcafe", kept=True)
    bound = [record_pb2.ParticipantBound(participant=name, log_id="11" * 16, incarnation=1) for name in ("orders", "payments")]
    ended = record_pb2.Ended(transaction_id=ABORTED, outcome=common_pb2.OUTCOME_ABORTED, who="ann", why="because")
    record = record_pb2.CoordinatorRecord
    return [
        record(epoch_started=started), *(record(participant_bound=one) for one in bound), decided(), record(ended=ended)
    ]  # fmt: skip


@pytest_asyncio.fixture
async def owing(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon whose participants are away, and that owes them something."""
    (tmp_path / "c1").mkdir()
    await make_log(tmp_path / "c1" / "coordinator.db", "coordinator", "c1", *records())
    flags = {"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "drain_seconds": 1.0, "hearing_seconds": 0}
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    yield daemon
    await daemon.stop()
