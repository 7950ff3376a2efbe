"""What an operation may do, what becomes of its result, and how it fails."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest
from sqlite_harness import Bank, add, kinds, plain, run_program, values

from participant_sdk.core.work import Executed, ExecuteRefused, Keys, Mode, Wanted
from participant_sdk.lock_keys import Read
from troth.errors import Aborted, Refuse, RequestError
from troth.v1 import common_pb2, record_pb2


def stored(bank: Bank) -> Any:
    """The records as they are in the file now."""
    assert bank.resource._log is not None
    return bank.resource._log._file.records()[0]


async def test_results_come_back_in_order_and_stand_in_the_record(bank: Bank) -> None:
    done = await bank.did("t1", lambda db: db.one("SELECT balance FROM accounts WHERE id = 'a'")[0], add("a", -1))
    assert (values(done), done.changed) == ([100, 0], True)
    assert list(done.work.keys) == ["key"]
    prepared = record_pb2.ParticipantRecord.FromString(stored(bank)[0].body).branch_prepared
    assert prepared.work == done.work
    assert len(done.work.undo) == 1
    assert await bank.balances() == {"a": 99, "b": 100, "c": 100}


async def test_the_operations_of_one_call_happen_together_or_not_at_all(bank: Bank) -> None:
    cause = await bank.refused("t1", add("a", -1), add("b", -101))
    assert (cause.reason, cause.retryable) == ("CONSTRAINT", False)
    assert "SQLITE" not in cause.message
    assert "CONSTRAINT_CHECK" in cause.message
    assert (await bank.balances())["a"] == 100


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_call_that_changes_nothing_leaves_no_record(bank: Bank, mode: Mode) -> None:
    written = await bank.write(bank.execute("t1", "SELECT 1", "UPDATE accounts SET balance = balance", mode=mode))
    assert written.seqs == [0]
    assert isinstance(written.events[0], Executed)
    assert not written.events[0].changed


@pytest.mark.parametrize("why", ["hold", "earlier_changed"])
async def test_a_branch_that_must_vote_yes_has_a_record_all_the_same(bank: Bank, why: str) -> None:
    written = await bank.write(bank.execute("t1", "SELECT 1", **{why: True}))
    assert written.seqs == [1]


async def test_one_phase_keeps_the_results_and_no_undo(bank: Bank) -> None:
    done = await bank.did("t1", lambda db: db.execute(add("a", 5)) or 7, mode=Mode.ONE_PHASE)
    assert not done.work.undo
    record = record_pb2.ParticipantRecord.FromString(stored(bank)[0].body).branch_finished
    assert record.results.values[0].integer == 7
    assert (await bank.did("t2", add("a", 5))).changed  # its rows are free at once


async def test_refuse_goes_out_whole(bank: Bank) -> None:
    def refuse(db: Any) -> None:
        db.execute(add("a", -1))
        raise Refuse("NO_FUNDS", "too poor", retryable=True)

    cause = await bank.refused("t1", refuse)
    assert (cause.reason, cause.code, cause.message, cause.retryable) == ("REFUSED", "NO_FUNDS", "too poor", True)
    assert (await bank.balances())["a"] == 100


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit("secret"), KeyboardInterrupt()])
async def test_of_any_other_exception_only_the_type_goes_out(bank: Bank, error: BaseException) -> None:
    def fail(db: Any) -> None:
        db.execute(add("a", -1))
        raise error

    cause = await bank.refused("t1", fail)
    assert cause.reason == "OPERATION_FAILED"
    assert type(error).__name__ in cause.message
    assert "secret" not in cause.message
    assert (await bank.balances())["a"] == 100


async def test_an_unknown_operation_is_refused(bank: Bank) -> None:
    append = bank.execute("t1", "SELECT 1")
    append.apply.operations[0].name = "nobody"
    event = await bank.one(append)
    assert event.cause.reason == "UNKNOWN_OPERATION"


@pytest.mark.parametrize("value", [object(), {1: 2}, 2**64, [{"x": {1, 2}}]])
async def test_a_result_that_cannot_be_encoded_is_refused(bank: Bank, value: object) -> None:
    cause = await bank.refused("t1", add("a", -1), lambda db: value)
    assert cause.reason == "BAD_RESULT"
    assert (await bank.balances())["a"] == 100


async def test_results_have_a_limit(tmp_path: Path) -> None:
    async with Bank(tmp_path / "bank.db", results_bytes_max=100) as bank:
        assert (await bank.refused("t1", lambda db: "x" * 101)).reason == "BAD_RESULT"


async def test_a_coroutine_is_refused_and_closed(bank: Bank) -> None:
    async def later() -> None: ...

    cause = await bank.refused("t1", lambda db: later())
    assert (cause.reason, "awaitable" in cause.message) == ("OPERATION_FAILED", True)


async def test_a_runaway_query_is_broken_off(tmp_path: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    async with Bank(tmp_path / "bank.db", operation_seconds_max=0.05) as bank:
        for sql in (endless + "SELECT count(*) FROM n", endless + "INSERT INTO accounts SELECT 'x' || i, i FROM n"):
            cause = await bank.refused("t1", add("a", -1), sql)
            assert cause.reason == "OPERATION_FAILED"
            assert "longer than 0.05 seconds" in cause.message
        assert await bank.balances() == {"a": 100, "b": 100, "c": 100}


async def test_a_constraint_that_the_author_expects_is_no_failure(bank: Bank) -> None:
    def insert_or_add(db: Any) -> str:
        try:
            db.execute("INSERT INTO accounts VALUES ('a', 1)")
        except apsw.ConstraintError:
            db.execute(add("a", 1))
        return "added"

    done = await bank.did("t1", insert_or_add)
    assert values(done) == ["added"]
    assert (await bank.balances())["a"] == 101


async def test_a_constraint_may_be_worth_a_retry_while_others_are_undecided(bank: Bank) -> None:
    await bank.did("t1", "INSERT INTO accounts VALUES ('d', 1)")
    cause = await bank.refused("t2", "INSERT INTO accounts VALUES ('d', 2)")
    assert (cause.reason, cause.retryable) == ("CONSTRAINT", True)


async def test_deferred_foreign_keys_are_checked_after_each_call(tmp_path: Path) -> None:
    schema = """
        CREATE TABLE parent (id INTEGER PRIMARY KEY);
        CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
    """
    async with Bank(tmp_path / "bank.db", schema) as bank:
        orphan = "INSERT INTO child VALUES (1, 7)"
        written = await bank.write(
            bank.execute("t1", "INSERT INTO child VALUES (2, 8)", "INSERT INTO parent VALUES (8)"),
            bank.execute("t2", orphan),
            bank.execute("t3", "INSERT INTO parent VALUES (9)"),
        )
        assert [bool(seq) for seq in written.seqs] == [True, False, True]
        assert written.events[1].cause.reason == "CONSTRAINT"
        assert isinstance((await bank.locally(orphan)).error, Aborted)
        assert await bank.rows("SELECT id FROM child") == [(2,)]


async def test_a_deferred_foreign_key_may_hold_later(tmp_path: Path) -> None:
    """Its parent may have been deleted by a branch that is not finished: then another attempt may succeed."""
    schema = """
        CREATE TABLE parent (id INTEGER PRIMARY KEY);
        CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO parent VALUES (7);
    """
    async with Bank(tmp_path / "bank.db", schema) as bank:
        assert not (await bank.refused("t0", "INSERT INTO child VALUES (1, 8)")).retryable, "nothing is undecided"
        deleted = (await bank.did("t1", "DELETE FROM parent WHERE id = 7")).work
        cause = await bank.refused("t2", "INSERT INTO child VALUES (1, 7)")
        assert (cause.reason, cause.retryable) == ("CONSTRAINT", True)
        await bank.write(bank.undo("t1", deleted))
        assert (await bank.did("t2", "INSERT INTO child VALUES (1, 7)")).changed


async def test_the_database_is_closed_to_others_than_the_running_function(bank: Bank) -> None:
    kept: list[Any] = []
    seen: list[BaseException] = []

    def elsewhere(db: Any) -> None:
        try:
            db.execute("SELECT 1")
        except RequestError as error:
            seen.append(error)

    def keep(db: Any) -> None:
        kept.append(db)
        thread = threading.Thread(target=elsewhere, args=(db,))
        thread.start()
        thread.join()

    await bank.did("t1", keep)
    elsewhere(kept[0])
    assert len(seen) == 2


async def test_local_reads_and_writes(bank: Bank) -> None:
    assert (await bank.locally(add("a", 1))).error is None
    assert (await bank.locally(lambda db: db.one("SELECT balance FROM accounts WHERE id = 'a'"), write=False)).value == (101,)
    assert (await bank.locally(lambda db: db.one("SELECT 1 WHERE 0"), write=False)).value is None
    refused = await bank.locally(add("a", 1), write=False)
    assert isinstance(refused.error, Aborted)
    assert refused.error.reason.name == "FORBIDDEN_SQL"
    failed = await bank.locally(lambda db: db.execute(add("a", 1)) or 1 // 0)
    assert isinstance(failed.error, ZeroDivisionError)
    assert (await bank.balances())["a"] == 101


async def test_a_statement_known_from_an_operation_does_not_write_in_a_local_read(bank: Bank) -> None:
    await bank.did("t1", add("a", 1))
    await bank.write(bank.release("t1"))
    assert isinstance((await bank.locally(add("a", 1), write=False)).error, Aborted)
    assert (await bank.balances())["a"] == 101


async def test_a_local_write_respects_the_rows_of_undecided_branches(bank: Bank) -> None:
    await bank.did("t1", add("a", 1))
    refused = await bank.locally(add("a", 1))
    assert isinstance(refused.error, Aborted)
    assert (refused.error.reason.name, refused.error.retryable) == ("CONFLICT", True)
    assert (await bank.locally(add("b", 1))).error is None


async def test_rows_stay_locked_until_the_outcome(bank: Bank) -> None:
    work = (await bank.did("t1", add("a", 1))).work
    assert (await bank.did("t1", add("a", 1))).changed, "its own rows are no obstacle"
    cause = await bank.refused("t2", add("b", 1), add("a", 1))
    assert (cause.reason, cause.retryable) == ("CONFLICT", True)
    assert (await bank.refused("t2", add("a", 1), mode=Mode.ONE_PHASE)).reason == "CONFLICT"
    await bank.did("t3", add("b", 1))
    await bank.write(bank.release("t1"))
    await bank.did("t2", add("a", 1))
    assert work.rows


async def test_rows_are_locked_by_the_key_that_the_table_has_now(bank: Bank) -> None:
    """Where the key's columns are is remembered until the schema changes."""
    await bank.locally("CREATE TABLE pairs (one INTEGER PRIMARY KEY, two INTEGER NOT NULL)", schema=True)
    await bank.did("t1", "INSERT INTO pairs VALUES (1, 2)")
    await bank.write(bank.release("t1"))
    await bank.locally("DROP TABLE pairs; CREATE TABLE pairs (one INTEGER, two INTEGER PRIMARY KEY)", schema=True)
    await bank.did("t2", "INSERT INTO pairs VALUES (1, 2)")
    await bank.did("t3", "INSERT INTO pairs VALUES (1, 3)")
    assert (await bank.refused("t4", "UPDATE pairs SET one = 9 WHERE two = 2")).reason == "CONFLICT"


async def test_locks_are_taken_again_at_recovery(tmp_path: Path) -> None:
    async with Bank(tmp_path / "bank.db") as bank:
        work = (await bank.did("t1", add("a", 1))).work
    async with Bank(tmp_path / "bank.db") as bank:
        bank.resource.recover_locks("t1", list(work.rows))
        assert (await bank.refused("t2", add("a", 1))).reason == "CONFLICT"
        await bank.write(bank.undo("t1", work))
        await bank.did("t2", add("a", 1))


async def test_records_survive_and_old_ones_are_dropped(tmp_path: Path) -> None:
    async with Bank(tmp_path / "bank.db") as bank:
        assert (await bank.write(plain(), plain(), plain())).seqs == [1, 2, 3]
        assert (await bank.write(plain(), drop_below=3)).seqs == [4]
    async with Bank(tmp_path / "bank.db") as bank:
        assert [one.seq for one in bank.stored] == [3, 4]
        assert kinds(bank.stored) == ["branch_finished"] * 2
        await bank.write(bank.local("SELECT 1"), drop_below=5)
    async with Bank(tmp_path / "bank.db") as bank:
        assert [one.seq for one in bank.stored] == [4], "the newest says how far the log is"
        assert (await bank.write(plain())).seqs == [5], "a seq is never used twice"


async def test_the_failpoint_stands_between_the_operation_and_its_record(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from pathlib import Path
from sqlite_harness import Bank, add
from troth import failpoints
async def main():
    bank = await Bank(Path(sys.argv[1])).open()
    await bank.write(bank.execute("t0", add("b", 1)))
    failpoints.arm("participant:after-apply:operation=exit")
    await bank.write(bank.execute("t1", add("a", 1)))
asyncio.run(main())
"""
    path = tmp_path / "bank.db"
    assert run_program(program, path) == 70
    async with Bank(path) as bank:
        assert len(bank.stored) == 1
        assert await bank.balances() == {"a": 100, "b": 101, "c": 100}


async def test_a_text_that_is_not_unicode_hurts_only_its_operation(bank: Bank) -> None:
    def returning(db: Any) -> None:
        db.execute("INSERT INTO accounts VALUES ('d', 1), ('e', 2) RETURNING CAST(x'ff' AS TEXT)")

    written = await bank.write(
        bank.execute("t1", "INSERT INTO accounts VALUES (CAST(x'ff' AS TEXT), 1)"),
        bank.execute("t2", returning),
        bank.execute("t3", "INSERT INTO accounts VALUES ('f', 3) RETURNING id"),
    )
    assert [event.cause.reason for event in written.events[:2]] == ["UNCAPTURED_TABLE", "OPERATION_FAILED"]
    assert set(await bank.balances()) == {"a", "b", "c", "f"}


async def test_causes_are_safe_to_show(bank: Bank) -> None:
    def leak(db: Any) -> None:
        db.execute("SELECT json(?)", ("{secret",))

    cause = await bank.refused("t1", leak)
    assert "secret" not in json.dumps(cause.message)
    assert isinstance(cause, common_pb2.Cause)


async def test_each_operation_of_a_branch_keeps_to_its_own_keys(bank: Bank) -> None:
    def reads(db: Any) -> None:
        db.execute(add("a", 1))

    reads.reads_only = True  # type: ignore[attr-defined]  # as a bound operation has it
    refused = await bank.refused("t1", add("b", 1), reads, keys=Keys(("b",), ("a",)))
    assert refused.reason == "SHARED_KEYS", "the exclusive key is the other operation's"
    assert (await bank.balances())["b"] == 100


async def test_an_operation_that_finds_a_key_leaves_nothing_and_runs_again_with_it(bank: Bank) -> None:
    def moves(db: Any) -> int:
        db.execute(add("a", -10))
        (other,) = db.one("SELECT id FROM accounts WHERE balance = 100 AND id > 'a' ORDER BY id")
        try:
            db.lock(other, Read("rates"))
        except Exception as error:  # whoever catches it is broken off all the same
            assert isinstance(error, RequestError)
            with pytest.raises(RequestError, match="let it end"):
                db.execute("SELECT 1")
            raise Refuse("CAUGHT") from error
        db.execute(f"UPDATE accounts SET balance = balance + 10 WHERE id = '{other}'")
        return 7

    written = await bank.write(bank.execute("t1", moves, keys=Keys(("a",))), bank.execute("t2", add("c", 1)))
    wanted = written.events[0]
    assert wanted == Wanted("t1", "", Keys(("b",), ("rates",))) and written.seqs[0] == 0
    assert await bank.balances() == {"a": 100, "b": 100, "c": 101}
    done = await bank.did("t1", moves, keys=Keys(("a", "b"), ("rates",)))
    assert (list(done.work.keys), list(done.work.shared_keys)) == (["a", "b"], ["rates"])
    assert await bank.balances() == {"a": 90, "b": 110, "c": 101}


async def test_a_found_key_lets_who_only_read_change_something(bank: Bank) -> None:
    def changes(db: Any) -> None:
        db.lock(Read("a"))
        with pytest.raises(RequestError, match="may only read"):
            db.execute(add("a", 1))

    def locks_and_changes(db: Any) -> None:
        db.lock("b")
        db.execute(add("b", 1))

    changes.reads_only = locks_and_changes.reads_only = True  # type: ignore[attr-defined]  # as a bound operation has it
    assert (await bank.refused("t1", changes, keys=Keys(("b",), ("a",)))).reason == "SHARED_KEYS"
    assert (await bank.did("t1", locks_and_changes, keys=Keys(("b",), ("a",)))).changed


async def test_what_cannot_be_locked_is_refused(bank: Bank) -> None:
    for wrong in ((), ("",), (7,)):
        assert (await bank.refused("t1", lambda db, wrong=wrong: db.lock(*wrong))).reason == "INVALID_ARGUMENT"
    for write in (True, False):
        done = await bank.locally(lambda db: db.lock("a"), write=write)
        assert isinstance(done.error, RequestError) and "locks=" in done.error.hint


async def test_who_shares_all_of_its_keys_changes_nothing(bank: Bank) -> None:
    keys = Keys((), ("balances", "*"))
    done = await bank.one(bank.execute("t1", "SELECT count(*) FROM accounts", keys=keys))
    assert isinstance(done, Executed) and not done.changed
    refused = await bank.one(bank.execute("t2", add("a", 1), keys=keys))
    assert isinstance(refused, ExecuteRefused)
    assert refused.cause.reason == "SHARED_KEYS" and "UPDATE accounts: it may only read" in refused.cause.message
    held = await bank.did("t3", add("a", 1), keys=Keys(("a",), ("balances",)))
    assert (list(held.work.keys), list(held.work.shared_keys)) == (["a"], ["balances"])
