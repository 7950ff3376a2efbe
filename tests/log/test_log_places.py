"""That what the log acknowledges is on the disk, and in the file that its name leads to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from log_samples import batch

from troth.errors import LogFailed
from troth.log.sqlite import SqliteLog


async def test_what_is_acknowledged_was_synced(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", role="coordinator", name="c1")
    await log.open()
    connection = log._connection
    assert connection is not None
    async with connection.execute("PRAGMA synchronous") as cursor:
        assert await cursor.fetchone() == (2,), "FULL: with NORMAL a commit returns before its frames are on the disk"
    await log.close()


async def test_the_name_of_a_new_log_is_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    path, real = tmp_path / "log.db", os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    log = SqliteLog(path, role="coordinator", name="c1")
    await log.open()
    await log.close()
    assert synced == [(str(path) + ".new", False), (str(tmp_path), True)], "its content, its name, in this order"


@pytest.mark.parametrize("name", ["log.db", "log.db-wal"])
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_log_whose_file_is_gone_promises_nothing_more(tmp_path: Path, name: str, replaced: bool) -> None:
    log = SqliteLog(tmp_path / "log.db", role="coordinator", name="c1")
    await log.open()
    await log.write(batch(1), sync=True)
    (tmp_path / name).unlink()
    if replaced:
        (tmp_path / name).write_bytes(b"another")
    with pytest.raises(LogFailed, match="was replaced" if replaced else "was removed"):
        await log.write(batch(2), sync=True)
    with pytest.raises(LogFailed):
        await log.write(batch(3), sync=True)
    await log.close()
