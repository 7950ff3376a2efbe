"""One batch is one transaction, and one bad operation does not spoil it for the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from sqlite_harness import SCHEMA, Bank, add, as_function, kinds, plain

from participant_sdk.core.work import Executed, ExecuteRefused, LocalDone, Mode, Undone
from troth.errors import Aborted, LogFailed

TRIGGER = """
CREATE TABLE trap (id INTEGER PRIMARY KEY);
CREATE TRIGGER spring BEFORE INSERT ON trap BEGIN SELECT RAISE(ROLLBACK, 'sprung'); END;
"""
OFFENCES = [
    "INSERT OR ROLLBACK INTO accounts VALUES ('a', 1)",
    "UPDATE OR ROLLBACK accounts SET balance = -1 WHERE id = 'a'",
    "INSERT INTO trap VALUES (1)",
]


def stubborn(sql: str) -> Any:
    """Hides the error and goes on, so that what follows would be outside of any transaction."""

    def run(db: Any) -> str:
        for one in (sql, add("a", 1000)):
            try:
                db.execute(one)
            except Exception:
                continue
        return "fine"

    return run


@pytest.mark.parametrize("wrap", [as_function, stubborn])
@pytest.mark.parametrize("sql", OFFENCES)
async def test_an_operation_that_ends_the_transaction_ends_only_itself(tmp_path: Path, sql: str, wrap: Any) -> None:
    path = tmp_path / "bank.db"
    async with Bank(path, SCHEMA + TRIGGER) as bank:
        earlier = await bank.one(bank.execute("t0", add("c", -7), mode=Mode.ACTIVE), sync=False)
        assert isinstance(earlier, Executed)
        undecided = (await bank.did("t9", add("c", 0), "INSERT INTO accounts VALUES ('e', 1)")).work
        written = await bank.write(
            plain(),
            bank.execute("t1", add("a", 1)),
            bank.release("t0"),
            bank.execute("t2", add("b", 50), wrap(sql)),
            bank.undo("t9", undecided),
            bank.execute("t3", add("c", 1)),
            bank.local(add("b", 5)),
        )
        assert [type(event) for event in written.events] == [
            type(None), Executed, type(None), ExecuteRefused, Undone, Executed, LocalDone,
        ]  # fmt: skip
        assert written.events[3].cause.reason == "FORBIDDEN_SQL"
        assert written.seqs == [3, 4, 5, 0, 6, 7, 0]
        assert await bank.balances() == {"a": 101, "b": 105, "c": 94}
        assert (await bank.refused("t4", add("a", 1))).reason == "CONFLICT", "locks are as if the offender never was"
        assert (await bank.did("t4", add("b", 1))).changed
    async with Bank(path, SCHEMA + TRIGGER) as bank:
        assert kinds(bank.stored[2:7]) == [
            "branch_finished",
            "branch_prepared",
            "branch_finished",
            "branch_finished",
            "branch_prepared",
        ]


async def test_every_offender_of_a_batch_is_refused(bank: Bank) -> None:
    runs: list[str] = []

    def innocent(name: str) -> Any:
        return lambda db: runs.append(name) or db.execute(f"INSERT INTO accounts VALUES ('{name}', 1)") or 1

    offence = OFFENCES[0]
    names = [f"n{number}" for number in range(5)]
    batch = []
    for name in names:
        batch += [bank.execute(name, innocent(name)), bank.execute(f"bad-{name}", offence)]
    written = await bank.write(*batch)
    assert [isinstance(event, Executed) for event in written.events] == [True, False] * 5
    assert written.seqs == [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]
    assert max(runs.count(name) for name in names) <= 2
    assert set(await bank.balances()) == {"a", "b", "c", *names}


async def test_a_local_function_that_ends_the_transaction_is_told_so(bank: Bank) -> None:
    written = await bank.write(bank.execute("t1", add("a", 1)), bank.local(OFFENCES[0]))
    assert isinstance(written.events[1].error, Aborted)
    assert written.events[1].error.reason.name == "FORBIDDEN_SQL"
    assert await bank.balances() == {"a": 101, "b": 100, "c": 100}


async def test_old_records_are_dropped_with_the_last_part_of_a_batch(bank: Bank) -> None:
    """What replaces them may stand in any part of it."""
    assert bank.resource._log is not None
    await bank.write(plain(), plain())
    said: list[str] = []
    bank.resource._log._file.connection.exec_trace = lambda cursor, sql, bindings: said.append(sql.split()[0]) or True
    await bank.write(plain(), bank.execute("bad", OFFENCES[0]), plain(), drop_below=3)
    assert [word for word in said if word in ("COMMIT", "DELETE")] == ["COMMIT", "DELETE", "COMMIT"]


class FailingCommit:
    """Makes the next COMMIT fail."""

    def __init__(self, bank: Bank, error: apsw.Error) -> None:
        assert bank.resource._log is not None
        self.log = bank.resource._log
        self.error: apsw.Error | None = error
        self.sql = self.log._sql
        self.log._sql = self

    def __call__(self, sql: str, *arguments: Any) -> Any:
        if sql.startswith("COMMIT") and self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.sql(sql, *arguments)


async def test_a_commit_that_fails_refuses_all_new_work_and_writes_the_rest(bank: Bank) -> None:
    done = await bank.did("t0", add("c", 5))
    FailingCommit(bank, apsw.ConstraintError("deferred"))
    written = await bank.write(plain(), bank.execute("t1", add("a", 1)), bank.undo("t0", done.work), bank.local(add("b", 1)))
    assert isinstance(written.events[1], ExecuteRefused)
    assert (written.events[1].cause.reason, written.events[1].cause.retryable) == ("GROUP_LOST", True)
    assert isinstance(written.events[2], Undone)
    assert isinstance(written.events[3].error, Aborted)
    assert written.seqs == [2, 0, 3, 0]
    assert await bank.balances() == {"a": 100, "b": 100, "c": 100}
    assert (await bank.did("t2", add("a", 1), add("b", 1), add("c", 1))).changed, "no lock is left over"


async def test_a_lock_that_a_lost_group_dropped_is_held_again(bank: Bank) -> None:
    await bank.did("t1", add("a", 1))
    written = await bank.write(bank.execute("bad", OFFENCES[0]), bank.execute("t2", add("a", 1)), bank.release("t1"))
    assert [isinstance(event, ExecuteRefused) for event in written.events] == [True, True, False]
    written = await bank.write(bank.release("t1"), bank.execute("t2", add("a", 1)), bank.execute("bad", OFFENCES[0]))
    assert isinstance(written.events[1], Executed)


async def test_a_rolled_back_savepoint_is_released(bank: Bank) -> None:
    """Otherwise each later rollback in the batch replays the journal of every earlier one."""
    assert bank.resource._log is not None
    said: list[str] = []
    bank.resource._log._file.connection.exec_trace = lambda cursor, sql, bindings: said.append(sql.split(" /*")[0]) or True
    await bank.refused("t1", add("a", -1000))
    work = said[said.index("SAVEPOINT troth_work") : said.index("COMMIT")]
    assert [sql for sql in work if "troth_work" in sql] == ["SAVEPOINT troth_work", "ROLLBACK TO troth_work", "RELEASE troth_work"]


@pytest.mark.parametrize("error", [apsw.FullError("disk full"), apsw.IOError("disk I/O error")])
async def test_an_io_error_in_commit_ends_the_log(bank: Bank, error: apsw.Error) -> None:
    FailingCommit(bank, error)
    with pytest.raises(LogFailed, match="committing"):
        await bank.write(plain())
    with pytest.raises(LogFailed, match="committing"):
        await bank.write(plain())


async def test_a_full_disk_inside_an_operation_ends_the_log_even_if_it_is_hidden(bank: Bank) -> None:
    assert bank.resource._log is not None
    connection = bank.resource._log._file.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchall()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()

    def fill(db: Any) -> None:
        try:
            db.execute("INSERT INTO accounts VALUES (?, 1)", ("x" * 100_000,))
        except Exception:
            return

    with pytest.raises(LogFailed, match="FullError"):
        await bank.write(bank.execute("t1", fill))


async def test_a_bug_of_ours_ends_the_log_too(bank: Bank) -> None:
    append = replace(plain(), apply="no work")
    with pytest.raises(LogFailed, match="AssertionError"):
        await bank.write(append)


async def test_a_forced_batch_makes_durable_what_was_written_before_it(bank: Bank) -> None:
    assert bank.resource._log is not None
    log = bank.resource._log
    await bank.write(bank.execute("t1", add("a", 1), mode=Mode.ACTIVE), sync=False)
    assert log._unsynced
    await bank.write(bank.execute("t2", "COMMIT"), sync=True)  # refused: nothing of its own to sync
    assert not log._unsynced
    await bank.write(bank.execute("t3", add("b", 1), mode=Mode.ACTIVE), sync=False)
    await bank.write(plain(), sync=True)
    assert not log._unsynced
    assert log._file.connection.execute("PRAGMA synchronous").fetchall() == [(2,)]
