"""What operations may not do with the database: SQLite's authorizer.

It is asked when a statement is prepared, and a statement is kept after that. So the SDK's own statements carry a text
that nobody can guess (`own_text`), and what is prepared under other rules is not kept at all.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import Enum

import apsw

from participant_sdk.resources.sqlite_schema import OWN_PREFIX, Schema
from troth.errors import Reason

_NONCE = secrets.token_hex(8)


def own_text(sql: str) -> str:
    """A statement of the SDK, so spelled that no statement of an author's can have the same text."""
    return f"{sql} /* {_NONCE} */"


class Rules(Enum):
    """Who is using the connection."""

    SDK = "the SDK itself"
    WRITE = "an operation, or local work"
    READ = "a local read"
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

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.rules = Rules.SDK
        self.denial: Denial | None = None
        """The first statement that was denied since `use`."""

    def use(self, rules: Rules) -> None:
        """Apply these rules from here on."""
        self.rules = rules
        self.denial = None

    def authorize(self, action: int, one: str | None, two: str | None, database: str | None, _: str | None) -> int:
        """SQLite's callback; the meaning of `one` and `two` depends on the action."""
        if self.rules is Rules.SDK:
            return apsw.SQLITE_OK
        denial = self._judge(action, one or "", two or "", database or "")
        if denial is None:
            return apsw.SQLITE_OK
        self.denial = self.denial or denial
        return apsw.SQLITE_DENY

    def _judge(self, action: int, one: str, two: str, database: str) -> Denial | None:
        if action == apsw.SQLITE_PRAGMA and one.lower() in _HARMLESS_PRAGMAS:
            return None
        if action in _NEVER or _is_own(one) or (action not in _READS | _WRITES and _is_own(two)):
            return _forbidden(action, one, two)
        if action in _READS:
            return None
        if self.rules is Rules.SCHEMA:
            return None if database != "temp" else _forbidden(action, one, two)
        if action not in _WRITES or one.lower().startswith("sqlite_stat") or one.lower() == "sqlite_sequence":
            return _forbidden(action, one, two)
        if one.lower() in _MASTERS:
            return None
        if self.rules is Rules.READ:
            return _forbidden(action, one, two)
        why = self._schema.uncaptured(one)
        return Denial(Reason.UNCAPTURED_TABLE, f"{one} {why}") if why else None


def _is_own(name: str) -> bool:
    return name.lower().startswith(OWN_PREFIX)


def _forbidden(action: int, one: str, two: str) -> Denial:
    name = apsw.mapping_authorizer_function[action]
    assert isinstance(name, str)
    words = [name.removeprefix("SQLITE_").replace("_", " "), one, two if action not in _WRITES else ""]
    return Denial(Reason.FORBIDDEN_SQL, " ".join(filter(None, words)))
