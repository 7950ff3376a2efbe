"""Reading and mending a log whose process does not run."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from log_samples import FileStore, batch, record

from troth.errors import LogDamaged, LogError, LogForeign, LogLocked, Reason
from troth.log import files, offline
from troth.log.sqlite import SqliteLog
from troth.ready import Append
from troth.v1 import record_pb2


async def filled(path: Path, *values: int) -> Path:
    """A closed log."""
    log = SqliteLog(path, role="coordinator", name="c1")
    await log.open()
    for value in values:
        await log.write(batch(value), sync=True)
    await log.close()
    return path


def alter(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


async def test_a_sound_log_verifies_and_is_not_touched(tmp_path: Path) -> None:
    path = await filled(tmp_path / "log.db", 1, 2, 3)
    before = path.read_bytes()
    verified = offline.verify(path)
    assert verified.identity is not None
    assert (verified.identity.role, verified.identity.name) == ("coordinator", "c1")
    assert (verified.records, verified.first_seq, verified.last_seq, verified.torn_frames) == (3, 1, 3, 0)
    assert verified.problems == ()
    assert path.read_bytes() == before


async def test_rows_of_an_author_that_break_his_constraints_are_no_damage_and_hide_none(tmp_path: Path) -> None:
    path = await filled(tmp_path / "log.db", 1, 2, 3)
    careless = ("PRAGMA ignore_check_constraints = ON", "PRAGMA writable_schema = ON")
    alter(
        path, *careless, "CREATE TABLE account (name TEXT PRIMARY KEY, balance INTEGER CHECK (balance >= 0), note ANY) STRICT",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) "
        "INSERT INTO account SELECT 'a' || i, -i, i FROM n",
        "INSERT INTO account VALUES ('b', 1, NULL)",
        "UPDATE sqlite_schema SET sql = replace(sql, 'note ANY', 'note TEXT NOT NULL') WHERE name = 'account'",
    )  # fmt: skip
    assert offline.verify(path).problems == ()
    assert offline.append_offline(path, record(4).SerializeToString()) == 4
    content = bytearray(path.read_bytes())
    pages = len(content) // 4096
    content[(pages - 1) * 4096 : (pages - 1) * 4096 + 12] = b"\xff" * 12
    path.write_bytes(content)
    assert offline.verify(path).problems


async def test_an_empty_log_verifies(tmp_path: Path) -> None:
    verified = offline.verify(await filled(tmp_path / "log.db"))
    assert (verified.records, verified.first_seq, verified.last_seq, verified.problems) == (0, 0, 0, ())


async def test_a_torn_end_is_told_and_is_no_problem(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    log = store.log()
    await log.open()
    await log.write(batch(1), sync=True)
    await log.write(batch(2, size=9000), sync=True)
    store.crash()
    await log.close()
    write_ahead = files.wal_path(store.path)
    write_ahead.write_bytes(write_ahead.read_bytes()[:-1])
    verified = offline.verify(store.path)
    assert verified.records == 1
    assert verified.torn_frames > 0
    assert verified.problems == ()


async def test_all_problems_are_told_not_only_the_first(tmp_path: Path) -> None:
    path = await filled(tmp_path / "log.db", 1, 2, 3, 4, 5)
    alter(
        path,
        "UPDATE troth_records SET body = x'00' WHERE seq = 2",
        "DELETE FROM troth_records WHERE seq = 4",
        "UPDATE troth_records SET body = x'ff', crc = (SELECT 0) WHERE seq = 5",
    )
    problems = offline.verify(path).problems
    assert [problem.place for problem in problems] == ["record 2", "record 4", "record 5"]


async def test_a_body_that_is_no_record_is_a_problem(tmp_path: Path) -> None:
    path = await filled(tmp_path / "log.db", 1)
    offline.append_offline(path, b"\xff\xff")
    assert [(p.place, p.what) for p in offline.verify(path).problems] == [("record 2", "the body is no record")]
    assert [dumped.seq for dumped in offline.dump(path).records] == [1]


async def test_damage_in_the_write_ahead_log_is_told(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    log = store.log()
    await log.open()
    for number in (1, 2, 3):
        await log.write(batch(number), sync=True)
    store.crash()
    await log.close()
    write_ahead = files.wal_path(store.path)
    content = bytearray(write_ahead.read_bytes())
    content[100] ^= 1
    write_ahead.write_bytes(content)
    assert offline.verify(store.path).problems[0].place.endswith("(frame 1)")


async def test_a_resource_may_have_several_torn_transactions(tmp_path: Path) -> None:
    """Its unsynced batches are transactions of their own."""
    store = FileStore(tmp_path)
    log = store.log("resource", "payments")
    await log.open()
    await log.close()
    log = store.log("resource", "payments")
    await log.open()
    for number in (1, 2, 3):
        await log.write([Append(record_pb2.ParticipantRecord(epoch_seen={"epoch": number}))], sync=True)
    store.crash()
    await log.close()
    write_ahead = files.wal_path(store.path)
    content = bytearray(write_ahead.read_bytes())
    content[100] ^= 1
    write_ahead.write_bytes(content)
    assert offline.verify(store.path).problems == ()


@pytest.mark.parametrize(
    ("content", "place"), [(b"", "byte 0"), (b"SQLite format 3\x00" + b"\x00" * 84, "byte 18"), (b"x" * 4096, "byte 0")]
)
def test_a_file_that_is_no_database_is_told(tmp_path: Path, content: bytes, place: str) -> None:
    (tmp_path / "log.db").write_bytes(content)
    verified = offline.verify(tmp_path / "log.db")
    assert verified.identity is None
    assert verified.problems[0].place == place
    with pytest.raises(LogError):
        offline.dump(tmp_path / "log.db")


def test_a_database_that_is_no_log_is_told(tmp_path: Path) -> None:
    alter(tmp_path / "log.db", "PRAGMA journal_mode = WAL", "CREATE TABLE customers (id INTEGER PRIMARY KEY)")
    assert offline.verify(tmp_path / "log.db").problems[0].place == "its identity"
    with pytest.raises(LogDamaged):
        offline.append_offline(tmp_path / "log.db", b"")


async def test_dump_decodes_records_of_either_side(tmp_path: Path) -> None:
    dumped = offline.dump(await filled(tmp_path / "c.db", 1, 2))
    assert [(entry.seq, entry.message) for entry in dumped.records] == [(1, record(1)), (2, record(2))]
    log = SqliteLog(tmp_path / "p.db", role="participant", name="payments")
    await log.open()
    seen = record_pb2.ParticipantRecord(epoch_seen=record_pb2.EpochSeen(coordinator="c1", epoch=3))
    await log.write([Append(seen)], sync=True)
    await log.close()
    assert [entry.message for entry in offline.dump(tmp_path / "p.db").records] == [seen]


async def test_an_appended_record_is_the_next_one(tmp_path: Path) -> None:
    path = await filled(tmp_path / "log.db", 1)
    assert offline.append_offline(path, record(2).SerializeToString()) == 2
    log = SqliteLog(path, role="coordinator", name="c1")
    _, records = await log.open()
    await log.close()
    assert [stored.seq for stored in records] == [1, 2]


async def test_nothing_is_appended_to_a_damaged_log(tmp_path: Path) -> None:
    path = await filled(tmp_path / "log.db", 1, 2, 3)
    alter(path, "DELETE FROM troth_records WHERE seq = 2")
    with pytest.raises(LogDamaged, match="record 2"):
        offline.append_offline(path, record(4).SerializeToString())


async def test_an_error_while_appending_is_told(tmp_path: Path) -> None:
    path = await filled(tmp_path / "log.db", 1)
    alter(path, "CREATE TRIGGER stop BEFORE INSERT ON troth_records BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(LogError, match="could not be written"):
        offline.append_offline(path, record(2).SerializeToString())


async def test_a_running_process_keeps_us_out(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", role="coordinator", name="c1")
    await log.open()
    for use in (offline.verify, offline.dump):
        with pytest.raises(LogLocked):
            use(tmp_path / "log.db")
    await log.close()


@pytest.fixture
def held_elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A log that a process without Troth has open."""
    path = tmp_path / "log.db"
    asyncio.run(filled(path, 1))
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA locking_mode = EXCLUSIVE');"
        "c.execute('SELECT * FROM troth_records').fetchall(); print('here', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == b"here\n"
        yield path
        other.stdin.close()


def test_sqlite_of_another_process_keeps_us_out(held_elsewhere: Path) -> None:
    with pytest.raises(LogLocked, match="another program"):
        offline.verify(held_elsewhere)


async def test_a_read_only_place_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await filled(tmp_path / "log.db", 1)

    def refuse(self: files.FileLock, at: Path) -> None:
        raise files.read_only(at)

    monkeypatch.setattr(files.FileLock, "__init__", refuse)
    assert offline.verify(path).records == 1


def test_no_file_is_an_error_and_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(LogError) as caught:
        offline.verify(tmp_path / "log.db")
    assert caught.value.reason is Reason.LOG_FOREIGN
    assert os.listdir(tmp_path) == []
    assert not isinstance(caught.value, LogForeign)


async def test_a_lock_without_a_process_id_is_told_as_well(tmp_path: Path) -> None:
    with (tmp_path / "log.db.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LogLocked, match="unknown"):
            files.FileLock(tmp_path / "log.db")


async def test_a_log_stands_in_for_a_lost_one_and_replaces_none(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    offline.stand_in(path, "c1", "log-of-then", record(1).SerializeToString())
    log = SqliteLog(path, role="coordinator", name="c1")
    identity, records = await log.open()
    await log.close()
    assert (identity.log_id, len(records)) == ("log-of-then", 1)
    with pytest.raises(LogError, match="is there already"):
        offline.stand_in(path, "c1", "log-of-then", record(1).SerializeToString())
