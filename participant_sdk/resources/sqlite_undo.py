"""Do it, and remember how to undo it: what an operation changed, as SQLite's session extension tells it.

An undo is a fingerprint of the changed tables and the changeset. Its inverse is applied with triggers off and without the
actions of foreign keys, because what those changed is in the changeset itself. Undos are applied newest first. One that
meets other rows than it left behind is not applied at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import apsw

from participant_sdk.resources.sqlite_database import FATAL
from participant_sdk.resources.sqlite_schema import FINGERPRINT_BYTES, Schema
from troth.ready import frozen

_VERSION = b"\x01"
_HEADER_BYTES = len(_VERSION) + FINGERPRINT_BYTES
_NO_CHANGE = apsw.no_change
_IDENTITY_BYTES_MAX = 64
"""A longer key is locked by its hash: two that meet only conflict needlessly."""


class CannotUndo(Exception):
    """An undo does not apply; the message says why, and names no values."""


class CannotCapture(Exception):
    """A change was recorded in a way that cannot be undone; the message names the table."""


@frozen
class Changes:
    """What was changed since the capture began."""

    undo: bytes
    """Empty when nothing was changed."""
    rows: Sequence[bytes]
    """The identities of the changed rows."""


NO_CHANGES = Changes(b"", ())


class Capture:
    """Records all changes of one connection from its making to `finish` or `close`."""

    def __init__(self, connection: apsw.Connection, schema: Schema) -> None:
        self._schema = schema
        self._session = apsw.Session(connection, "main")
        self._session.attach()

    def finish(self) -> Changes:
        """What was changed. Raises `CannotCapture`."""
        try:
            # Not `is_empty`: it is also true of a session that failed. `changeset` raises then.
            changeset = self._session.changeset()
        except FATAL:
            raise
        except apsw.Error as error:
            raise CannotCapture(f"the changes could not be recorded: {type(error).__name__}") from error
        if not changeset:
            return NO_CHANGES
        rows: list[bytes] = []
        tables: dict[str, None] = {}
        try:
            for change in apsw.Changeset.iter(changeset):
                name = change.name
                tables[name] = None
                table, key = self._schema.key(name, change)
                rows.append(_identity(change, table, key))
        except UnicodeDecodeError:
            raise CannotCapture("a changed row has a text that is not valid Unicode") from None
        fingerprint = self._schema.fingerprint(tables)
        return Changes(_VERSION + fingerprint + changeset, rows)

    def close(self) -> None:
        """Stop recording."""
        self._session.close()


def undo(connection: apsw.Connection, schema: Schema, data: bytes) -> None:
    """Apply one undo inside the open transaction. Raises `CannotUndo`; the caller then undoes the savepoint."""
    if data[: len(_VERSION)] != _VERSION:
        raise CannotUndo("the undo is of a newer format")
    changeset = data[_HEADER_BYTES:]
    tables = list(dict.fromkeys(change.name for change in apsw.Changeset.iter(changeset)))
    if schema.fingerprint(tables) != data[len(_VERSION) : _HEADER_BYTES]:
        raise CannotUndo(f"the schema of {', '.join(tables)} is not the one under which the work was done")
    met: list[str] = []

    def conflict(kind: int, change: apsw.TableChange) -> int:
        met.append(_describe(kind, change))
        return apsw.SQLITE_CHANGESET_ABORT

    # Both switches make SQLite prepare every statement anew, so they are used only where they matter.
    flags = apsw.SQLITE_CHANGESETAPPLY_INVERT | apsw.SQLITE_CHANGESETAPPLY_NOSAVEPOINT
    if schema.any_actions(tables):
        flags |= apsw.SQLITE_CHANGESETAPPLY_FKNOACTION
    try:
        with _without_triggers(connection, schema.any_triggers(tables)):
            apsw.Changeset.apply(changeset, connection, conflict=conflict, flags=flags)
    except FATAL:
        raise
    except apsw.Error as error:
        raise CannotUndo("; ".join(met) or f"SQLite refused the inverse changeset: {error}") from error
    if met:
        raise CannotUndo("; ".join(met))


@contextmanager
def _without_triggers(connection: apsw.Connection, needed: bool) -> Iterator[None]:
    if not needed:
        yield
        return
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    try:
        yield
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)


_CONFLICTS = {
    apsw.SQLITE_CHANGESET_DATA: "a row of {} has other values than the branch left there",
    apsw.SQLITE_CHANGESET_NOTFOUND: "a row of {} that the branch left there is gone",
    apsw.SQLITE_CHANGESET_CONFLICT: "a row that the branch deleted from {} is there again",
    apsw.SQLITE_CHANGESET_CONSTRAINT: "a row of {} cannot go back: a UNIQUE, CHECK or NOT NULL constraint",
}


def _describe(kind: int, change: apsw.TableChange) -> str:
    if kind == apsw.SQLITE_CHANGESET_FOREIGN_KEY:
        return f"{change.fk_conflicts} foreign keys would be broken"
    return _CONFLICTS[kind].format(change.name)


def _identity(change: apsw.TableChange, table: bytes, key: Sequence[int]) -> bytes:
    """The identity of a changed row: its table and primary key (see `Schema.key`), so written that no two rows share one."""
    old, new = change.old, change.new
    values = new if old is None else old
    assert values is not None
    if old is not None and new is not None:
        for at in key:
            if new[at] is not _NO_CHANGE:
                # The session took one row for another, such as 1 and 1.0 in a key without a type.
                raise CannotCapture(f"{change.name} has keys that are equal and yet different")
    text = _key_part(values[key[0]]) if len(key) == 1 else b"".join([_key_part(values[at]) for at in key])
    if len(text) > _IDENTITY_BYTES_MAX:
        text = b"#" + hashlib.blake2b(text, digest_size=16).digest()
    return table + text


def _key_part(value: object) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return b"t%d:%b" % (len(text), text)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return b"i%d;" % value  # 1 and 1.0 are equal in a key
    if isinstance(value, bytes):
        return b"b%d:%b" % (len(value), value)
    return b"f%b;" % repr(value).encode()
