"""What must be known of the author's tables before an operation may change them.

The session extension records a change by table and primary key. It says nothing, and reports no error, for
rows that it cannot name so: tables without a primary key, NULL in a nullable primary key, virtual tables. It mistakes
rows for one another when the key's collation calls different texts equal. Such tables are therefore refused beforehand.

The whole schema is read once, and again after each change of it: an authorizer must not use its own connection.

Foreign keys tie rows of two branches together without either having changed the other's row: one branch inserts a parent and
another a child of it, and the first aborts. So both ends of a foreign key have a *name*, made of the parent's table and key. Who
inserts, deletes or renames a parent locks its name for itself; who writes or removes a reference shares it, as PostgreSQL's FOR
KEY SHARE does. An undo can then break no foreign key that was not broken before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

OWN_PREFIX = "troth_"
"""Tables whose names begin so belong to the SDK."""
FINGERPRINT_BYTES = 16
ALONE, SHARED = b"\0=", b"\0+"
"""What the names of foreign keys begin with; identities of rows begin with the name of a table."""


_COLUMNS = 'SELECT name, "notnull", pk, hidden FROM pragma_table_xinfo(?)'
_FOREIGN_KEYS = 'SELECT id, "table", "from", "to", on_update, on_delete FROM pragma_foreign_key_list(?) ORDER BY id, seq'
_DEFINITIONS = """SELECT tbl_name, sql FROM main.sqlite_schema
    WHERE type IN ('table', 'view') OR (type = 'index' AND sql IS NOT NULL) ORDER BY type = 'index', name"""


@dataclass(frozen=True, slots=True)
class Link:
    """One end of a foreign key."""

    prefix: bytes
    """The mode, the parent's table and its key columns."""
    columns: tuple[int, ...]
    """Where the values of the key stand, in the order of the key columns' names."""


@dataclass(frozen=True, slots=True)
class _ForeignKey:
    child: str
    parent: str
    acts: bool
    columns: dict[str, str]
    """The parent's columns, and which of the child's refers to each."""


@dataclass(frozen=True, slots=True)
class Table:
    """What is known of one table or view."""

    name: str
    digest: bytes
    """Changes with every change of the definition, indexes included: one that is UNIQUE may refuse what is to be restored."""
    definition: bytes
    """The same without its indexes, as an earlier version took it."""
    columns: tuple[str, ...]
    """The columns that are stored, in the order of a changeset's values; generated ones are not among them."""
    without_rowid: bool
    uncaptured: str
    """Why its changes cannot be undone; empty when they can."""
    triggers: bool
    """Whether it has triggers."""
    parent_of: frozenset[str]
    """The tables with a foreign key to it that acts (CASCADE, SET NULL ...); triggers do not count among these."""
    links: tuple[Link, ...]
    """Its ends of foreign keys."""


class Schema:
    """The author's tables, as they were at the last `read`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._tables: dict[str, Table] = {}
        self._fingerprints: dict[tuple[str, ...], bytes] = {}
        self._keys: dict[str, tuple[bytes, Sequence[int], Sequence[Link]]] = {}
        self.version = 0
        """Grows with each `read`."""

    def read(self) -> None:
        """Read the schema again."""
        self.version += 1
        listed = self._rows("SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main'")
        texts = self._texts()
        triggered = {name.lower() for (name,) in self._rows("SELECT tbl_name FROM main.sqlite_schema WHERE type = 'trigger'")}
        own = [row for row in listed if row[0] in texts and not row[0].lower().startswith(OWN_PREFIX)]
        columns = {name.lower(): self._rows(_COLUMNS, name) for name, *_ in own}
        keys = [key for name, *_ in own for key in self._foreign_keys(name, columns)]
        self._tables.clear()
        self._fingerprints.clear()
        self._keys.clear()
        for name, kind, without_rowid in own:
            folded = name.lower()
            stored = tuple(column for column, _, _, hidden in columns[folded] if not hidden)
            links, unnamed = _links(folded, stored, keys)
            self._tables[folded] = Table(
                name,
                _digest("\n".join(texts[name])),
                _digest(texts[name][0]),
                stored,
                bool(without_rowid),
                self._why_uncaptured(name, kind, columns[folded], bool(without_rowid)) or unnamed,
                folded in triggered,
                frozenset(key.child for key in keys if key.acts and key.parent == folded),
                links,
            )

    def table(self, name: str) -> Table:
        """What is known of a table that is there."""
        return self._tables[name.lower()]

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
        """One digest over tables in this order, and over their indexes; a table that is not there has one of its own."""
        key = tuple(names)
        known = self._fingerprints.get(key)
        if known is None:
            known = self._fingerprints[key] = self._digest_of(key, lambda table: table.digest)
        return known

    def first_fingerprint(self, names: Iterable[str]) -> bytes:
        """The same without indexes, as the first version took it."""
        return self._digest_of(names, lambda table: table.definition)

    def _digest_of(self, names: Iterable[str], of: Callable[[Table], bytes]) -> bytes:
        digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
        for name in names:
            table = self._tables.get(name.lower())
            # The name in its exact spelling: a changeset finds its table by it.
            digest.update(name.encode() + b"\0" + (of(table) if table and table.name == name else b"-"))
        return digest.digest()

    def key(self, name: str, change: apsw.TableChange) -> tuple[bytes, Sequence[int], Sequence[Link]]:
        """What the identity of the changed table's rows begins with, where the columns of its primary key are, and its links."""
        known = self._keys.get(name)
        if known is None:
            known = self._keys[name] = (name.encode() + b"\0", sorted(change.pk_columns), self.table(name).links)
        return known

    def any_triggers(self, names: Iterable[str]) -> bool:
        """Whether a change of one of the tables may fire a trigger."""
        return any(table.triggers for table in self._known(names))

    def any_links(self, names: Iterable[str]) -> bool:
        """Whether one of the tables is at either end of a foreign key."""
        return any(table.links for table in self._known(names))

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

    def broken_foreign_keys(self) -> set[tuple[Any, ...]]:
        """The references of the whole database to rows that are not there."""
        return set(self._rows("PRAGMA foreign_key_check"))

    def _texts(self) -> dict[str, list[str]]:
        """The definition of each table and view, and behind it those of its indexes."""
        texts: dict[str, list[str]] = {}
        for name, sql in self._rows(_DEFINITIONS):
            texts.setdefault(name, []).append(sql or "")
        return texts

    def _foreign_keys(self, child: str, columns: Mapping[str, list[tuple[Any, ...]]]) -> list[_ForeignKey]:
        """The foreign keys of a table to tables that are there."""
        found: dict[int, _ForeignKey] = {}
        for number, parent, column, to, on_update, on_delete in self._rows(_FOREIGN_KEYS, child):
            if parent.lower() in columns:
                acts = {on_update, on_delete} != {"NO ACTION"}
                key = found.setdefault(number, _ForeignKey(child, parent.lower(), acts, {}))
                if to is None:  # it means the primary key
                    to = next(name for name, _, place, _ in columns[key.parent] if place == len(key.columns) + 1)
                key.columns[to.lower()] = column.lower()
        return list(found.values())

    def _why_uncaptured(self, name: str, kind: str, columns: list[tuple[Any, ...]], without_rowid: bool) -> str:
        if kind == "view":
            return ""  # what its INSTEAD OF triggers change is looked at in its turn
        if kind != "table":
            return f"is a {kind} table"
        key = [(column, not_null) for column, not_null, place, _ in columns if place]
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


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=FINGERPRINT_BYTES).digest()


def _links(table: str, stored: Sequence[str], keys: Sequence[_ForeignKey]) -> tuple[tuple[Link, ...], str]:
    """The ends of foreign keys at a table, each once; and why one of them cannot be named, or nothing."""
    places = {column.lower(): at for at, column in enumerate(stored)}
    links: dict[Link, None] = {}
    for key in keys:
        ordered = sorted(key.columns.items())
        name = f"{key.parent}\0{','.join(to for to, _ in ordered)}\0".encode()
        ends = [(SHARED, [column for _, column in ordered])] if key.child.lower() == table else []
        if key.parent == table:
            ends.append((ALONE, [to for to, _ in ordered]))
        for mode, columns in ends:
            generated = [column for column in columns if column not in places]
            if generated:
                return (), f"has a foreign key over a generated column ({generated[0]})"
            links[Link(mode + name, tuple(places[column] for column in columns))] = None
    return tuple(links), ""
