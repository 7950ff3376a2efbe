"""The shadow: a plain second database that knows nothing of undo, sessions, records or locks.

It holds what is committed, in the order of the resource's log, and beside it the operations of each undecided branch. What an
operation should see and change is what it sees and changes here, on top of committed work and of its own branch; what the file
should hold is what is committed, and on top of it the operations of all undecided branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apsw

from tests.sim_resource.author import SHADOW_BADGE, Step, Work, replay_steps
from tests.sim_resource.drawn import Variant

Rows = frozenset[tuple[str, str]]
"""Tables and keys."""
LISTED = """SELECT name FROM sqlite_schema WHERE type = 'table'
    AND name NOT GLOB 'sqlite_*' AND name NOT GLOB 'troth_*' AND name NOT GLOB 'search_*'"""
_KEYS = {"pair": 2, "history": 2, 'odd "näme': 2}


@dataclass(frozen=True)
class Entry:
    """One operation that has run and is not decided."""

    number: int
    steps: tuple[Step, ...]
    told: list[Any]
    rows: Rows


@dataclass(frozen=True)
class Forecast:
    """What an operation should come to."""

    found: list[Any] | None
    """What each step reads; `None` when a constraint refuses it."""
    rows: Rows
    """The rows that it changes."""
    reason: str = "CONSTRAINT"
    """Why it is refused, if it is."""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def dump(connection: apsw.Connection, keys: dict[str, int]) -> dict[str, list[str]]:
    """All rows of all the author's tables, in a form that tells 1 from 1.0; `keys` says how many columns a key has, if not one."""
    found = {}
    for (table,) in connection.execute(LISTED).fetchall():
        order = "1, 2" if table in keys else "1"
        found[table] = [repr(row) for row in connection.execute(f"SELECT * FROM {_quoted(table)} ORDER BY {order}")]
    return found


def _fresh(variant: Variant) -> apsw.Connection:
    """The first state."""
    connection = apsw.Connection(":memory:")
    variant.fill(connection)
    connection.execute(variant.script(SHADOW_BADGE)).fetchall()
    connection.execute("PRAGMA foreign_keys = ON").fetchall()
    return connection


class Shadow:
    """What must stand."""

    def __init__(self, variant: Variant) -> None:
        self.connection = _fresh(variant)
        self.keys = {**_KEYS, **variant.keys}
        """How many columns the keys of tables have, where not one."""
        self._drawn = variant.tables
        self.drawn_committed = self.drawn_undone = 0
        """Branches with rows in drawn tables, by how they ended."""
        self.undecided: dict[str, list[Entry]] = {}
        self.undone: dict[str, list[Entry]] = {}
        """Branches that were rolled back: a power failure may bring an unforced rollback back to undecided."""
        self.committed: set[str] = set()
        self._number = 0

    def close(self) -> None:
        """Let go of the memory."""
        self.connection.close()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        self.connection.execute("SAVEPOINT aside").fetchall()
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK TO aside").fetchall()
            self.connection.execute("RELEASE aside").fetchall()

    def _stands(self, steps: tuple[Step, ...], told: list[Any] | None) -> None:
        """Take the steps for good; deferred foreign keys are looked at behind the last one."""
        self.connection.execute("SAVEPOINT stands").fetchall()
        replay_steps(steps, self.connection, told)
        self.connection.execute("RELEASE stands").fetchall()

    # ---- one operation

    def forecast(self, transaction_id: str, works: list[Work], told: list[list[Any]] | None) -> Forecast:
        """What works would see and change now, on top of committed work and of their own branch."""
        with self._aside():
            for entry in self.undecided.get(transaction_id, ()):
                replay_steps(entry.steps, self.connection, entry.told)
            before = self._all_rows()
            try:
                found = [
                    replay_steps(work.steps, self.connection, told[index] if told is not None else None)
                    for index, work in enumerate(works)
                ]
                after = self._all_rows()
            except apsw.MismatchError:
                return Forecast(None, frozenset(), "OPERATION_FAILED")
            except (apsw.ConstraintError, ValueError):
                return Forecast(None, frozenset())
            if self._broken():
                return Forecast(None, frozenset())
        return Forecast(found, frozenset((table, key) for table, key, _ in before ^ after))

    def _broken(self) -> bool:
        """Whether a foreign key does not hold. In drawn tables OR REPLACE may break one for good, as SQLite allows."""
        broken = {row[0] for row in self.connection.execute("PRAGMA foreign_key_check")}
        return bool(broken - self._drawn) or bool(self.connection.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0])

    def _all_rows(self) -> set[tuple[str, str, str]]:
        """Tables, keys and rows, in a form that tells 1 from 1.0."""
        rows: set[tuple[str, str, str]] = set()
        for (table,) in self.connection.execute(LISTED).fetchall():
            columns = self.keys.get(table, 1)
            found = self.connection.execute(f"SELECT * FROM {_quoted(table)}")
            rows.update([(table, repr(row[:columns]), repr(row)) for row in found])
        return rows

    # ---- branches

    def ran(self, transaction_id: str, works: list[Work], told: list[list[Any]], rows: Rows) -> None:
        """Operations of a branch have run, and it is not decided."""
        self._number += 1
        steps = tuple(step for work in works for step in work.steps)
        flat = [item for one in told for item in one]
        self.undecided.setdefault(transaction_id, []).append(Entry(self._number, steps, flat, rows))

    def commit(self, transaction_id: str) -> None:
        """What the branch did stands from here on."""
        self.drawn_committed += self._has_drawn(transaction_id)
        for entry in self.undecided.pop(transaction_id, ()):
            self._stands(entry.steps, entry.told)
        self.undone.pop(transaction_id, None)
        self.committed.add(transaction_id)

    def abort(self, transaction_id: str) -> None:
        """What the branch did is undone."""
        self.drawn_undone += self._has_drawn(transaction_id)
        entries = self.undecided.pop(transaction_id, None)
        if entries:
            self.undone[transaction_id] = entries

    def _has_drawn(self, transaction_id: str) -> bool:
        return any(row[0] in self._drawn for entry in self.undecided.get(transaction_id, ()) for row in entry.rows)

    def locally(self, work: Work, told: list[Any]) -> None:
        """Local work stands at once."""
        self._stands(work.steps, told)

    def run_schema(self, sql: str) -> int:
        """A change of the schema stands at once; says how many rows it has changed."""
        before = self.connection.total_changes()
        self.connection.execute(sql).fetchall()
        return self.connection.total_changes() - before

    def recovered(self, unfinished: dict[str, int]) -> None:
        """After a crash: which branches the resource's log still holds, and how many pieces of work of each."""
        for transaction_id in list(self.undecided):
            if transaction_id not in unfinished:
                del self.undecided[transaction_id]
        for transaction_id, works in unfinished.items():
            if transaction_id not in self.undecided and transaction_id in self.undone:
                self.undecided[transaction_id] = self.undone.pop(transaction_id)
            if transaction_id in self.undecided:
                del self.undecided[transaction_id][works:]

    def rows_of_others(self, transaction_id: str) -> Rows:
        """The rows that undecided branches other than this have changed."""
        rows: set[tuple[str, str]] = set()
        for other, entries in self.undecided.items():
            if other != transaction_id:
                rows.update(row for entry in entries for row in entry.rows)
        return frozenset(rows)

    def tables_of_others(self, transaction_id: str) -> set[str]:
        """The tables that undecided branches other than this have changed."""
        return {table for table, _ in self.rows_of_others(transaction_id)}

    def expected(self) -> dict[str, list[str]]:
        """What the file must hold now."""
        with self._aside():
            entries = sorted((entry for branch in self.undecided.values() for entry in branch), key=lambda entry: entry.number)
            for entry in entries:
                replay_steps(entry.steps, self.connection, entry.told)
            return dump(self.connection, self.keys)
