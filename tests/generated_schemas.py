"""Schemas, rows and operations that nobody has thought of: written by chance, for `test_sqlite_generated`.

Every clause of CREATE TABLE that may decide what becomes of a row is here: conflict clauses of each kind on columns and tables,
CHECK, NOT NULL, collations, generated columns, WITHOUT ROWID, STRICT, partial and expression indexes, foreign keys with and without
actions, deferred ones, triggers; and rows that break a CHECK or a foreign key already. Values are few, so that they meet.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

CLAUSES = ("ROLLBACK", "ABORT", "FAIL", "IGNORE", "REPLACE")
ACTIONS = ("NO ACTION", "RESTRICT", "SET NULL", "SET DEFAULT", "CASCADE")
VALUES = (None, 0, 1, 2, 3, 1.5, -7, "a", "A", "b", "b ", "1", b"\x00", b"a", 2**62, "é\0x")
TABLES = ("one", "two", "three")


@dataclass
class Table:
    """What is needed to write statements."""

    name: str
    key: list[str]
    columns: list[str]
    strict: bool
    types: dict[str, str] = field(default_factory=dict)


class Roll(random.Random):
    """A chance, and what it may say of a conflict."""

    clauses = CLAUSES


def conflict(roll: Roll) -> str:
    """A conflict clause, or none."""
    return f" ON CONFLICT {roll.choice(roll.clauses)}" if roll.random() < 0.5 else ""


class Schema:
    """One schema, made from a chance; statements that SQLite does not take are left out."""

    def __init__(self, seed: int, clauses: tuple[str, ...] = CLAUSES) -> None:
        self.roll = Roll(seed)
        self.roll.clauses = clauses
        self.tables: list[Table] = []
        self.statements: list[str] = []
        self._referred: list[str] = []

    def create(self, path: Path) -> None:
        """Make the file, with rows, as a careless program would have left it."""
        connection = apsw.Connection(str(path))
        self.create_in(connection)
        connection.close()

    def create_in(self, connection: apsw.Connection) -> None:
        """The same in a database that is open. Constraints are off meanwhile."""
        connection.execute("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON").fetchall()
        for name in TABLES:
            self._try(connection, self._table(name), name)
        for sql in self._referred:
            self._try(connection, sql)
        for _ in range(self.roll.randrange(4)):
            self._try(connection, self._index())
        for _ in range(self.roll.randrange(3)):
            self._try(connection, self._trigger())
        for _ in range(self.roll.randrange(6, 30) if self.tables else 0):
            self._fill(connection)

    def _try(self, connection: apsw.Connection, sql: str, table: str = "") -> None:
        try:
            connection.execute(sql).fetchall()
        except apsw.Error:
            if table:
                self.tables = [one for one in self.tables if one.name != table]
            return
        self.statements.append(sql)

    def _fill(self, connection: apsw.Connection) -> None:
        sql, values = self.insert("INSERT OR IGNORE")
        try:
            connection.execute(sql, values).fetchall()
        except apsw.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK").fetchall()

    # ---- definitions

    def _table(self, name: str) -> str:
        roll = self.roll
        strict = roll.random() < 0.3
        without_rowid = roll.random() < 0.3
        table = Table(name, [], [], strict)
        parts = [self._column(table, f"c{number}") for number in range(roll.randint(2, 4))]
        parts = self._key(table) + parts
        if roll.random() < 0.4:
            parts.append(f"g AS (coalesce(c0, 0) || 'g') {roll.choice(['STORED', 'VIRTUAL'])}".replace("g AS", "g TEXT AS"))
        if len(table.key) > 1:
            parts.append(f"PRIMARY KEY ({', '.join(table.key)}){conflict(roll)}")
        if roll.random() < 0.4:
            parts.append(f"UNIQUE ({', '.join(roll.sample(table.columns, 2))}){conflict(roll)}")
        if roll.random() < 0.4:
            parts.append(self._reference(table))
        self.tables.append(table)
        options = ", ".join(["STRICT"] * strict + ["WITHOUT ROWID"] * without_rowid)
        return f"CREATE TABLE {name} ({', '.join(parts)}) {options}"

    def _key(self, table: Table) -> list[str]:
        roll = self.roll
        kind = roll.choice(["rowid", "rowid", "auto", "text", "pair"])
        table.key = ["k", "l"] if kind == "pair" else ["k"]
        table.types |= {"k": "INTEGER" if kind in ("rowid", "auto") else "TEXT", "l": "INTEGER"}
        if kind == "rowid":
            return [f"k INTEGER PRIMARY KEY{conflict(roll)}"]
        if kind == "auto":
            return ["k INTEGER PRIMARY KEY AUTOINCREMENT"]
        if kind == "text":
            return [f"k TEXT NOT NULL PRIMARY KEY{conflict(roll)}"]
        return ["k TEXT NOT NULL", "l INTEGER NOT NULL"]

    def _column(self, table: Table, name: str) -> str:
        roll = self.roll
        kind = roll.choice(["INTEGER", "TEXT", "REAL", *(["BLOB", "ANY"] if table.strict else ["NUMERIC", ""])])
        table.columns.append(name)
        table.types[name] = kind
        text = f"{name} {kind}"
        if roll.random() < 0.3:
            text += f" COLLATE {roll.choice(['NOCASE', 'RTRIM', 'BINARY'])}"
        if roll.random() < 0.2:
            text += f" NOT NULL{conflict(roll)}"
        if roll.random() < 0.3:
            text += f" DEFAULT {roll.choice(['1', 'NULL', '2'])}"
        if roll.random() < 0.4:
            text += f" UNIQUE{conflict(roll)}"
        if roll.random() < 0.3:
            text += f" CHECK ({name} {roll.choice(['<> 0', '< 3', 'IS NOT NULL'])})"
        return text

    def _reference(self, table: Table) -> str:
        roll = self.roll
        parents = [*self.tables, table]
        parent = roll.choice(parents)
        column = roll.choice([*table.columns, *table.key])
        to = roll.choice([*parent.key, *parent.columns])
        self._referred.append(f"CREATE UNIQUE INDEX r{len(self._referred)} ON {parent.name} ({to})")
        composite = len(parent.key) == 2
        ends = f"({', '.join(roll.sample(table.columns, 2))}) REFERENCES {parent.name} (k, l)"
        end = ends if composite and roll.random() < 0.7 else f"({column}) REFERENCES {parent.name} ({to})"
        actions = f"ON DELETE {roll.choice(ACTIONS)} ON UPDATE {roll.choice(ACTIONS)}"
        return f"FOREIGN KEY {end} {actions} {roll.choice(['', 'DEFERRABLE INITIALLY DEFERRED'])}"

    def _index(self) -> str:
        roll = self.roll
        if not self.tables:
            return "SELECT no_table"
        table = roll.choice(self.tables)
        column, other = roll.sample(table.columns, 2)
        what = roll.choice([column, f"{column}, {other}", f"lower({column})", f"{column} COLLATE NOCASE", f"coalesce({column}, k)"])
        where = roll.choice(["", "", f" WHERE {other} IS NOT NULL", f" WHERE {column} > 0"])
        return f"CREATE {roll.choice(['UNIQUE ', 'UNIQUE ', ''])}INDEX i{roll.randrange(10**6)} ON {table.name} ({what}){where}"

    def _trigger(self) -> str:
        roll = self.roll
        if not self.tables:
            return "SELECT no_table"
        table, other = roll.choice(self.tables), roll.choice(self.tables)
        when = f"{roll.choice(['BEFORE', 'AFTER'])} {roll.choice(['INSERT', 'UPDATE', 'DELETE'])}"
        body = roll.choice([
            f"UPDATE {other.name} SET {roll.choice(other.columns)} = {roll.choice(['1', '2', 'NULL'])}",
            f"DELETE FROM {other.name} WHERE {roll.choice(other.columns)} = 1",
            f"UPDATE OR REPLACE {other.name} SET {roll.choice(other.columns)} = 3 WHERE k = '1'",
        ])  # fmt: skip
        return f"CREATE TRIGGER t{roll.randrange(10**6)} {when} ON {table.name} BEGIN {body}; END"

    # ---- statements

    def value(self, kind: str) -> Any:
        """A value that a column of a type may take, mostly."""
        roll = self.roll
        if kind == "INTEGER":
            return roll.choice([1, 2, 3, 4, 5, None, 2**62])
        if kind == "TEXT":
            return roll.choice(["a", "A", "b", "b ", "1", "c", None, "é\0x"])
        if kind == "REAL":
            return roll.choice([1.0, 2.0, 1.5, None, 3])
        return roll.choice(VALUES)

    def insert(self, verb: str) -> tuple[str, list[Any]]:
        """An INSERT of one row."""
        table = self.roll.choice(self.tables)
        columns = [*table.key, *table.columns]
        sql = f"{verb} INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        return sql, [self.value(table.types[column]) for column in columns]

    def statement(self) -> tuple[str, list[Any]]:
        """A change of any kind."""
        roll = self.roll
        if roll.random() < 0.4:
            return self.insert(roll.choice(["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE", "INSERT OR FAIL"]))
        table = roll.choice(self.tables)
        column, other = roll.choice([*table.columns, *table.key]), roll.choice(table.columns)
        value, wanted = self.value(table.types[column]), self.value(table.types[other])
        verb = roll.choice(["UPDATE", "UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE", "UPDATE OR FAIL"])
        return roll.choice([
            (f"{verb} {table.name} SET {column} = ? WHERE {other} IS ?", [value, wanted]),
            (f"{verb} {table.name} SET {column} = ?", [value]),
            (f"{verb} {table.name} SET {column} = {column} + 1", []),
            (f"{verb} {table.name} SET {column} = {other}, {other} = {column}", []),
            (f"DELETE FROM {table.name} WHERE {other} IS ?", [wanted]),
            (f"DELETE FROM {table.name} WHERE {column} IS NOT ?", [value]),
            (f"DELETE FROM {table.name}", []),
        ])  # fmt: skip

    def swap(self) -> list[tuple[str, list[Any]]]:
        """Statements by which two rows exchange a value, whatever is UNIQUE."""
        table = self.roll.choice(self.tables)
        column = self.roll.choice(table.columns)
        pick = f"SELECT k FROM {table.name} WHERE {column} IS NOT NULL ORDER BY k"
        return [(f"swap {table.name} {column}", [pick])]


def run_statement(db: Any, sql: str, values: list[Any]) -> None:
    """Take one statement; `swap` is one of ours."""
    if not sql.startswith("swap "):
        db.execute(sql, values)
        return
    _, table, column = sql.split()
    keys = [key for (key,) in db.execute(values[0])]
    if len(keys) < 2:
        return
    was = [db.execute(f"SELECT {column} FROM {table} WHERE k = ?", (key,))[0][0] for key in keys[:2]]
    db.execute(f"UPDATE {table} SET {column} = 77 WHERE k = ?", (keys[0],))
    db.execute(f"UPDATE {table} SET {column} = ? WHERE k = ?", (was[0], keys[1]))
    db.execute(f"UPDATE {table} SET {column} = ? WHERE k = ?", (was[1], keys[0]))


def dump(connection: apsw.Connection) -> dict[str, list[str]]:
    """All rows of all of the author's tables, in a form that tells 1 from 1.0, and the schema."""
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'troth%' AND name NOT LIKE 'sqlite%'"
    ).fetchall()
    found = {name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}").fetchall())) for (name,) in names}
    found["schema"] = sorted(map(repr, connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()))
    return found


def orphans(connection: apsw.Connection) -> Counter[str]:
    """How many rows of each table break each of its foreign keys."""
    found: Counter[str] = Counter()
    try:
        rows = connection.execute("PRAGMA foreign_key_check").fetchall()
    except apsw.SQLError:
        return found  # a parent's column that is not UNIQUE: SQLite takes no change of either table
    for table, _, parent, number in rows:
        found[f"{table} to {parent} {number}"] += 1
    return found
