"""Opening the file: alone, only if it is ours, and again after any crash."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from sqlite_harness import SCHEMA, Bank, add, kinds, plain, run_program

from participant_sdk.core.work import Mode, Undone
from participant_sdk.resources import sqlite_file
from participant_sdk.resources.sqlite import SqliteResource
from participant_sdk.resources.sqlite_file import SQLITE_VERSION_MIN, SqliteFile
from troth.errors import ConfigError, LogDamaged, LogError, LogFailed, LogForeign, LogLocked, Reason
from troth.v1 import record_pb2


async def opening(path: Path, participant: str = "bank", schema: str = SCHEMA) -> LogError:
    with pytest.raises(LogError) as caught:
        await Bank(path, schema, participant).open()
    return caught.value


def tampered(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql)
    connection.close()


async def test_identity_is_stamped_and_stays(tmp_path: Path) -> None:
    async with Bank(tmp_path / "bank.db") as bank:
        first = bank.log_id
    async with Bank(tmp_path / "bank.db") as bank:
        assert bank.log_id == first
    async with Bank(tmp_path / "other.db") as bank:
        assert bank.log_id != first
    assert len(first) == 32


async def test_the_mode_of_the_file(bank: Bank) -> None:
    assert bank.resource._log is not None
    connection = bank.resource._log._file.connection
    pragmas = {
        name: connection.execute(f"PRAGMA {name}").fetchall()[0][0]
        for name in ("journal_mode", "locking_mode", "synchronous", "foreign_keys")
    }
    assert pragmas == {"journal_mode": "wal", "locking_mode": "exclusive", "synchronous": 2, "foreign_keys": 1}


async def test_the_write_ahead_log_is_moved_and_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "_CHECKPOINT_PAGES", 10)
    async with Bank(tmp_path / "bank.db") as bank:
        for number in range(60):
            await bank.did(f"t{number}", add("a", 1), mode=Mode.ONE_PHASE)
        assert (tmp_path / "bank.db-wal").stat().st_size < 30 * 4120


def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite before 3.51.3 can corrupt a WAL, and 3.51.3 an index."""
    requirement = f"apsw>={'.'.join(str(SQLITE_VERSION_MIN // 1000**place % 1000) for place in (2, 1, 0))}"
    assert requirement in (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.3")
    with pytest.raises(ConfigError, match="too old"):
        SqliteFile(tmp_path / "bank.db")
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "4.0")
    SqliteFile(tmp_path / "bank.db").close()


# ---- nobody else

READER = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM accounts').fetchall()"


def read_in_a_process(path: Path) -> str:
    return subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True, check=False).stderr


async def test_nobody_else_can_read_or_write_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    async with Bank(path) as bank:
        await bank.did("t1", add("a", 1))
        assert "database is locked" in read_in_a_process(path)
        for address in (f"file:{path}", f"file:{path}?mode=ro"):
            beside = sqlite3.connect(address, uri=True, timeout=0)
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                beside.execute("SELECT * FROM accounts")
            beside.close()
        assert "database is locked" in read_in_a_process(path), "closing a file in our own process has not let anybody in"
    assert read_in_a_process(path) == ""


@pytest.mark.parametrize("name", ["bank.db", "bank.db-wal"])
async def test_a_file_that_is_gone_promises_nothing_more(tmp_path: Path, name: str) -> None:
    async with Bank(tmp_path / "bank.db") as bank:
        await bank.write(plain())
        (tmp_path / name).unlink()
        with pytest.raises(LogFailed, match=f"{name} was removed"):
            await bank.write(plain())


async def test_a_second_sdk_process_is_told_so(tmp_path: Path) -> None:
    async with Bank(tmp_path / "bank.db"):
        error = await opening(tmp_path / "bank.db")
        assert isinstance(error, LogLocked)
        assert error.reason is Reason.LOG_LOCKED


async def test_a_file_that_is_open_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    async with Bank(path):
        pass
    beside = sqlite3.connect(path, timeout=0)
    beside.execute("PRAGMA journal_mode = WAL")
    beside.execute("SELECT * FROM accounts").fetchall()
    error = await opening(path)
    assert isinstance(error, LogLocked)
    assert error.reason is Reason.LOG_FILE_OPEN_ELSEWHERE
    assert str(os.getpid()) in error.message
    beside.close()
    async with Bank(path) as bank:
        assert len(await bank.balances()) == 3


# ---- whose, and what


async def test_a_file_of_another_participant_is_refused(tmp_path: Path) -> None:
    async with Bank(tmp_path / "bank.db"):
        pass
    error = await opening(tmp_path / "bank.db", "shop")
    assert isinstance(error, LogForeign)
    assert (error.reason, "'bank'" in error.message) == (Reason.LOG_FOREIGN, True)


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    async with Bank(tmp_path / "bank.db"):
        pass
    tampered(tmp_path / "bank.db", "UPDATE troth_meta SET value = '2' WHERE name = 'format_version'")
    assert (await opening(tmp_path / "bank.db")).reason is Reason.LOG_TOO_NEW


async def test_a_file_that_is_no_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database " * 1000)
    assert (await opening(path)).reason is Reason.LOG_FOREIGN
    assert path.read_text() == "no database " * 1000


async def test_an_existing_database_is_taken_over(tmp_path: Path) -> None:
    tampered(tmp_path / "bank.db", "CREATE TABLE accounts (id TEXT PRIMARY KEY NOT NULL, balance INTEGER)")
    tampered(tmp_path / "bank.db", "INSERT INTO accounts VALUES ('old', 5)")
    async with Bank(tmp_path / "bank.db", "") as bank:
        assert await bank.balances() == {"old": 5}


async def test_a_missing_directory_and_one_without_rights(tmp_path: Path) -> None:
    error = await opening(tmp_path / "nowhere" / "bank.db")
    assert isinstance(error, LogFailed)
    assert "Create the directory" in error.hint
    assert isinstance(await opening(tmp_path), LogFailed), "a directory is no file"


# ---- damage


async def some_records(path: Path) -> None:
    async with Bank(path) as bank:
        await bank.write(*[plain() for _ in range(5)])
        await bank.write(plain(), drop_below=2)


@pytest.mark.parametrize(
    ("sql", "where"),
    [
        ("UPDATE troth_records SET body = x'00' WHERE seq = 4", "record 4"),
        ("UPDATE troth_records SET crc = crc + 1 WHERE seq = 6", "record 6"),
        ("DELETE FROM troth_records WHERE seq = 3", "record 3"),
        ("UPDATE troth_records SET seq = 7 WHERE seq = 6", "record 6"),
        ("DELETE FROM troth_records WHERE seq > 4", "records 5 to 6"),
    ],
)
async def test_damage_is_found_and_named(tmp_path: Path, sql: str, where: str) -> None:
    path = tmp_path / "bank.db"
    await some_records(path)
    tampered(path, sql)
    error = await opening(path)
    assert isinstance(error, LogDamaged)
    assert where in error.message


async def test_every_damaged_page_is_refused_or_harmless(tmp_path: Path) -> None:
    """Whatever page is overwritten: an error of the log, or all records as they were."""
    path = tmp_path / "bank.db"
    await some_records(path)
    whole = path.read_bytes()
    for start in range(0, len(whole), 4096):
        path.write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
        bank = Bank(path)
        try:
            await bank.open()
        except (LogError, ConfigError):
            continue
        assert [one.seq for one in bank.stored] == [2, 3, 4, 5, 6]
        await bank.resource.close()


# ---- the schema script


async def test_the_script_runs_once_for_each_text(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    for _ in range(2):
        async with Bank(path) as bank:
            assert len(await bank.balances()) == 3
    more = "CREATE TABLE IF NOT EXISTS more (id INTEGER PRIMARY KEY);"
    async with Bank(path, more) as bank:
        assert await bank.rows("SELECT * FROM more") == []


@pytest.mark.parametrize(
    "script", ["CREATE TABL x", "CREATE TABLE x (a); COMMIT", "PRAGMA user_version = 1", "DROP TABLE troth_meta"]
)
async def test_a_bad_script_is_a_mistake_in_the_configuration(tmp_path: Path, script: str) -> None:
    with pytest.raises(ConfigError):
        await Bank(tmp_path / "bank.db", script).open()
    async with Bank(tmp_path / "bank.db") as bank:
        assert len(await bank.balances()) == 3


async def test_a_script_that_changes_tables_waits_until_nothing_is_undecided(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    async with Bank(path) as bank:
        work = (await bank.did("t1", add("a", 1))).work
    changing = "ALTER TABLE accounts ADD COLUMN more"
    error = await opening(path, schema=changing)
    assert error.reason is Reason.SCHEMA_MISMATCH
    assert "accounts" in error.message
    async with Bank(path, "CREATE TABLE other (id INTEGER PRIMARY KEY)") as bank:
        await bank.write(bank.undo("t1", work))
    async with Bank(path, changing) as bank:
        assert (await bank.rows("SELECT more FROM accounts LIMIT 1")) == [(None,)]


async def test_a_script_that_changes_rows_waits_until_nothing_is_undecided(tmp_path: Path) -> None:
    """No row is locked yet when it runs: it would read and change what nobody has decided."""
    path = tmp_path / "bank.db"
    async with Bank(path) as bank:
        work = (await bank.did("t1", add("a", 5))).work
    doubling = "UPDATE accounts SET balance = balance * 2"
    error = await opening(path, schema=doubling)
    assert error.reason is Reason.SCHEMA_MISMATCH
    assert "3 rows" in error.message
    async with Bank(path, "INSERT OR IGNORE INTO accounts VALUES ('a', 1)") as bank:
        await bank.write(bank.undo("t1", work))
    async with Bank(path, doubling) as bank:
        assert await bank.balances() == {"a": 200, "b": 200, "c": 200}


# ---- crashes


def clone(path: Path, to: Path) -> Path:
    """What a crash at this moment would leave: the file and its write-ahead log, as they are."""
    to.mkdir()
    for suffix in ("", "-wal"):
        if (source := Path(f"{path}{suffix}")).exists():
            shutil.copyfile(source, to / f"bank.db{suffix}")
    return to / "bank.db"


async def test_a_crash_at_any_batch_leaves_branches_that_can_be_finished_either_way(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    clones: list[tuple[Path, dict[str, int]]] = []
    decided = {"a": 100, "b": 100, "c": 100}
    async with Bank(path) as bank:
        for number, account in enumerate("abcabc"):
            name = f"t{number}"
            await bank.write(bank.execute(name, add(account, 1), mode=Mode.ACTIVE), sync=False)
            await bank.write(bank.execute(name, add(account, 10), earlier_changed=True))
            clones.append((clone(path, tmp_path / f"crash-{number}"), dict(decided)))
            await bank.write(bank.release(name))
            decided[account] += 11
    for crashed, expected in clones:
        async with Bank(crashed) as bank:
            await undo_all(bank)
            assert await bank.balances() == expected


async def undo_all(bank: Bank) -> None:
    """What the core does at recovery, with ABORT as every outcome."""
    works: dict[str, list[record_pb2.BranchWork]] = {}
    for stored in bank.stored:
        record = record_pb2.ParticipantRecord.FromString(stored.body)
        kind = record.WhichOneof("kind")
        if kind == "branch_finished":
            works.pop(record.branch_finished.transaction_id)
        elif kind in ("branch_active", "branch_prepared"):
            branch = getattr(record, kind)
            works.setdefault(branch.transaction_id, []).append(branch.work)
    assert len(works) == 1
    for name, done in works.items():
        bank.resource.recover_locks(name, [row for work in done for row in work.rows])
        assert (await bank.refused("other", add("a", 1), add("b", 1), add("c", 1))).reason == "CONFLICT"
        assert isinstance(await bank.one(bank.undo(name, *done)), Undone)


def cuts(path: Path, step: int) -> Iterator[None]:
    """Cut the write-ahead log at one place after the other; the file is each time as it was."""
    wal = Path(f"{path}-wal")
    whole, base = wal.read_bytes(), path.read_bytes()
    for length in range(32, len(whole) + 1, step):
        path.write_bytes(base)
        wal.write_bytes(whole[:length])
        yield


async def test_every_cut_of_the_write_ahead_log_leaves_record_and_work_together(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    async with Bank(path) as bank:
        for number in range(4):
            await bank.write(bank.execute(f"t{number}", add("a", 1), mode=Mode.ONE_PHASE))
        crashed = clone(path, tmp_path / "crash")
    for _ in cuts(crashed, 1031):
        async with Bank(crashed) as bank:
            assert (await bank.balances())["a"] == 100 + len(kinds(bank.stored))


async def test_a_process_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    program = """
import asyncio, os, signal, sys
from pathlib import Path
from sqlite_harness import Bank, add
async def main():
    bank = await Bank(Path(sys.argv[1])).open()
    await bank.write(bank.execute("t1", add("a", 1)))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    path = tmp_path / "bank.db"
    assert run_program(program, path) == -9
    async with Bank(path) as bank:
        assert kinds(bank.stored) == ["branch_prepared"]
        assert (await bank.balances())["a"] == 101


@pytest.mark.parametrize("misuse", [lambda one: one.open(), lambda one: one.write([plain()], sync=True)])
async def test_misuse_is_an_assertion(tmp_path: Path, misuse: Callable[[SqliteResource], object]) -> None:
    resource = SqliteResource(tmp_path / "bank.db")
    with pytest.raises(AssertionError):
        await misuse(resource)  # type: ignore[misc]  # both are coroutines
    await resource.close()
