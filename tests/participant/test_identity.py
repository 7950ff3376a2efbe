"""The identity log: incarnations grow, epochs never go back, and the file stays small."""

from __future__ import annotations

from pathlib import Path

import pytest

from participant_sdk.core.starts import STARTS_MAX
from participant_sdk.identity import IdentityLog
from troth.errors import LogDamaged, LogError, ProtocolError, Reason
from troth.log.contract import LogIdentity
from troth.log.memory import Disk, MemoryLog
from troth.log.sqlite import SqliteLog
from troth.ready import Append
from troth.v1 import common_pb2, record_pb2


def identity_in(directory: Path, name: str = "bank") -> IdentityLog:
    return IdentityLog(name, SqliteLog(directory / "identity.db", role="participant", name=name))


async def started(identity: IdentityLog, position: int = 0) -> LogIdentity:
    stamped = await identity.open()
    await identity.begin(position)
    return stamped


def life(coordinator: str, epoch: int, log_id: str = "log", nonce: str = "") -> record_pb2.EpochSeen:
    nonce = nonce or f"{epoch:08x}"
    return record_pb2.EpochSeen(coordinator=coordinator, epoch=epoch, log_id=f"{log_id}-{coordinator}", nonce=nonce)


async def test_each_start_is_a_new_incarnation_of_the_same_log(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        identity = identity_in(tmp_path)
        stamped = await started(identity)
        seen.append((identity.incarnation, stamped.log_id))
        await identity.close()
    assert [incarnation for incarnation, _ in seen] == [1, 2, 3]
    assert len({log_id for _, log_id in seen}) == 1


async def test_a_lower_epoch_is_refused_even_after_a_restart(tmp_path: Path) -> None:
    identity = identity_in(tmp_path)
    await started(identity)
    await identity.see(life("c1", 5))
    await identity.see(life("c1", 5))
    await identity.see(life("c2", 1))
    await identity.close()
    for _ in range(3):
        identity = identity_in(tmp_path)
        await started(identity)
        with pytest.raises(ProtocolError, match="epoch 4, but epoch 5 was seen") as caught:
            await identity.see(life("c1", 4))
        assert caught.value.reason is Reason.STALE_EPOCH
        await identity.see(life("c2", 1))
        await identity.close()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (life("c1", 9, "other"), Reason.FOREIGN_COORDINATOR),
        (life("c1", 5, nonce="ffffffff"), Reason.STALE_EPOCH),
    ],
)
async def test_a_name_belongs_to_one_log_and_an_epoch_to_one_process(
    tmp_path: Path, said: record_pb2.EpochSeen, reason: Reason
) -> None:
    identity = identity_in(tmp_path)
    await started(identity)
    await identity.see(life("c1", 5))
    for _ in range(2):
        with pytest.raises(ProtocolError) as caught:
            await identity.see(said)
        assert caught.value.reason is reason
        await identity.close()
        identity = identity_in(tmp_path)
        await started(identity)
    assert [(heard.log_id, heard.epoch) for heard in identity.coordinators.heard()] == [("log-c1", 5)]
    await identity.close()


async def test_a_log_of_earlier_software_learns_whose_the_name_is(tmp_path: Path) -> None:
    identity = identity_in(tmp_path)
    await started(identity)
    await identity.see(record_pb2.EpochSeen(coordinator="c1", epoch=5))
    await identity.see(life("c1", 5))
    with pytest.raises(ProtocolError):
        await identity.see(life("c1", 6, "other"))
    await identity.see(record_pb2.EpochSeen(coordinator="c1", epoch=6))
    with pytest.raises(ProtocolError):
        await identity.see(life("c1", 7, "other"))
    await identity.close()


async def test_it_knows_its_starts() -> None:
    disk = Disk()
    for number in range(1, STARTS_MAX + 3):
        log = MemoryLog(disk, role="participant", name="bank")
        identity = IdentityLog("bank", log, f"{number:08x}")
        await started(identity, 100 + number)
        await identity.close()
    starts = identity.starts
    assert len(starts.known) == STARTS_MAX and starts.known[-1] == f"{number}/{number:08x}"
    assert f"2/{2:08x}" not in starts.known, "the newest are kept"
    assert starts.after == list(range(103, 101 + number)), "each with the position of the log that has the branches"


async def test_the_log_does_not_grow_with_the_starts(tmp_path: Path) -> None:
    for epoch in range(1, 6):
        identity = identity_in(tmp_path)
        await started(identity)
        await identity.see(life("c1", epoch))
        await identity.close()
    log = SqliteLog(tmp_path / "identity.db", role="participant", name="bank")
    _, records = await log.open()
    await log.close()
    assert len(records) <= 3


async def test_two_processes_cannot_share_it(tmp_path: Path) -> None:
    first = identity_in(tmp_path)
    await first.open()
    with pytest.raises(LogError) as caught:
        await identity_in(tmp_path).open()
    assert caught.value.reason is Reason.LOG_LOCKED
    await first.close()


async def test_a_record_of_something_else_is_damage(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "identity.db", role="participant", name="bank")
    await log.open()
    await log.write([Append(common_pb2.Operation(name="\x01" * 3))], sync=True)
    await log.close()
    identity = identity_in(tmp_path)
    with pytest.raises(LogDamaged, match="record 1 of the identity log"):
        await started(identity)
    await identity.close()
