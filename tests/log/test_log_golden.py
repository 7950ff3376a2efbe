"""Logs of every format that was ever released must load. They are never edited; a new format adds files.

`python tests/log/test_log_golden.py` made those of format 1.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from log_samples import batch, copy_files, numbers

from troth.log import offline
from troth.log.sqlite import SqliteLog
from troth.ready import Append
from troth.v1 import record_pb2

GOLDEN = Path(__file__).parent / "golden"
CLOSED, KILLED = "format1-closed.db", "format1-killed.db"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """Copies that may be written."""
    for name in (CLOSED, KILLED):
        copy_files(GOLDEN / name, tmp_path / name)
    return tmp_path


async def test_a_closed_log_of_format_1_loads(golden: Path) -> None:
    log = SqliteLog(golden / CLOSED, role="participant", name="payments")
    identity, records = await log.open()
    await log.close()
    assert (identity.format_version, identity.log_id) == (1, "b6bcaf2507861feac468d2ecde8d0bde")
    assert [stored.seq for stored in records] == [2, 3, 4]
    assert [record_pb2.ParticipantRecord.FromString(stored.body).WhichOneof("kind") for stored in records] == [
        "epoch_seen",
        "branch_prepared",
        "branch_finished",
    ]


async def test_a_killed_writers_log_of_format_1_loads(golden: Path) -> None:
    log = SqliteLog(golden / KILLED, role="coordinator", name="c1")
    _, records = await log.open()
    await log.close()
    assert numbers(records) == [1, 2, 3, 4]


@pytest.mark.parametrize(("name", "records"), [(CLOSED, 3), (KILLED, 4)])
def test_golden_logs_verify(golden: Path, name: str, records: int) -> None:
    verified = offline.verify(golden / name)
    assert (verified.records, verified.problems) == (records, ())


async def _make() -> None:
    kinds = (
        record_pb2.ParticipantRecord(incarnation_started=record_pb2.IncarnationStarted(participant="payments", incarnation=1)),
        record_pb2.ParticipantRecord(epoch_seen=record_pb2.EpochSeen(coordinator="c1", epoch=7)),
        record_pb2.ParticipantRecord(
            branch_prepared=record_pb2.BranchPrepared(transaction_id="c1.7.9f2c4e1a.3.42", order=1, incarnation=1)
        ),
        record_pb2.ParticipantRecord(branch_finished=record_pb2.BranchFinished(transaction_id="c1.7.9f2c4e1a.3.42", order=1)),
    )
    GOLDEN.mkdir(exist_ok=True)
    log = SqliteLog(GOLDEN / CLOSED, role="participant", name="payments")
    await log.open()
    await log.write([Append(kind) for kind in kinds], sync=True)
    await log.write([], sync=True, drop_below=2)
    await log.close()
    working = GOLDEN / "working.db"
    log = SqliteLog(working, role="coordinator", name="c1")
    await log.open()
    for values in ((1, 2), (3,), (4,)):
        await log.write(batch(*values), sync=True)
    copy_files(working, GOLDEN / KILLED)
    await log.close()
    for leftover in (working, *GOLDEN.glob("*.lock")):
        leftover.unlink()


if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    asyncio.run(_make())
