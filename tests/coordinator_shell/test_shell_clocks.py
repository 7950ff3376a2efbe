"""A boot whose wall clock is hours from what the log says: nobody's key is dropped, nobody is kept out, and an operator is told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from shell_harness import make_config

from coordinator.server import make_daemon
from troth import logs
from troth.log.sqlite import SqliteLog
from troth.ready import Append
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2, record_pb2

HOUR_MS = 3_600_000
OLD = "c1.1.0badcafe.1.1"


async def a_log_of(directory: Path, at_ms: int) -> None:
    """A log that was written then, with a commit under a key of which nothing is owed any more."""
    record = record_pb2.CoordinatorRecord
    log = SqliteLog(directory / "coordinator.db", role="coordinator", name="c1")
    await log.open()
    ended = record_pb2.Ended(
        transaction_id=OLD, outcome=common_pb2.OUTCOME_COMMITTED, claim=record_pb2.KeyClaim(key="k"), first_attempt_ms=at_ms
    )
    written = (
        record(at_ms=at_ms, epoch_started=record_pb2.EpochStarted(coordinator="c1", epoch=1, nonce="0badcafe", kept=True)),
        record(at_ms=at_ms, horizon=record_pb2.Horizon(clock_set=True, names_sessions=True, names_branches=True)),
        record(at_ms=at_ms, ended=ended),
    )
    await log.write([Append(one) for one in written], sync=True)
    await log.close()


@pytest.mark.parametrize("hours", [-2, 2, 24 * 20_000])
async def test_a_boot_far_from_the_logs_time_drops_nothing_keeps_nobody_out_and_says_so(tmp_path: Path, hours: int) -> None:
    now_ms = time.time_ns() // 1_000_000
    await a_log_of(tmp_path, now_ms - hours * HOUR_MS)
    told: list[tuple[str, dict[str, Any]]] = []
    with logs.heard_by(lambda level, event, fields: told.append((event, fields))):
        daemon = make_daemon(make_config(tmp_path, hearing_seconds=0))
        await daemon.start()
    try:
        async with grpc.aio.insecure_channel(daemon.address) as channel:
            stub = client_pb2_grpc.TransactionServiceStub(channel)
            begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=60_000, key="new", first_attempt_ms=now_ms))
            assert begun.transaction_id, "a client with the machine's own clock is served at once"
            got = await stub.Get(client_pb2.GetRequest(transaction_id=OLD))
            assert got.answer.outcome == common_pb2.OUTCOME_COMMITTED, "nothing was dropped because of the clock"
    finally:
        await daemon.stop()
    (fields,) = [fields for event, fields in told if event.startswith("the wall clock is far from the log's")]
    assert abs(fields["wall_clock_ahead_seconds"] - hours * 3600) < 600
