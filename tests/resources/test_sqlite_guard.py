"""What operations may not do: every statement is named, and nothing of the operation is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlite_harness import SCHEMA, Bank, add

from participant_sdk.core.work import Executed, Mode
from troth.errors import Aborted, Reason

FORBIDDEN = {
    "BEGIN": "BEGIN",
    "COMMIT": "COMMIT",
    "END": "COMMIT",
    "ROLLBACK": "ROLLBACK",
    "SAVEPOINT mine": "mine",
    "RELEASE troth_work": "troth_work",
    "ROLLBACK TO troth_work": "troth_work",
    "PRAGMA user_version = 3": "user_version",
    "PRAGMA foreign_keys = OFF": "foreign_keys",
    "SELECT * FROM pragma_database_list": "database_list",
    "ATTACH ':memory:' AS other": "ATTACH",
    "DETACH main": "DETACH",
    "CREATE TABLE more (id INTEGER PRIMARY KEY)": "CREATE TABLE more",
    "CREATE TABLE more AS SELECT 1": "CREATE TABLE more",
    "CREATE TEMP TABLE more (id INTEGER PRIMARY KEY)": "CREATE TEMP TABLE more",
    "CREATE INDEX more ON accounts (balance)": "CREATE INDEX more",
    "CREATE VIEW more AS SELECT 1": "CREATE VIEW more",
    "CREATE TRIGGER more AFTER INSERT ON accounts BEGIN SELECT 1; END": "CREATE TRIGGER more",
    "CREATE VIRTUAL TABLE more USING fts5(x)": "CREATE VTABLE more",
    "ALTER TABLE accounts ADD COLUMN more": "ALTER TABLE main accounts",
    "DROP TABLE accounts": "DROP TABLE accounts",
    "ANALYZE": "sqlite_stat",
    "REINDEX": "REINDEX",
    "SELECT * FROM troth_records": "troth_records",
    "DELETE FROM troth_records": "troth_records",
    "UPDATE Troth_Meta SET value = 'x'": "Troth_Meta",
    "INSERT INTO troth_meta VALUES ('a', 'b')": "troth_meta",
    "WITH x AS (SELECT body FROM troth_records) SELECT * FROM x": "troth_records",
    "SELECT 1; COMMIT": "COMMIT",
    "UPDATE sqlite_sequence SET seq = 0": "sqlite_sequence",
}


@pytest.fixture
async def numbered(tmp_path: Path) -> Any:
    async with Bank(tmp_path / "n.db", SCHEMA + "CREATE TABLE n (id INTEGER PRIMARY KEY AUTOINCREMENT);") as bank:
        yield bank


@pytest.mark.parametrize("sql", FORBIDDEN)
async def test_a_forbidden_statement_is_refused_and_named(numbered: Bank, sql: str) -> None:
    for _ in range(2):
        cause = await numbered.refused("t1", add("a", -1), sql)
        assert (cause.reason, cause.retryable) == ("FORBIDDEN_SQL", False)
        assert FORBIDDEN[sql].lower() in cause.message.lower()
    assert (await numbered.balances())["a"] == 100


@pytest.mark.parametrize("sql", ["COMMIT", "DROP TABLE accounts", "DELETE FROM troth_records"])
async def test_an_operation_that_hides_the_error_is_refused_all_the_same(bank: Bank, sql: str) -> None:
    def stubborn(db: Any) -> str:
        db.execute(add("a", -1))
        for attempt in (sql, "SELECT 1"):
            try:
                db.execute(attempt)
            except Exception:
                continue
        return "fine"

    assert (await bank.refused("t1", stubborn)).reason == "FORBIDDEN_SQL"
    assert (await bank.balances())["a"] == 100


@pytest.mark.parametrize("sql", ["COMMIT", "PRAGMA user_version = 1", "DROP TABLE accounts"])
async def test_local_work_is_under_the_same_rules(bank: Bank, sql: str) -> None:
    error = (await bank.locally(sql)).error
    assert isinstance(error, Aborted)
    assert error.reason is Reason.FORBIDDEN_SQL


async def test_reads_of_the_schema_and_full_text_search_are_allowed(tmp_path: Path) -> None:
    schema = SCHEMA + "CREATE VIRTUAL TABLE words USING fts5(word); INSERT INTO words VALUES ('troth');"
    async with Bank(tmp_path / "bank.db", schema) as bank:
        await bank.did("t1", "SELECT name FROM sqlite_schema", "SELECT * FROM words WHERE words MATCH 'troth'")
        assert await bank.rows("SELECT word FROM words('troth')") == [("troth",)]


UNCAPTURED = {
    "CREATE TABLE x (a, b)": "no primary key",
    "CREATE TABLE x (a TEXT PRIMARY KEY, b)": "may be NULL",
    "CREATE TABLE x (a INT PRIMARY KEY, b)": "may be NULL",
    "CREATE TABLE x (a INTEGER PRIMARY KEY DESC, b)": "may be NULL",
    "CREATE TABLE x (a TEXT NOT NULL, b, PRIMARY KEY (a, b))": "may be NULL (b)",
    "CREATE TABLE x (a TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, b)": "collation",
    "CREATE VIRTUAL TABLE x USING fts5(a, b)": "virtual",
    "CREATE TABLE y (z INTEGER PRIMARY KEY); CREATE TABLE k (a REFERENCES y ON DELETE CASCADE);"
    "CREATE VIEW x AS SELECT z a, 1 b FROM y; CREATE TRIGGER t INSTEAD OF INSERT ON x BEGIN DELETE FROM y; END": "k, which has no",
    "CREATE TABLE x (a INTEGER PRIMARY KEY, b); CREATE TABLE audit (what);"
    "CREATE TRIGGER t AFTER INSERT ON x BEGIN INSERT INTO audit VALUES (new.a); END": "audit has no primary key",
}


@pytest.mark.parametrize("table", UNCAPTURED)
async def test_a_table_whose_changes_cannot_be_undone_is_refused(tmp_path: Path, table: str) -> None:
    async with Bank(tmp_path / "bank.db", SCHEMA + table) as bank:
        cause = await bank.refused("t1", add("a", -1), "INSERT INTO x (a, b) VALUES (1, 2)")
        assert cause.reason == "UNCAPTURED_TABLE"
        assert UNCAPTURED[table] in cause.message
        assert (await bank.balances())["a"] == 100


CAPTURED = [
    "CREATE TABLE x (a INTEGER PRIMARY KEY, b)",
    "CREATE TABLE x (a INT PRIMARY KEY NOT NULL, b)",
    "CREATE TABLE x (a TEXT PRIMARY KEY, b INT) STRICT",
    "CREATE TABLE x (a, b, PRIMARY KEY (b, a)) WITHOUT ROWID",
    "CREATE TABLE x (a INTEGER PRIMARY KEY, b TEXT COLLATE NOCASE UNIQUE)",
    "CREATE TABLE x (a INTEGER PRIMARY KEY AUTOINCREMENT, b, c AS (b + 1), d AS (b + 2) STORED)",
    "CREATE TABLE y (a INTEGER PRIMARY KEY, b); CREATE VIEW x AS SELECT * FROM y;"
    "CREATE TRIGGER t INSTEAD OF INSERT ON x BEGIN INSERT INTO y VALUES (new.a, new.b); END",
]


@pytest.mark.parametrize("table", CAPTURED)
async def test_a_table_with_a_proper_key_is_captured(tmp_path: Path, table: str) -> None:
    async with Bank(tmp_path / "bank.db", SCHEMA + table) as bank:
        done = await bank.did("t1", "INSERT INTO x (a, b) VALUES ('1', 2)")
        assert done.changed
        await bank.write(bank.undo("t1", done.work))
        assert await bank.rows("SELECT * FROM x") == []


async def test_keys_that_are_equal_and_yet_different_are_refused(tmp_path: Path) -> None:
    async with Bank(tmp_path / "bank.db", "CREATE TABLE x (a BLOB PRIMARY KEY NOT NULL, b); INSERT INTO x VALUES (1, 2);") as bank:
        assert (await bank.refused("t1", "UPDATE x SET a = 1.0")).reason == "UNCAPTURED_TABLE"
        assert await bank.rows("SELECT typeof(a) FROM x") == [("integer",)]


async def test_no_statement_escapes_because_it_was_prepared_before(tmp_path: Path) -> None:
    schema = SCHEMA + "CREATE TABLE IF NOT EXISTS x (a);"
    async with Bank(tmp_path / "bank.db", schema) as bank:
        await bank.write(bank.local("CREATE TABLE IF NOT EXISTS x (a)", schema=True))
        await bank.write(bank.local("INSERT INTO x VALUES (1)", schema=True))
        await bank.write(bank.local("SELECT count(*) FROM x", write=False))
        assert (await bank.refused("t1", "CREATE TABLE IF NOT EXISTS x (a)")).reason == "FORBIDDEN_SQL"
        assert (await bank.refused("t1", "INSERT INTO x VALUES (1)")).reason == "UNCAPTURED_TABLE"
        for own in ("BEGIN IMMEDIATE", "COMMIT", "SAVEPOINT troth_work", "SELECT name FROM troth_meta"):
            assert (await bank.refused("t1", own)).reason == "FORBIDDEN_SQL"


async def test_a_delete_of_everything_is_captured_however_often_it_ran(bank: Bank) -> None:
    for number in range(3):
        name = f"t{number}"
        done = await bank.did(name, "DELETE FROM accounts")
        assert len(done.work.rows) == 3
        await bank.write(bank.undo(name, done.work))
    assert await bank.balances() == {"a": 100, "b": 100, "c": 100}


async def test_a_delete_of_everything_is_captured_though_it_was_compiled_without_a_capture(bank: Bank) -> None:
    assert bank.resource._log is not None
    connection = bank.resource._log._file.connection
    for sql in ("BEGIN", "DELETE FROM accounts", "ROLLBACK"):
        connection.execute(sql).fetchall()
    assert len((await bank.did("t1", "DELETE FROM accounts")).work.rows) == 3


async def test_a_schema_change_is_seen_by_the_next_operation(bank: Bank) -> None:
    insert = "INSERT INTO more VALUES (1)"
    assert (await bank.refused("t1", insert)).reason == "OPERATION_FAILED"
    assert (await bank.locally("CREATE TABLE more (a)", schema=True)).error is None
    assert (await bank.refused("t1", insert)).reason == "UNCAPTURED_TABLE"
    done = await bank.locally("DROP TABLE more; CREATE TABLE more (a INTEGER PRIMARY KEY)", schema=True)
    assert done.error is None
    assert (await bank.did("t1", insert)).changed
    await bank.write(bank.release("t1"))
    assert (await bank.locally("DROP TABLE more; CREATE TABLE more (a)", schema=True)).error is None
    assert (await bank.refused("t2", insert)).reason == "UNCAPTURED_TABLE"


@pytest.mark.parametrize(
    "sql", ["DROP TABLE troth_records", "CREATE INDEX i ON troth_records (crc)", "PRAGMA user_version", "COMMIT"]
)
async def test_a_schema_change_keeps_off_what_is_not_its_own(bank: Bank, sql: str) -> None:
    error = (await bank.locally(sql, schema=True)).error
    assert isinstance(error, Aborted)
    assert error.reason is Reason.FORBIDDEN_SQL


async def test_a_failed_schema_change_leaves_nothing(bank: Bank) -> None:
    done = await bank.locally("CREATE TABLE more (a INTEGER PRIMARY KEY); INSERT INTO nowhere VALUES (1)", schema=True)
    assert done.error is not None
    assert (await bank.rows("SELECT count(*) FROM sqlite_schema WHERE name = 'more'")) == [(0,)]
    event = await bank.one(bank.execute("t1", add("a", 1), mode=Mode.ACTIVE))
    assert isinstance(event, Executed)
