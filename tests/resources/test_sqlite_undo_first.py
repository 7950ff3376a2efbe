"""Undos of the first version are still applied: a log of it has work that is to be undone, when its service is upgraded after a
crash or while branches are in doubt. The bytes are what that version (e3ba1ba) wrote for these changes of this schema."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlite_harness import Bank

from participant_sdk.core.work import UndoFailed, Undone
from troth.v1 import record_pb2

SCHEMA = """
CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent);
CREATE UNIQUE INDEX named ON parent (name);
INSERT INTO parent VALUES (1, 'one'), (2, 'two');
"""
CHANGES = ("INSERT INTO parent VALUES (3, 'three')", "UPDATE parent SET name = 'zwei' WHERE id = 2")
WORK = record_pb2.BranchWork(
    undo=[bytes.fromhex(
        "0116cfc07ee5e9c381e20cfdd349dc0106"
        "54020100706172656e74001700010000000000000002030374776f0003047a776569120001000000000000000303057468726565"
    )],
    rows=[b"parent\0i2;", b"parent\0i3;"],
)  # fmt: skip
"""It locked no names of foreign keys."""


async def undone(bank: Bank, work: record_pb2.BranchWork) -> Any:
    return (await bank.write(bank.undo("t1", work))).events[0]


def changed(tmp_path: Path, schema: str = SCHEMA, *more: str) -> Bank:
    """The file as a crash left it, opened by this version."""
    return Bank(tmp_path / "bank.db", ";".join((schema.strip().removesuffix(";"), *CHANGES, *more)) + ";")


async def test_it_is_applied(tmp_path: Path) -> None:
    async with changed(tmp_path) as bank:
        assert isinstance(await undone(bank, WORK), Undone)
        assert await bank.rows("SELECT * FROM parent") == [(1, "one"), (2, "two")]


async def test_one_under_which_the_tables_have_changed_is_not(tmp_path: Path) -> None:
    async with changed(tmp_path, SCHEMA, "ALTER TABLE parent ADD COLUMN more") as bank:
        failed = await undone(bank, WORK)
        assert isinstance(failed, UndoFailed) and "is not the one under which" in failed.why
        assert len(await bank.rows("SELECT * FROM parent")) == 3


async def test_one_that_would_leave_somebody_elses_row_without_its_parent_is_not(tmp_path: Path) -> None:
    """That version's branch did not keep others from referring to the row that it inserted."""
    async with changed(tmp_path, SCHEMA, "INSERT INTO child VALUES (10, 3)") as bank:
        failed = await undone(bank, WORK)
        assert isinstance(failed, UndoFailed) and "a foreign key to or from parent would be broken" in failed.why
        assert await bank.rows("SELECT id, name FROM parent WHERE id = 3") == [(3, "three")], "nothing of it is done"


async def test_what_was_broken_before_does_not_hinder_it(tmp_path: Path) -> None:
    """Whoever did that had foreign keys off, as sqlite3 has them by itself."""
    with closing(sqlite3.connect(tmp_path / "bank.db")) as file:
        file.executescript(f"{SCHEMA} INSERT INTO child VALUES (11, 99); {';'.join(CHANGES)};")
    async with Bank(tmp_path / "bank.db", "") as bank:
        assert isinstance(await undone(bank, WORK), Undone)


@pytest.mark.parametrize("version", [0, 3])
async def test_one_of_a_version_that_nobody_knows_is_not(tmp_path: Path, version: int) -> None:
    newer = record_pb2.BranchWork(undo=[bytes([version]) + WORK.undo[0][1:]], rows=WORK.rows)
    async with changed(tmp_path) as bank:
        failed = await undone(bank, newer)
        assert isinstance(failed, UndoFailed) and "newer version" in failed.why
