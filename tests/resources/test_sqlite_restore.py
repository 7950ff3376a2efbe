"""After an undo the rows are the old ones, whatever the author's schema says of conflicts; or nothing was done, and it is said."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import apsw
import pytest
from sqlite_harness import Bank

from participant_sdk.core.work import Mode, UndoFailed, Undone
from participant_sdk.resources import sqlite_restore
from troth.errors import LogError, Reason

CLAUSES = ["ROLLBACK", "ABORT", "FAIL", "IGNORE", "REPLACE"]
PAIRS = "INSERT INTO u VALUES (1, 'x', 5), (2, 'y', 6), (3, 'z', 7);"


async def undone(bank: Bank, transaction_id: str, *works: Any) -> Any:
    return (await bank.write(bank.undo(transaction_id, *works))).events[0]


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize(
    "columns",
    [
        "id INTEGER PRIMARY KEY, name TEXT UNIQUE ON CONFLICT {}, n",
        "id INTEGER PRIMARY KEY ON CONFLICT {0}, name TEXT, n, UNIQUE (name) ON CONFLICT {0}",
        "id TEXT NOT NULL PRIMARY KEY ON CONFLICT {0}, name TEXT NOT NULL ON CONFLICT {0} UNIQUE ON CONFLICT {0}, n",
    ],
)
async def test_two_rows_that_exchanged_a_unique_value_are_restored(tmp_path: Path, columns: str, clause: str) -> None:
    swap = [f"UPDATE u SET name = '{name}' WHERE id = {number}" for name, number in (("-", 1), ("x", 2), ("y", 1))]
    async with Bank(tmp_path / "bank.db", f"CREATE TABLE u ({columns.format(clause)}); {PAIRS}") as bank:
        before = await bank.rows("SELECT * FROM u ORDER BY id")
        work = (await bank.did("t1", *swap, "DELETE FROM u WHERE id = 3", "INSERT INTO u VALUES (4, 'z', 8)")).work
        assert isinstance(await undone(bank, "t1", work), Undone)
        assert await bank.rows("SELECT * FROM u ORDER BY id") == before


@pytest.mark.parametrize("clause", CLAUSES)
async def test_a_row_that_cannot_go_back_parks_its_branch_and_takes_nothing_of_anybody(tmp_path: Path, clause: str) -> None:
    schema = f"CREATE TABLE u (id INTEGER PRIMARY KEY, name TEXT UNIQUE ON CONFLICT {clause}, n); {PAIRS}"
    async with Bank(tmp_path / "bank.db", schema) as bank:
        first = (await bank.did("t1", "DELETE FROM u WHERE id = 1")).work
        second = (await bank.did("t2", "UPDATE u SET n = 0 WHERE id = 2")).work
        await bank.did("t3", "INSERT INTO u VALUES (9, 'x', 1)", mode=Mode.ONE_PHASE)
        written = await bank.write(bank.undo("t1", first), bank.undo("t2", second))
        assert isinstance(written.events[0], UndoFailed) and "UNIQUE" in written.events[0].why
        assert isinstance(written.events[1], Undone), "the batch went on"
        assert await bank.rows("SELECT * FROM u ORDER BY id") == [(2, "y", 6), (3, "z", 7), (9, "x", 1)]


CARELESS = """
CREATE TABLE parent (id INTEGER PRIMARY KEY);
CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED,
    n INTEGER CHECK (n > 0));
"""
BROKEN = "INSERT INTO parent VALUES (1); INSERT INTO child VALUES (10, 1, 1), (11, 77, -1), (12, 77, 1);"


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM child",
        "UPDATE child SET n = 5",
        "UPDATE child SET parent = 1",
        "UPDATE child SET id = id + 100, parent = NULL, n = NULL",
        "INSERT INTO parent VALUES (77)",
    ],
)
async def test_rows_that_broke_a_constraint_before_are_restored(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "bank.db"
    with sqlite3.connect(path) as behind:
        behind.executescript(f"PRAGMA ignore_check_constraints = ON; {CARELESS} {BROKEN}")
    behind.close()
    async with Bank(path, CARELESS.replace("TABLE", "TABLE IF NOT EXISTS")) as bank:
        before = await bank.rows("SELECT * FROM child UNION ALL SELECT id, 0, 0 FROM parent")
        work = (await bank.did("t1", sql)).work
        assert isinstance(await undone(bank, "t1", work), Undone)
        assert await bank.rows("SELECT * FROM child UNION ALL SELECT id, 0, 0 FROM parent") == before
        for forbidden in ("INSERT INTO child VALUES (13, 78, 1)", "INSERT INTO child VALUES (13, 1, -1)"):
            assert (await bank.refused("t2", forbidden)).reason == "CONSTRAINT", "constraints are enforced again"


FAMILY = """
CREATE TABLE parent (id INTEGER PRIMARY KEY, code TEXT COLLATE NOCASE, region, note, UNIQUE (region, code));
CREATE TABLE child (id INTEGER PRIMARY KEY, parent TEXT REFERENCES parent ON DELETE CASCADE, region, code,
                    FOREIGN KEY (code, region) REFERENCES parent (code, region));
INSERT INTO parent VALUES (1, 'one', 'eu', 0), (2, 'two', 'eu', 0), (3, 'three', 'us', 0);
INSERT INTO child VALUES (10, 1, NULL, NULL), (11, NULL, 'eu', 'TWO'), (12, NULL, 'eu', 'one');
"""
TIES = [
    ("INSERT INTO parent VALUES (4, NULL, NULL, 0)", "INSERT INTO child VALUES (13, '4', NULL, NULL)"),
    ("INSERT INTO parent VALUES (4, 'Four', 'eu', 0)", "UPDATE child SET code = 'FOUR' WHERE id = 12"),
    ("UPDATE parent SET code = 'drei' WHERE id = 3", "INSERT INTO child VALUES (13, NULL, 'us', 'DREI')"),
    ("UPDATE child SET code = NULL WHERE id = 11", "DELETE FROM parent WHERE id = 2"),
    ("DELETE FROM child WHERE id = 11", "UPDATE parent SET region = 'us' WHERE id = 2"),
]


@pytest.mark.parametrize(("first", "second"), TIES)
async def test_a_row_and_a_reference_to_it_are_not_changed_by_two_branches(tmp_path: Path, first: str, second: str) -> None:
    async with Bank(tmp_path / "bank.db", FAMILY) as bank:
        everything = "SELECT 'p', * FROM parent UNION ALL SELECT 'c', id, parent, region, code FROM child"
        before = await bank.rows(everything)
        work = (await bank.did("t1", first)).work
        cause = await bank.refused("t2", second)
        assert (cause.reason, cause.retryable) == ("CONFLICT", True)
        assert isinstance(await undone(bank, "t1", work), Undone)
        assert await bank.rows(everything) == before
        await bank.did("t1", first, mode=Mode.ONE_PHASE)
        await bank.did("t3", second)


async def test_the_ties_of_a_branch_in_doubt_hold_after_a_restart(tmp_path: Path) -> None:
    path, (first, second) = tmp_path / "bank.db", TIES[0]
    async with Bank(path, FAMILY) as bank:
        work = (await bank.did("t1", first)).work
    async with Bank(path, FAMILY) as bank:
        bank.resource.recover_locks("t1", work.rows)
        assert (await bank.refused("t2", second)).reason == "CONFLICT"
        await bank.write(bank.release("t1"))
        await bank.did("t2", second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("INSERT INTO child VALUES (13, 1, NULL, NULL)", "INSERT INTO child VALUES (14, 1, NULL, NULL)"),
        ("UPDATE parent SET note = 1 WHERE id = 1", "INSERT INTO child VALUES (13, 1, NULL, NULL)"),
        ("DELETE FROM child WHERE id = 10", "INSERT INTO child VALUES (13, 1, NULL, NULL)"),
        ("INSERT INTO parent VALUES (4, 'x', 'eu', 0)", "INSERT INTO child VALUES (13, 1, NULL, NULL)"),
    ],
)
async def test_what_is_not_tied_goes_on_side_by_side(tmp_path: Path, first: str, second: str) -> None:
    async with Bank(tmp_path / "bank.db", FAMILY) as bank:
        work = (await bank.did("t1", first)).work
        await bank.did("t2", second)
        assert isinstance(await undone(bank, "t1", work), Undone)
        await bank.write(bank.release("t2"))
        log = bank.resource._log
        assert log is not None and len(log.locks) == 0 and not log.locks._sharers


async def test_ties_of_a_lost_group_are_taken_back(tmp_path: Path) -> None:
    async with Bank(tmp_path / "bank.db", FAMILY) as bank:
        first = bank.execute("t1", "INSERT INTO child VALUES (13, 3, NULL, NULL)")
        await bank.write(first, bank.execute("t2", "INSERT OR ROLLBACK INTO parent VALUES (1, 'x', 'y', 0)"))
        assert (await bank.refused("t3", "DELETE FROM parent WHERE id = 3")).reason == "CONFLICT"
        await bank.write(bank.release("t1"), bank.execute("t2", "INSERT OR ROLLBACK INTO parent VALUES (1, 'x', 'y', 0)"))
        await bank.did("t3", "DELETE FROM parent WHERE id = 3")


async def test_a_foreign_key_over_a_generated_column_is_refused(tmp_path: Path) -> None:
    schema = "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (id INTEGER PRIMARY KEY, a, g AS (a + 1) REFERENCES p);"
    async with Bank(tmp_path / "bank.db", schema) as bank:
        cause = await bank.refused("t1", "INSERT INTO c (id, a) VALUES (1, NULL)")
        assert cause.reason == "UNCAPTURED_TABLE" and "generated" in cause.message


@pytest.mark.parametrize(
    "index", ["UNIQUE INDEX more ON u (n)", "UNIQUE INDEX more ON u (lower(name)) WHERE n > 5", "INDEX more ON u (n)"]
)
async def test_a_new_index_waits_until_nothing_is_undecided(tmp_path: Path, index: str) -> None:
    path, schema = tmp_path / "bank.db", f"CREATE TABLE u (id INTEGER PRIMARY KEY, name TEXT, n); {PAIRS}"
    async with Bank(path, schema) as bank:
        await bank.did("t1", "UPDATE u SET n = 6 WHERE id = 1", "UPDATE u SET n = 9 WHERE id = 2")
    with pytest.raises(LogError) as refused:
        await Bank(path, f"CREATE {index};").open()
    assert refused.value.reason is Reason.SCHEMA_MISMATCH
    async with Bank(path, schema) as bank:
        await bank.write(bank.release("t1"))
    async with Bank(path, f"CREATE {index};"):
        pass


async def test_an_index_that_somebody_made_behind_the_sdk_is_another_schema(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    async with Bank(path, f"CREATE TABLE u (id INTEGER PRIMARY KEY, name TEXT, n); {PAIRS}") as bank:
        work = (await bank.did("t1", "DELETE FROM u WHERE id = 1")).work
    with sqlite3.connect(path) as behind:
        behind.execute("CREATE UNIQUE INDEX more ON u (name)")
    behind.close()
    async with Bank(path, "") as bank:
        event = await undone(bank, "t1", work)
        assert isinstance(event, UndoFailed) and "schema" in event.why


async def test_a_hidden_rowid_stays_with_its_row(tmp_path: Path) -> None:
    rows = "INSERT INTO u VALUES ('a', 1, 'x'), ('b', 2, 'y')"
    schema = f"CREATE TABLE u (id TEXT NOT NULL PRIMARY KEY, rowid TEXT, n TEXT UNIQUE); {rows};"
    async with Bank(tmp_path / "bank.db", schema) as bank:
        before = await bank.rows("SELECT oid, * FROM u ORDER BY id")
        swap = ["UPDATE u SET n = '-' WHERE id = 'a'", "UPDATE u SET n = 'x' WHERE id = 'b'", "UPDATE u SET n = 'y' WHERE id = 'a'"]
        work = (await bank.did("t1", *swap)).work
        assert isinstance(await undone(bank, "t1", work), Undone)
        assert await bank.rows("SELECT oid, * FROM u ORDER BY id") == before


async def test_names_for_the_rowid_may_all_be_taken(tmp_path: Path) -> None:
    rows = "INSERT INTO u VALUES ('a', 1, 2, 3), ('b', 2, 3, 4)"
    schema = f"CREATE TABLE u (id TEXT NOT NULL PRIMARY KEY, rowid UNIQUE, oid, _rowid_); {rows};"
    swap = [f"UPDATE u SET rowid = {to} WHERE id = '{name}'" for name, to in (("a", 9), ("b", 1), ("a", 2))]
    async with Bank(tmp_path / "bank.db", schema) as bank:
        work = (await bank.did("t1", *swap)).work
        assert isinstance(await undone(bank, "t1", work), Undone)
        assert await bank.rows("SELECT * FROM u ORDER BY id") == [("a", 1, 2, 3), ("b", 2, 3, 4)]


@pytest.mark.parametrize(
    ("behind", "why"),
    [
        ("UPDATE u SET n = 99 WHERE id = 1", "other values"),
        ("DELETE FROM u WHERE id = 1", "is gone"),
        ("INSERT INTO u VALUES (2, 'again', 0)", "there again"),
        ("UPDATE u SET n = 99 WHERE id = 4", "other values"),
        ("DELETE FROM u WHERE id = 4", "is gone"),
    ],
)
async def test_rows_that_somebody_has_changed_are_left_as_they_are(tmp_path: Path, behind: str, why: str) -> None:
    schema = f"CREATE TABLE u (id INTEGER PRIMARY KEY, name TEXT, n); {PAIRS}"
    async with Bank(tmp_path / "bank.db", schema) as bank:
        changes = ["UPDATE u SET n = 1 WHERE id = 1", "DELETE FROM u WHERE id = 2", "INSERT INTO u VALUES (4, 'w', 1)"]
        work = (await bank.did("t1", *changes)).work
        bank.resource._log._file.connection.execute(behind)  # type: ignore[union-attr]  # it is open
        here = await bank.rows("SELECT * FROM u ORDER BY id")
        event = await undone(bank, "t1", work)
        assert isinstance(event, UndoFailed) and why in event.why
        assert await bank.rows("SELECT * FROM u ORDER BY id") == here


async def test_an_undo_that_did_more_than_it_should_is_noticed(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is a session's, and not the undo's own."""
    work = (await bank.did("t1", "UPDATE accounts SET balance = 1 WHERE id = 'a'")).work
    real = sqlite_restore._Restoring.all

    def careless(self: Any, inverse: bytes) -> None:
        real(self, inverse)
        self._connection.execute("/* careless */ UPDATE accounts SET balance = 0 WHERE id = 'b'").fetchall()

    monkeypatch.setattr(sqlite_restore._Restoring, "all", careless)
    event = await undone(bank, "t1", work)
    assert isinstance(event, UndoFailed) and "accounts" in event.why
    assert await bank.balances() == {"a": 1, "b": 100, "c": 100}


async def test_what_sqlite_refuses_is_told_without_values(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    work = (await bank.did("t1", "UPDATE accounts SET balance = 1 WHERE id = 'a'")).work

    def refuses(self: Any, inverse: bytes) -> None:
        raise apsw.SQLError("malformed JSON")

    monkeypatch.setattr(sqlite_restore._Restoring, "all", refuses)
    event = await undone(bank, "t1", work)
    assert isinstance(event, UndoFailed) and event.why == "SQLite refused to restore a row of accounts: SQLError"


