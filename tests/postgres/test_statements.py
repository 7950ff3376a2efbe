"""What an operation may not say is found in every way of writing it, and nothing else is."""

from __future__ import annotations

import pytest

from participant_sdk.resources.postgres.statements import forbidden, statements, writes

ENDS = "the transaction is ended"
LEAKS = "outlives the transaction"
SCHEMA = "the schema"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("COMMIT", ENDS),
        ("  commit ;", ENDS),
        ("end work", ENDS),
        ("/* a /* nested */ comment */ rollback", ENDS),
        ("-- a comment\nABORT", ENDS),
        ("ROLLBACK AND CHAIN", ENDS),
        ("rollback prepared 'x'", ENDS),
        ("commit prepared 'x'", ENDS),
        ("prepare transaction 'x'", ENDS),
        ("SELECT 1; COMMIT; BEGIN", ENDS),
        ("SELECT ';', $$ ; COMMIT $$; COMMIT", ENDS),
        ("SELECT E'\\'; x'; START TRANSACTION", ENDS),
        ("set search_path = x", LEAKS),
        ("SET SESSION x = 1", LEAKS),
        ('SET "search_path" TO x', LEAKS),
        ("reset all", LEAKS),
        ("LISTEN x", LEAKS),
        ("PREPARE p AS SELECT 1", LEAKS),
        ("create temp table x (a int)", SCHEMA),
        ("DROP TABLE x", SCHEMA),
        ("TRUNCATE x", SCHEMA),
    ],
)
def test_what_is_forbidden_is_found(text: str, why: str) -> None:
    assert why in forbidden(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";;",
        "SELECT 'COMMIT'",
        'SELECT "commit" FROM "drop"',
        "INSERT INTO t VALUES ($tag$; COMMIT; $tag$)",
        "SELECT $1; SELECT 2",
        "SET LOCAL x = 1",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SAVEPOINT a; ROLLBACK TO a; ROLLBACK WORK TO SAVEPOINT a; RELEASE a",
        "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
        "UPDATE t SET a = 'it''s; COMMIT'",
        "-- COMMIT",
        "/* COMMIT",
        "(SELECT 1) UNION (SELECT 2)",
        "SELECT 'never closed; COMMIT",
        "SELECT $$never closed; COMMIT",
    ],
)
def test_what_is_not_forbidden_passes(text: str) -> None:
    assert forbidden(text) == ""


def test_every_statement_of_a_text_is_seen() -> None:
    assert list(statements("select 1; /* ; */ insert into t values (1);\n update t set a=1")) == [
        ["SELECT"], ["INSERT", "INTO", "T"], ["UPDATE", "T", "SET"],
    ]  # fmt: skip


def test_what_begins_with_a_word_that_writes_is_known() -> None:
    assert all(writes(text) for text in ("INSERT INTO x VALUES (1)", "SELECT 1; update x SET a = 1", "/* a */ delete from x"))
    assert not any(writes(text) for text in ("SELECT 'INSERT'", "WITH a AS (DELETE FROM x) SELECT 1", ""))
