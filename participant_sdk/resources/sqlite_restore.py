"""Undo: put back the rows that a branch has changed, and prove that they are the old ones.

SQLite's own way of applying a changeset leaves what happens to the author's schema: with `UNIQUE ... ON CONFLICT IGNORE` a row is
dropped without a word, REPLACE deletes somebody else's, ROLLBACK ends the batch. So the rows are put back one by one, by
statements that say what a conflict means (`OR ABORT`):

1. delete what was inserted;  2. update what was updated, and take out what is in the way of another that has not moved yet;
3. put back what was taken out;  4. insert what was deleted.

Triggers are off, and so are foreign keys: what both did is in the changeset itself, and no other branch can have come between
the ends of a foreign key (`sqlite_schema`). A CHECK is passed over where a row broke it before. What remains is a UNIQUE value
that another branch has taken, because locks were declared too narrowly; and rows that somebody has changed behind the SDK's back.

The proof: a session watches the undo, and what it has seen must be the inverse, change for change. Otherwise nothing is kept.
Undos are applied newest first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apsw

from participant_sdk.resources.sqlite_database import FATAL
from participant_sdk.resources.sqlite_schema import Schema, Table
from participant_sdk.resources.sqlite_undo import FIRST_VERSION, HEADER_BYTES, NO_CHANGE, VERSION, quoted, where, whole_row

_CHECKS_OFF = "PRAGMA ignore_check_constraints = ON"
_CHECKS_ON = "PRAGMA ignore_check_constraints = OFF"
_ROWID_NAMES = ("rowid", "_rowid_", "oid")
_SAME_KEY = (apsw.SQLITE_CONSTRAINT_PRIMARYKEY, apsw.SQLITE_CONSTRAINT_ROWID)
_OTHER_VALUES = "rows of {} have other values than the branch left there"
_GONE = "a row of {} that the branch left there is gone"
_THERE_AGAIN = "a row that the branch deleted from {} is there again"
_IN_THE_WAY = "a row of {} cannot go back: a UNIQUE or NOT NULL constraint"


class CannotUndo(Exception):
    """An undo does not apply; the message says why, and names no values."""


def undo(connection: apsw.Connection, schema: Schema, data: bytes) -> None:
    """Apply one undo inside the open transaction. Raises `CannotUndo`; the caller then undoes the savepoint."""
    version, changeset = data[: len(VERSION)], data[HEADER_BYTES:]
    if version not in (VERSION, FIRST_VERSION):
        raise CannotUndo("the undo is of a newer version's format")
    first = version == FIRST_VERSION
    tables = list(dict.fromkeys(change.name for change in apsw.Changeset.iter(changeset)))
    fingerprint = schema.first_fingerprint(tables) if first else schema.fingerprint(tables)
    if fingerprint != data[len(VERSION) : HEADER_BYTES]:
        raise CannotUndo(f"the schema of {', '.join(tables)} is not the one under which the work was done")
    inverse = apsw.Changeset.invert(changeset)
    broken = schema.broken_foreign_keys() if first else set()
    proof = apsw.Session(connection, "main")
    try:
        proof.attach()
        with _switched_off(connection, schema, tables):
            _Restoring(connection, schema).all(inverse)
        _compare(proof.changeset(), inverse)
        if first and schema.broken_foreign_keys() - broken:  # no lock has kept others from the ends of its foreign keys
            raise CannotUndo(f"a foreign key to or from {', '.join(tables)} would be broken")
    except FATAL:
        raise
    except apsw.Error as error:
        raise CannotUndo(f"SQLite refused to restore a row of {', '.join(tables)}: {type(error).__name__}") from error
    finally:
        proof.close()


@contextmanager
def _switched_off(connection: apsw.Connection, schema: Schema, tables: Sequence[str]) -> Iterator[None]:
    """Triggers and foreign keys are off. A switch makes SQLite prepare every statement anew, so only where it matters."""
    switches = [apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER] if schema.any_triggers(tables) else []
    if schema.any_links(tables):
        switches.append(apsw.SQLITE_DBCONFIG_ENABLE_FKEY)
    for switch in switches:
        connection.config(switch, 0)
    try:
        yield
    finally:
        for switch in switches:
            connection.config(switch, 1)


def _compare(found: bytes, wanted: bytes) -> None:
    """What was restored is what was to be restored, and nothing else has changed."""
    differing = {name for name, _ in _changes(found) ^ _changes(wanted)}
    if differing:
        raise CannotUndo(_OTHER_VALUES.format(", ".join(sorted(differing))))


def _changes(changeset: bytes) -> set[tuple[str, str]]:
    """Each change, in a form that tells 1 from 1.0."""
    return {(change.name, repr((change.op, change.old, change.new))) for change in apsw.Changeset.iter(changeset)}


class _Restoring:
    """One undo while it is applied."""

    def __init__(self, connection: apsw.Connection, schema: Schema) -> None:
        self._connection = connection
        self._schema = schema

    def all(self, inverse: bytes) -> None:
        """Restore every row. Raises `CannotUndo`."""
        for change in apsw.Changeset.iter(inverse):
            if change.op == "DELETE":
                self._delete(self._schema.table(change.name), change)
        updates = (change for change in apsw.Changeset.iter(inverse) if change.op == "UPDATE")
        taken_out = [self._take_out(change) for change in updates if not self._update(change)]
        for table, columns, values in taken_out:
            self._insert(table, columns, values)
        for change in apsw.Changeset.iter(inverse):
            if change.op == "INSERT":
                table = self._schema.table(change.name)
                assert change.new is not None
                self._insert(table, table.columns, change.new)

    def _delete(self, table: Table, change: apsw.TableChange) -> None:
        key, values = _key(change)
        self._one(f"/* troth */ DELETE FROM {quoted(table.name)} WHERE {where(table, key)}", values, table)

    def _update(self, change: apsw.TableChange) -> bool:
        """Whether the row could be restored where it is."""
        table, (key, values) = self._schema.table(change.name), _key(change)
        assert change.new is not None
        places = [at for at, value in enumerate(change.new) if value is not NO_CHANGE]
        sets = ", ".join(f"{quoted(table.columns[at])} = ?" for at in places)
        sql = f"/* troth */ UPDATE OR ABORT {quoted(table.name)} SET {sets} WHERE {where(table, key)}"
        try:
            self._one(sql, [*(change.new[at] for at in places), *values], table)
        except apsw.ConstraintError:
            return False
        return True

    def _take_out(self, change: apsw.TableChange) -> tuple[Table, Sequence[str], list[Any]]:
        """Delete the row; returns how to put it back, with the values that it had."""
        table, (key, values) = self._schema.table(change.name), _key(change)
        assert change.new is not None
        rows = self._connection.execute(whole_row(table, key), values).fetchall()
        if not rows:
            raise CannotUndo(_GONE.format(table.name))
        restored = [now if was is NO_CHANGE else was for was, now in zip(change.new, rows[0], strict=True)]
        columns, rowid = list(table.columns), _rowid_name(table)
        if rowid:
            sql = f"/* troth */ SELECT {rowid} FROM {quoted(table.name)} WHERE {where(table, key)}"
            restored += self._connection.execute(sql, values).fetchall()[0]
            columns.append(rowid)
        self._delete(table, change)
        return table, columns, restored

    def _insert(self, table: Table, columns: Sequence[str], values: Sequence[Any]) -> None:
        names, marks = ", ".join(map(quoted, columns)), ", ".join("?" * len(columns))
        try:
            self._one(f"/* troth */ INSERT OR ABORT INTO {quoted(table.name)} ({names}) VALUES ({marks})", values, table)
        except apsw.ConstraintError as error:
            raise CannotUndo((_THERE_AGAIN if _code(error) in _SAME_KEY else _IN_THE_WAY).format(table.name)) from error

    def _one(self, sql: str, values: Sequence[Any], table: Table) -> None:
        """Run a statement that changes one row, whatever a CHECK says of it."""
        try:
            self._connection.execute(sql, values).fetchall()
        except apsw.ConstraintError as error:
            if _code(error) != apsw.SQLITE_CONSTRAINT_CHECK:
                raise
            self._connection.execute(_CHECKS_OFF).fetchall()
            try:
                self._connection.execute(sql, values).fetchall()
            finally:
                self._connection.execute(_CHECKS_ON).fetchall()
        if self._connection.changes() != 1:
            raise CannotUndo(_GONE.format(table.name))


def _key(change: apsw.TableChange) -> tuple[list[int], list[Any]]:
    """Where the primary key of the changed row stands, and its values."""
    key = sorted(change.pk_columns)
    assert change.old is not None
    return key, [change.old[at] for at in key]


def _rowid_name(table: Table) -> str:
    """How to name the hidden rowid of a table; empty when it has none, or every name for it is taken."""
    taken = {column.lower() for column in table.columns}
    return "" if table.without_rowid else next((name for name in _ROWID_NAMES if name not in taken), "")


def _code(error: apsw.ConstraintError) -> int:
    # apsw sets the attribute on each error; its type stub does not know.
    return int(getattr(error, "extendedresult", 0))
