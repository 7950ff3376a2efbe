"""The identity log: incarnations grow, epochs never go back, and the file stays small."""

from __future__ import annotations

from pathlib import Path

import pytest

from participant_sdk.identity import IdentityLog
from troth.errors import LogDamaged, LogError, ProtocolError, Reason
from troth.log.sqlite import SqliteLog
from troth.ready import Append
from troth.v1 import common_pb2


def identity_in(directory: Path, name: str = "bank") -> IdentityLog:
    return IdentityLog(name, SqliteLog(directory / "identity.db", role="participant", name=name))


async def test_each_start_is_a_new_incarnation_of_the_same_log(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        identity = identity_in(tmp_path)
        stamped = await identity.start()
        seen.append((identity.incarnation, stamped.log_id))
        await identity.close()
    assert [incarnation for incarnation, _ in seen] == [1, 2, 3]
    assert len({log_id for _, log_id in seen}) == 1


async def test_a_lower_epoch_is_refused_even_after_a_restart(tmp_path: Path) -> None:
    identity = identity_in(tmp_path)
    await identity.start()
    await identity.see("c1", 5)
    await identity.see("c1", 5)
    await identity.see("c2", 1)
    await identity.close()
    for _ in range(3):
        identity = identity_in(tmp_path)
        await identity.start()
        with pytest.raises(ProtocolError, match="epoch 4, but epoch 5 of it was seen") as caught:
            await identity.see("c1", 4)
        assert caught.value.reason is Reason.STALE_EPOCH
        await identity.see("c2", 1)
        await identity.close()


async def test_the_log_does_not_grow_with_the_starts(tmp_path: Path) -> None:
    for epoch in range(1, 6):
        identity = identity_in(tmp_path)
        await identity.start()
        await identity.see("c1", epoch)
        await identity.close()
    log = SqliteLog(tmp_path / "identity.db", role="participant", name="bank")
    _, records = await log.open()
    await log.close()
    assert len(records) <= 3


async def test_two_processes_cannot_share_it(tmp_path: Path) -> None:
    first = identity_in(tmp_path)
    await first.start()
    with pytest.raises(LogError) as caught:
        await identity_in(tmp_path).start()
    assert caught.value.reason is Reason.LOG_LOCKED
    await first.close()


async def test_a_record_of_something_else_is_damage(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "identity.db", role="participant", name="bank")
    await log.open()
    await log.write([Append(common_pb2.Operation(name="\x01" * 3))], sync=True)
    await log.close()
    identity = identity_in(tmp_path)
    with pytest.raises(LogDamaged, match="record 1 of the identity log"):
        await identity.start()
    await identity.close()
