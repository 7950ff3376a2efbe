"""What operations may not do with the database: SQLite's authorizer.

It is asked when a statement is prepared, and asking it costs more than many a statement, because the session extension
prepares statements of its own. So it is on only while a text runs that is not known yet. Turning it on expires every
prepared statement, whoever prepared it and under what rules, so that no text escapes because it was run before. A text
that ran to its end under some rules is known to be allowed by them, until the schema changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import apsw

from participant_sdk.resources.sqlite_schema import OWN_PREFIX, Schema
from troth.errors import Reason

_KNOWN_MAX = 2_000
"""Texts that are remembered under one set of rules."""


class Rules(Enum):
    """Who is using the connection."""

    WRITE = "an operation, or local work"
    READ = "a local read"
    SHARED = "an operation whose keys are all shared"
    SCHEMA = "a schema change"


@dataclass(frozen=True, slots=True)
class Denial:
    """A statement that was not allowed."""

    reason: Reason
    what: str
    """For people: `"DROP TABLE accounts"`, or what is the matter with a table."""


_READS = {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE}
_WRITES = {apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE}
_NEVER = {apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT, apsw.SQLITE_PRAGMA, apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH}
_HARMLESS_PRAGMAS = {"data_version", "table_info", "table_xinfo"}
"""Full-text search and, above all, the session extension ask for these in the middle of an author's statement. A session that
may not ask records nothing, and says so only when the changeset is asked for."""
_MASTERS = {"sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"}
"""SQLite asks for these before it asks for the CREATE or DROP itself, which says more. It lets nobody write them."""


class Guard:
    """The authorizer of one connection."""

    def __init__(self, connection: apsw.Connection, schema: Schema) -> None:
        self._connection = connection
        self._schema = schema
        self._known: dict[Rules, set[str]] = {rules: set() for rules in Rules}
        self._schema_version = schema.version
        self._rules = Rules.WRITE
        self._denial: Denial | None = None

    def known(self, rules: Rules) -> set[str]:
        """The texts that are known to be allowed by these rules; it grows with each that is judged."""
        if self._schema_version != self._schema.version:
            self._schema_version = self._schema.version
            for known in self._known.values():
                known.clear()
        return self._known[rules]

    @contextmanager
    def judging(self, rules: Rules, sql: str) -> Iterator[None]:
        """Judge the text while it runs; if it runs to its end, it is known from then on."""
        self._rules = rules
        self._denial = None
        self._connection.authorizer = self._authorize
        try:
            yield
        finally:
            self._connection.authorizer = None
        known = self._known[rules]
        if len(known) >= _KNOWN_MAX:
            known.clear()
        if self._denial is None:
            known.add(sql)

    def take_denial(self) -> Denial | None:
        """The first thing that was denied in the text that was just judged, once."""
        denial, self._denial = self._denial, None
        return denial

    def _authorize(self, action: int, one: str | None, two: str | None, database: str | None, _: str | None) -> int:
        """SQLite's callback; the meaning of `one` and `two` depends on the action."""
        denial = self._judge(action, one or "", two or "", database or "")
        if denial is None:
            return apsw.SQLITE_OK
        self._denial = self._denial or denial
        return apsw.SQLITE_DENY

    def _judge(self, action: int, one: str, two: str, database: str) -> Denial | None:
        if action == apsw.SQLITE_PRAGMA and one.lower() in _HARMLESS_PRAGMAS:
            return None
        if action in _NEVER or _is_own(one) or (action not in _READS | _WRITES and _is_own(two)):
            return _forbidden(action, one, two)
        if action in _READS:
            return None
        if self._rules is Rules.SCHEMA:
            return None if database != "temp" else _forbidden(action, one, two)
        if action not in _WRITES or one.lower().startswith("sqlite_stat") or one.lower() == "sqlite_sequence":
            return _forbidden(action, one, two)
        if one.lower() in _MASTERS:
            return None
        if self._rules in (Rules.READ, Rules.SHARED):
            reason = Reason.SHARED_KEYS if self._rules is Rules.SHARED else Reason.FORBIDDEN_SQL
            return Denial(reason, f"{_forbidden(action, one, two).what}: it may only read")
        why = self._schema.uncaptured(one)
        return Denial(Reason.UNCAPTURED_TABLE, f"{one} {why}") if why else None


def _is_own(name: str) -> bool:
    return name.lower().startswith(OWN_PREFIX)


def _forbidden(action: int, one: str, two: str) -> Denial:
    name = apsw.mapping_authorizer_function[action]
    assert isinstance(name, str)
    words = [name.removeprefix("SQLITE_").replace("_", " "), one, two if action not in _WRITES else ""]
    return Denial(Reason.FORBIDDEN_SQL, " ".join(filter(None, words)))
