"""The schema of one run: the author's own tables in one of their variants, and beside them tables that chance has written.

These come from the property-based generator, `tests/generated_schemas.py`: conflict clauses, partial and expression indexes,
collations, generated columns, WITHOUT ROWID, STRICT, triggers, foreign keys with any action, rows that break a CHECK already. Here
they meet crashes, groups that are lost, one-phase commits, calls, and others' work in one batch. Three things are left to the
generator's own test: ON CONFLICT ROLLBACK, which ends the transaction under the shadow too (the author has statements that do so);
rows that break a foreign key before anybody came, since SQLite counts those that an operation repairs against those that another
breaks; and tables whose rows are visited in the order of a rowid that is no key, since that is another one after an undo.
"""

from __future__ import annotations

import random
from typing import Any

import apsw

from tests.generated_schemas import CLAUSES, Schema
from tests.sim_resource.author import BADGE, VARIANTS, schema

KINDS = 10**6
NOT_AN_END = tuple(clause for clause in CLAUSES if clause != "ROLLBACK")


class Variant:
    """One schema, with its first rows."""

    def __init__(self, roll: random.Random) -> None:
        self._number = roll.randrange(VARIANTS)
        number = roll.randrange(KINDS)
        while not (made := _made(number)):
            number += 1
        self._schema, self._content = made
        self.tables = {table.name for table in self._schema.tables}
        """Those that chance has written."""
        self.keys = {table.name: 2 for table in self._schema.tables if len(table.key) == 2}

    def fill(self, connection: apsw.Connection) -> None:
        """Make the tables of chance in an empty database."""
        drawn = apsw.Connection(":memory:")
        drawn.deserialize("main", self._content)
        with connection.backup("main", drawn, "main") as copying:
            copying.step(-1)
        drawn.close()

    def script(self, badge: str = BADGE) -> str:
        """What makes the author's own tables."""
        return schema(self._number, badge)

    def statement(self, roll: random.Random) -> tuple[str, tuple[Any, ...]]:
        """A statement on the tables of chance."""
        self._schema.roll = roll  # type: ignore[assignment]  # no more clauses are drawn
        sql, values = self._schema.statement()
        return sql, tuple(self._named(sql, values))

    def _named(self, sql: str, values: list[Any]) -> list[Any]:
        """A row is always inserted under a number: the next one that SQLite would give goes on after a rollback."""
        table = next((table for table in self._schema.tables if f" INTO {table.name} " in sql), None)
        if table is None or table.types[table.key[0]] != "INTEGER":
            return values
        return [7 if values[0] is None else values[0], *values[1:]]


def _made(number: int) -> tuple[Schema, bytes] | None:
    """A schema, and its file; none where foreign keys are broken, none of its tables can be used, or a rowid is no key."""
    drawn = Schema(number, NOT_AN_END)
    connection = apsw.Connection(":memory:")
    drawn.create_in(connection)
    try:
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    except apsw.SQLError:
        broken = [("a foreign key that SQLite does not take",)]
    content = connection.serialize("main")
    connection.close()
    of_a_rowid = [sql for sql in drawn.statements if sql.startswith("CREATE TABLE") and _has_a_rowid_of_its_own(sql)]
    return None if broken or of_a_rowid or not drawn.tables else (drawn, content)


def _has_a_rowid_of_its_own(sql: str) -> bool:
    return "k INTEGER PRIMARY KEY" not in sql and "WITHOUT ROWID" not in sql
