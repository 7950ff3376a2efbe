"""What must be known of the author's tables before an operation may change them.

The session extension records a change by table and primary key. It says nothing, and reports no error, for
rows that it cannot name so: tables without a primary key, NULL in a nullable primary key, virtual tables. It mistakes
rows for one another when the key's collation calls different texts equal. Such tables are therefore refused beforehand.

The whole schema is read once, and again after each change of it: an authorizer must not use its own connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

OWN_PREFIX = "troth_"
"""Tables whose names begin so belong to the SDK."""
FINGERPRINT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Table:
    """What is known of one table or view."""

    name: str
    digest: bytes
    """Changes with every change of the definition."""
    uncaptured: str
    """Why its changes cannot be undone; empty when they can."""
    triggers: bool
    """Whether it has triggers."""
    parent_of: frozenset[str]
    """The tables with a foreign key to it that acts (CASCADE, SET NULL ...); triggers do not count among these."""


class Schema:
    """The author's tables, as they were at the last `read`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._tables: dict[str, Table] = {}
        self._fingerprints: dict[tuple[str, ...], bytes] = {}
        self._keys: dict[str, tuple[bytes, Sequence[int]]] = {}
        self.version = 0
        """Grows with each `read`."""

    def read(self) -> None:
        """Read the schema again."""
        self.version += 1
        rows = self._rows("SELECT name, type, ncol, wr FROM pragma_table_list WHERE schema = 'main'")
        texts = dict(self._rows("SELECT name, sql FROM main.sqlite_schema WHERE type IN ('table', 'view')"))
        triggered = {name.lower() for (name,) in self._rows("SELECT tbl_name FROM main.sqlite_schema WHERE type = 'trigger'")}
        names = [name for name, *_ in rows if name in texts and not name.lower().startswith(OWN_PREFIX)]
        children = self._acting_children(names)
        self._tables.clear()
        self._fingerprints.clear()
        self._keys.clear()
        for name, kind, _, without_rowid in rows:
            if name in texts and not name.lower().startswith(OWN_PREFIX):
                self._tables[name.lower()] = Table(
                    name,
                    hashlib.blake2b((texts[name] or "").encode(), digest_size=FINGERPRINT_BYTES).digest(),
                    self._why_uncaptured(name, kind, bool(without_rowid)),
                    name.lower() in triggered,
                    frozenset(children.get(name.lower(), ())),
                )

    def digests(self) -> dict[str, bytes]:
        """The digest of each table, for comparing two readings."""
        return {name: table.digest for name, table in self._tables.items()}

    def uncaptured(self, name: str) -> str:
        """Why the table's changes cannot be undone, its foreign keys' actions included; empty when they can."""
        table = self._tables.get(name.lower())
        if table is None:
            return "is no table of the author's"
        for reached in self._reached_by(table):
            if reached.uncaptured:
                return reached.uncaptured if reached is table else f"changes {reached.name}, which {reached.uncaptured}"
        return ""

    def fingerprint(self, names: Iterable[str]) -> bytes:
        """One digest over tables in this order; a table that is not there has one of its own."""
        key = tuple(names)
        known = self._fingerprints.get(key)
        if known is None:
            digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
            for name in key:
                table = self._tables.get(name.lower())
                # The name in its exact spelling: a changeset finds its table by it.
                digest.update(name.encode() + b"\0" + (table.digest if table and table.name == name else b"-"))
            known = self._fingerprints[key] = digest.digest()
        return known

    def key(self, name: str, change: apsw.TableChange) -> tuple[bytes, Sequence[int]]:
        """What the identity of the changed table's rows begins with, and where the columns of its primary key are."""
        known = self._keys.get(name)
        if known is None:
            known = self._keys[name] = (name.encode() + b"\0", sorted(change.pk_columns))
        return known

    def any_triggers(self, names: Iterable[str]) -> bool:
        """Whether a change of one of the tables may fire a trigger."""
        return any(table.triggers for table in self._known(names))

    def any_actions(self, names: Iterable[str]) -> bool:
        """Whether a change of one of the tables may set off a foreign key's action."""
        return any(table.parent_of for table in self._known(names))

    # ---- reading

    def _rows(self, sql: str, *parameters: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, parameters).fetchall()

    def _known(self, names: Iterable[str]) -> list[Table]:
        return [table for name in names if (table := self._tables.get(name.lower())) is not None]

    def _reached_by(self, table: Table) -> list[Table]:
        """The table and all that its foreign keys' actions may change, each once."""
        reached = {table.name: table}
        waiting = [table]
        while waiting:
            for child in self._known(waiting.pop().parent_of):
                if child.name not in reached:
                    reached[child.name] = child
                    waiting.append(child)
        return list(reached.values())

    def _acting_children(self, names: Iterable[str]) -> dict[str, set[str]]:
        children: dict[str, set[str]] = {}
        for name in names:
            for parent, on_update, on_delete in self._rows(
                'SELECT "table", on_update, on_delete FROM pragma_foreign_key_list(?)', name
            ):
                if {on_update, on_delete} != {"NO ACTION"}:
                    children.setdefault(parent.lower(), set()).add(name)
        return children

    def _why_uncaptured(self, name: str, kind: str, without_rowid: bool) -> str:
        if kind == "view":
            return ""  # what its INSTEAD OF triggers change is looked at in its turn
        if kind != "table":
            return f"is a {kind} table"
        columns = self._rows('SELECT name, "notnull", pk FROM pragma_table_xinfo(?)', name)
        key = [(column, not_null) for column, not_null, position in columns if position]
        if not key:
            return "has no primary key"
        if len(key) == 1 and self._is_rowid(name, without_rowid):
            return ""
        for column, not_null in key:
            if not not_null:
                return f"has a primary key that may be NULL ({column})"
            collation = self._connection.column_metadata("main", name, column)[1]
            if collation.upper() != "BINARY":
                return f"has a primary key with the collation {collation} ({column})"
        return ""

    def _is_rowid(self, name: str, without_rowid: bool) -> bool:
        # Only INTEGER PRIMARY KEY has no index of its own. `INTEGER PRIMARY KEY DESC` has one, and takes NULL.
        origins = self._rows("SELECT origin FROM pragma_index_list(?)", name)
        return not without_rowid and ("pk",) not in origins
