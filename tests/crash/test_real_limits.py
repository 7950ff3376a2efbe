"""Errors that the operating system makes: a limit on the size of files, and a file system that is full."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from participant_sdk import Participant, SqliteResource
from participant_sdk.resources import sqlite_file
from participant_sdk.testing.cluster import Cluster
from troth import logs
from troth.errors import LogError, Reason

SCHEMA = "CREATE TABLE IF NOT EXISTS kept (name INTEGER PRIMARY KEY NOT NULL, value BLOB NOT NULL)"
MEGABYTE = 1024 * 1024


def keeper(directory: Path) -> Participant:
    store = SqliteResource(directory / "kept.db", schema=SCHEMA)
    return Participant("keeper", resource=store, data_directory=directory / "keeper", coordinator="127.0.0.1:7420")


def put(name: int, size: int) -> Any:
    return lambda db: db.execute("INSERT OR REPLACE INTO kept VALUES (?, zeroblob(?))", (name, size))


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond it; SQLite gets an I/O error (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_write_beyond_the_limit_stops_the_participant(tmp_path: Path) -> None:
    with logs.quiet():
        async with Cluster(lambda: keeper(tmp_path)) as cluster:
            await cluster["keeper"].local(put(1, 1000))
            with files_at_most(MEGABYTE // 4), pytest.raises(LogError) as caught:
                await cluster["keeper"].local(put(2, MEGABYTE))
            assert caught.value.reason is Reason.LOG_FAILED
            with pytest.raises(LogError):
                await cluster["keeper"].serve()
            await cluster.restart("keeper")
            assert await cluster["keeper"].read(lambda db: db.execute("SELECT name FROM kept")) == [(1,)]


async def test_an_error_while_the_write_ahead_log_is_moved_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's automatic checkpoint keeps its errors to itself: a failed sync would be repeated, and believed."""
    monkeypatch.setattr(sqlite_file, "_CHECKPOINT_PAGES", 20)
    with logs.quiet():
        async with Cluster(lambda: keeper(tmp_path)) as cluster:
            for name in range(20):
                await cluster["keeper"].local(put(name, MEGABYTE // 10))
            assert (tmp_path / "kept.db").stat().st_size > MEGABYTE
            # Small changes at the end of the file: the write-ahead log has room, the file has not.
            with files_at_most(MEGABYTE), pytest.raises(LogError) as caught:
                for turn in range(100):
                    await cluster["keeper"].local(put(100 + turn, 1000))
            assert caught.value.reason is Reason.LOG_FAILED
            await cluster.restart("keeper")
            rows = await cluster["keeper"].read(lambda db: db.execute("SELECT count(*) FROM kept WHERE name < 100"))
            assert rows == [(20,)]
