"""The SQLite log: its files, what it refuses, and how it fails."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from log_samples import FileStore, batch, numbers, record

from troth.errors import LogDamaged, LogError, LogFailed, LogForeign, LogLocked, Reason
from troth.log import files, schema, sqlite
from troth.log.sqlite import Batch, LogConnection, SqliteLog
from troth.ready import Append


async def filled(path: Path, *values: int) -> None:
    """A closed log that holds the values, one batch each."""
    log = SqliteLog(path, role="coordinator", name="c1")
    await log.open()
    for value in values:
        await log.write(batch(value), sync=True)
    await log.close()


async def found(path: Path) -> list[int]:
    """What a log holds."""
    log = SqliteLog(path, role="coordinator", name="c1")
    _, records = await log.open()
    await log.close()
    return numbers(records)


async def refusal(path: Path, **settings: Any) -> LogError:
    """The error of opening a log."""
    log = SqliteLog(path, role="coordinator", name="c1", **settings)
    with pytest.raises(LogError) as caught:
        await log.open()
    await log.close()
    return caught.value


def alter(path: Path, *statements: str) -> None:
    """Do something to a log behind its back."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


# ---- files


async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deeper" / "log.db"
    log = SqliteLog(path, role="coordinator", name="c1")
    await log.open()
    await log.write(batch(1), sync=True)
    modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in path.parent.iterdir()}
    await log.close()
    assert modes == {"log.db": 0o600, "log.db-wal": 0o600, "log.db.lock": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_an_unfinished_creation_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "log.db.new").write_bytes(b"half")
    (tmp_path / "log.db.new-wal").write_bytes(b"half")
    assert await found(tmp_path / "log.db") == []
    assert sorted(os.listdir(tmp_path)) == ["log.db", "log.db.lock"]


async def test_the_file_is_bounded_when_the_head_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 256 * 1024)
    path = tmp_path / "log.db"
    log = SqliteLog(path, role="coordinator", name="c1")
    await log.open()
    largest = 0
    for turn in range(300):
        first = turn * 50
        await log.write(batch(*range(first, first + 50), size=200), sync=True, drop_below=max(0, first - 200))
        largest = max(largest, path.stat().st_size + files.wal_path(path).stat().st_size)
    await log.close()
    # 15,000 records of 220 bytes were written; about 300 of them are kept.
    assert largest < 1024 * 1024
    assert await found(path) == list(range(14_749, 15_000))


async def test_many_unsynced_records_are_written_without_being_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "UNSYNCED_RECORDS_MAX", 3)
    store = FileStore(tmp_path)
    log = store.log()
    await log.open()
    for number in (1, 2, 3, 4):
        await log.write(batch(number), sync=False)
    store.crash()
    assert await found(store.path) == [1, 2, 3]
    await log.close()


# ---- one hop


async def test_a_batch_is_one_hop_and_no_payload_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = SqliteLog(tmp_path / "log.db", role="coordinator", name="c1")
    await log.open()
    with caplog.at_level(logging.DEBUG, "aiosqlite"):
        await log.write([Append(record(n, size=50)) for n in range(20)], sync=True, drop_below=3)
    hops = [entry.getMessage() for entry in caplog.records if "executing" in entry.getMessage()]
    await log.close()
    assert len(hops) == 1
    assert "Batch(20 records)" in hops[0]
    assert "a5a5" not in caplog.text and "\\xa5" not in caplog.text


async def test_a_cancelled_write_is_written_all_the_same_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = SqliteLog(path, role="coordinator", name="c1")
    await log.open()
    writing = asyncio.create_task(log.write(batch(1), sync=True))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert list((await log.write(batch(2), sync=True)).seqs) == [2]
    await log.close()
    assert await found(path) == [1, 2]


async def test_a_cancelled_open_lets_go_of_everything(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = SqliteLog(path, role="coordinator", name="c1")
    opening = asyncio.create_task(log.open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await filled(path, 1)
    assert await found(path) == [1]


async def test_a_cancelled_open_that_fails_lets_go_too(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"no log at all")
    log = SqliteLog(path, role="coordinator", name="c1")
    opening = asyncio.create_task(log.open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    files.FileLock(path).release()


# ---- refusals


async def test_the_holder_is_named(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", role="coordinator", name="c1")
    await log.open()
    error = await refusal(tmp_path / "log.db")
    await log.close()
    assert isinstance(error, LogLocked)
    assert str(os.getpid()) in error.message


async def test_another_program_that_has_the_file_open_keeps_us_out(tmp_path: Path) -> None:
    await filled(tmp_path / "log.db", 1)
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    error = await refusal(tmp_path / "log.db")
    other.close()
    assert isinstance(error, LogLocked)


async def test_nobody_can_open_the_file_beside_us(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", role="coordinator", name="c1")
    await log.open()
    other = sqlite3.connect(tmp_path / "log.db", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT * FROM troth_records")
    other.close()
    await log.close()


async def test_a_newer_format_is_refused_even_if_all_else_is_different(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await filled(path, 1)
    alter(path, "UPDATE troth_meta SET value = '2' WHERE name = 'format_version'", "DROP TABLE troth_records")
    error = await refusal(path)
    assert isinstance(error, LogForeign)
    assert error.reason is Reason.LOG_TOO_NEW


async def test_a_database_that_is_no_log_is_refused(tmp_path: Path) -> None:
    alter(tmp_path / "log.db", "PRAGMA journal_mode = WAL", "CREATE TABLE customers (id INTEGER PRIMARY KEY)")
    error = await refusal(tmp_path / "log.db")
    assert isinstance(error, LogForeign)
    assert error.reason is Reason.LOG_FOREIGN


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("DELETE FROM troth_records WHERE seq = 2", "record 2"),
        ("DELETE FROM troth_records WHERE seq IN (2, 3)", "records 2 to 3"),
        ("UPDATE troth_records SET body = x'00' WHERE seq = 3", "record 3"),
        ("UPDATE troth_records SET body = 'text' WHERE seq = 3", "record 3"),
        ("UPDATE troth_records SET crc = crc + 1 WHERE seq = 1", "record 1"),
        ("UPDATE troth_records SET seq = seq + 10", "record 11"),
        ("UPDATE troth_meta SET value = 'c2' WHERE name = 'name'", "table troth_meta"),
        ("DELETE FROM troth_meta WHERE name = 'log_id'", "table troth_meta"),
        ("DELETE FROM troth_meta WHERE name = 'identity_crc'", "table troth_meta"),
        ("DROP TABLE troth_meta", "its schema"),
        ("DROP TABLE troth_records", "its schema"),
        ("ALTER TABLE troth_records ADD COLUMN more", "its schema"),
        ("PRAGMA journal_mode = DELETE", "byte 18"),
    ],
)
async def test_damage_is_refused_with_its_place_and_a_way_out(tmp_path: Path, statement: str, place: str) -> None:
    path = tmp_path / "log.db"
    await filled(path, 1, 2, 3, 4)
    alter(path, statement)
    error = await refusal(path)
    assert isinstance(error, LogDamaged)
    assert place in error.message
    assert "troth log verify" in str(error)


async def test_a_record_below_the_first_possible_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await filled(path, 1)
    alter(path, "DELETE FROM troth_records", f"INSERT INTO troth_records VALUES (0, {schema.checksum(0, b'x')}, x'78')")
    assert "record 0" in (await refusal(path)).message


async def test_damage_is_told_up_to_a_limit() -> None:
    rows = [(seq, 0, b"x") for seq in range(1, 1000)]
    assert len(schema.check_rows(rows)[1]) == schema.PROBLEMS_MAX


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00", b"\x00" * 4096])
async def test_a_cut_or_overwritten_file_is_never_taken_for_a_new_log(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log.db").write_bytes(content)
    assert isinstance(await refusal(tmp_path / "log.db"), LogDamaged)


async def test_a_write_ahead_log_without_its_file_is_damage(tmp_path: Path) -> None:
    (tmp_path / "log.db-wal").write_bytes(b"x" * 100)
    assert isinstance(await refusal(tmp_path / "log.db"), LogDamaged)


async def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.db").mkdir()
    assert isinstance(await refusal(tmp_path / "log.db"), LogDamaged)


async def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert (await refusal(tmp_path / "file" / "log.db")).reason is Reason.LOG_READ_ONLY


async def test_a_read_only_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    assert (await refusal(tmp_path / "log.db")).reason is Reason.LOG_READ_ONLY


async def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(tmp_path / "log.db", 1)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert (await refusal(tmp_path / "log.db")).reason is Reason.LOG_READ_ONLY


async def test_a_system_error_while_creating_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = await refusal(tmp_path / "log.db")
    assert isinstance(error, LogFailed)
    assert "the disk is full" in error.message


async def test_a_database_error_while_creating_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "RECORDS_SQL", "CREATE NONSENSE")
    assert isinstance(await refusal(tmp_path / "log.db"), LogFailed)
    monkeypatch.undo()
    assert await found(tmp_path / "log.db") == []


class Coded(sqlite3.OperationalError):
    """An error with a code of SQLite's."""

    def __init__(self, code: int) -> None:
        super().__init__("no")
        self.sqlite_errorcode = code


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_BUSY_RECOVERY, Reason.LOG_LOCKED),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, Reason.LOG_READ_ONLY),
        (sqlite3.SQLITE_READONLY_CANTINIT, Reason.LOG_READ_ONLY),
        (sqlite3.SQLITE_CORRUPT_SEQUENCE, Reason.LOG_DAMAGED),
        (sqlite3.SQLITE_NOTADB, Reason.LOG_DAMAGED),
        (sqlite3.SQLITE_IOERR_READ, Reason.LOG_FAILED),
        (sqlite3.SQLITE_FULL, Reason.LOG_FAILED),
    ],
)
def test_sqlites_codes_while_opening(tmp_path: Path, code: int, reason: Reason) -> None:
    assert files.from_error(tmp_path, Coded(code), "opened").reason is reason
    assert files.from_error(tmp_path, Coded(code), "written").reason is Reason.LOG_FAILED


def test_a_forbidden_file_is_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    assert files.from_error(tmp_path, PermissionError(errno.EACCES, "no"), "opened").reason is Reason.LOG_READ_ONLY


# ---- failures


class Full(LogConnection):
    """A database that may hold twelve pages."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.execute("PRAGMA max_page_count = 12")


async def test_a_full_disk_fails_the_log_for_good_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = SqliteLog(path, role="coordinator", name="c1", connection_type=Full)
    await log.open()
    acknowledged: list[int] = []
    with pytest.raises(LogFailed, match="the disk is full"):
        for number in range(100):
            await log.write(batch(number, size=1000), sync=True)
            acknowledged.append(number)
    with pytest.raises(LogFailed, match="the log is failed"):
        await log.write(batch(100), sync=True)
    await log.close()
    assert len(acknowledged) > 5
    assert await found(path) == acknowledged


class Failing(LogConnection):
    """A connection whose nth call of SQLite fails."""

    left = 0

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        type(self).left -= 1
        if type(self).left == 0:
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, parameters)

    def close(self) -> None:
        super().close()
        if type(self).left <= 0 and type(self) is FailingToClose:
            raise sqlite3.OperationalError("disk I/O error")


class FailingToClose(Failing):
    """Fails at closing too, once something has failed."""


@pytest.mark.parametrize("kind", [Failing, FailingToClose])
async def test_whichever_call_fails_what_was_acknowledged_is_there(tmp_path: Path, kind: type[Failing]) -> None:
    call, failed = 0, True
    while failed:
        call += 1
        path = tmp_path / str(call) / "log.db"
        await filled(path, 1)
        acknowledged, failed = [1], False
        kind.left = call
        log = SqliteLog(path, role="coordinator", name="c1", connection_type=kind)
        try:
            await log.open()
            for number in (2, 3, 4):
                await log.write(batch(number), sync=True, drop_below=1)
                acknowledged.append(number)
        except LogError as error:
            failed = True
            with pytest.raises(LogFailed):
                await log.write(batch(9), sync=True)
            assert "I/O error" in error.message
        else:
            kind.left = 10**9
        await log.close()
        now = await found(path)
        assert now in (acknowledged, [*acknowledged, acknowledged[-1] + 1])
    assert call > 15


async def test_a_batch_behind_a_failed_one_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await filled(path, 1)
    Failing.left = 10**9
    log = SqliteLog(path, role="coordinator", name="c1", connection_type=Failing)
    await log.open()
    Failing.left = 1
    # The caller of the first is cancelled and never learns that it failed; the second must not leave a gap.
    first = asyncio.create_task(log.write(batch(2), sync=True))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(LogFailed, match="an earlier write failed"):
        await log.write(batch(3), sync=True)
    await log.close()
    assert await found(path) == [1]


class Unmovable(LogConnection):
    """A connection whose checkpoints fail once it is open."""

    def checkpoint(self, mode: str) -> None:
        if mode == "PASSIVE":
            raise sqlite3.OperationalError("disk I/O error")
        super().checkpoint(mode)


async def test_a_failed_checkpoint_fails_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 1)
    log = SqliteLog(tmp_path / "log.db", role="coordinator", name="c1", connection_type=Unmovable)
    await log.open()
    with pytest.raises(LogFailed, match="disk I/O error"):
        await log.write(batch(1), sync=True)
    await log.close()
    assert await found(tmp_path / "log.db") == [1]


def test_a_checkpoint_that_moves_only_a_part_is_an_error(tmp_path: Path) -> None:
    class Partial(LogConnection):
        def execute(self, sql: str, parameters: Any = (), /) -> Any:
            return super().execute("SELECT 0, 9, 4" if "wal_checkpoint" in sql else sql, parameters)

    connection = sqlite3.connect(tmp_path / "log.db", factory=Partial)
    with pytest.raises(sqlite3.OperationalError, match="could not be moved"):
        connection.checkpoint("PASSIVE")
    connection.close()


async def test_an_error_at_closing_is_told_when_the_log_was_sound(tmp_path: Path) -> None:
    class Unclosable(LogConnection):
        def close(self) -> None:
            super().close()
            raise sqlite3.OperationalError("disk I/O error")

    log = SqliteLog(tmp_path / "log.db", role="coordinator", name="c1", connection_type=Unclosable)
    await log.open()
    with pytest.raises(LogFailed, match="closed"):
        await log.close()
    files.FileLock(tmp_path / "log.db").release()


def test_a_batch_shows_no_payload() -> None:
    rows: Iterable[Any] = Batch([(1, 2, b"secret")], 0)
    assert repr(rows) == "Batch(1 records)"
    assert list(rows) == [(1, 2, b"secret")]


def test_who_lets_go_of_a_lock_keeps_nobody_out(tmp_path: Path) -> None:
    """As a forked child does with its copy; its parent's own is tried in `tests/common/test_forks.py`."""
    files.FileLock(tmp_path / "log.db").let_go()
    files.FileLock(tmp_path / "log.db").release()
