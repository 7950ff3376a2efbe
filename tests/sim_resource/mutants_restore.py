"""Known-bad changes to undo, to what is remembered of names, and to what should be given back."""

from __future__ import annotations

from typing import Any

import apsw

from participant_sdk import registry
from participant_sdk.registry import Registry
from participant_sdk.resources import sqlite_file, sqlite_restore
from participant_sdk.resources.sqlite_restore import CannotUndo, _Restoring
from participant_sdk.resources.sqlite_schema import Schema
from tests.sim.mutant import Mutant, adder, nothing, to

MUTANTS: list[Mutant] = []
_mutant = adder(MUTANTS)


def _as_the_schema_says(original: Any) -> Any:
    """A conflict ends as the author's constraint says."""

    def one(self: _Restoring, sql: str, values: Any, table: Any) -> None:
        original(self, sql.replace(" OR ABORT", ""), values, table)

    return one


def _whatever_was_changed(original: Any) -> Any:
    """As many rows as there are, be it none or two."""

    def one(self: _Restoring, sql: str, values: Any, table: Any) -> None:
        try:
            original(self, sql.replace(" OR ABORT", ""), values, table)
        except CannotUndo:
            return

    return one


def _nobody_makes_way(original: Any) -> Any:
    """A row that is in the way of another is not taken out (what SQLite's NOUPDATELOOP did)."""

    def update(self: _Restoring, change: apsw.TableChange) -> bool:
        if not original(self, change):
            raise CannotUndo("a row is in the way")
        return True

    return update


def _fingerprints_kept(original: Any) -> Any:
    """What was computed once is taken for the fingerprint ever after."""

    def read(self: Schema) -> None:
        kept = dict(self._fingerprints)
        original(self)
        self._fingerprints.update(kept)

    return read


def _remembered_by_name(original: Any) -> Any:
    """The arguments of an operation are those that were last decoded for its name."""

    def bind(self: Registry, operation: Any) -> Any:
        same = [key for key in self._bound if key[0] == operation.name]
        return self._bound.pop(same[-1]) if same else original(self, operation)

    return bind


_mutant("conflict clauses decide what an undo does", "abort restores", (_Restoring, "_one", _as_the_schema_says))
_mutant(
    "conflict clauses decide, and nobody looks", "abort restores",
    (_Restoring, "_one", _whatever_was_changed), (sqlite_restore, "_compare", to(nothing)),
)  # fmt: skip
_mutant("a row in the way of another stays there", "abort restores", (_Restoring, "_update", _nobody_makes_way))
_mutant("fingerprints outlive a change of the schema", "fingerprint", (Schema, "read", _fingerprints_kept))
_mutant("operations are remembered by their name alone", "once", (Registry, "bind", _remembered_by_name))
_mutant(
    "whoever names no keys needs none", "nobody reads undecided data", (registry, "without_keys", to(lambda keys, whole: ()))
)
_mutant("the write-ahead log is never moved", "given back", (sqlite_file, "_checkpoint", to(lambda *_: apsw.SQLITE_OK)))
