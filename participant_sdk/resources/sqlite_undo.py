"""Do it, and remember how to undo it: what an operation changed, as SQLite's session extension tells it.

An undo is a fingerprint of the changed tables and the changeset; `sqlite_restore` applies its inverse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import apsw

from participant_sdk.resources.sqlite_database import FATAL
from participant_sdk.resources.sqlite_schema import FINGERPRINT_BYTES, Link, Schema, Table
from troth.ready import frozen

VERSION = b"\x02"
FIRST_VERSION = b"\x01"
"""What the first version wrote: the fingerprint is of the tables alone, without their indexes, and no names of foreign keys are
locked for the branch. A log of it may still have work that is to be undone."""
HEADER_BYTES = len(VERSION) + FINGERPRINT_BYTES
NO_CHANGE = apsw.no_change
_IDENTITY_BYTES_MAX = 64
"""A longer key is locked by its hash: two that meet only conflict needlessly."""


class CannotCapture(Exception):
    """A change was recorded in a way that cannot be undone; the message names the table."""


@frozen
class Changes:
    """What was changed since the capture began."""

    undo: bytes
    """Empty when nothing was changed."""
    rows: Sequence[bytes]
    """The identities of the changed rows, and the names of the foreign keys at them."""


NO_CHANGES = Changes(b"", ())


class Capture:
    """Records all changes of one connection from its making to `finish` or `close`."""

    def __init__(self, connection: apsw.Connection, schema: Schema) -> None:
        self._connection = connection
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
                table, key, links = self._schema.key(name, change)
                rows.append(_identity(change, table, key))
                if links:
                    rows += self._names(change, links)
        except UnicodeDecodeError:
            raise CannotCapture("a changed row has a text that is not valid Unicode") from None
        fingerprint = self._schema.fingerprint(tables)
        return Changes(VERSION + fingerprint + changeset, rows)

    def _names(self, change: apsw.TableChange, links: Sequence[Link]) -> Iterator[bytes]:
        """The names of the foreign keys that the row has entered or left."""
        images = [image for image in (change.old, change.new) if image is not None]
        touched = [link for link in links if any(images[-1][at] is not NO_CHANGE for at in link.columns)]
        if any(image[at] is NO_CHANGE for image in images for link in touched for at in link.columns):
            whole = self._whole(change)
            images = [_filled(images[0], whole), whole]
        for link in touched:
            for values in images:
                if all(values[at] is not None for at in link.columns):
                    yield link.prefix + _shortened(b"\0".join([_folded(values[at]) for at in link.columns]))

    def _whole(self, change: apsw.TableChange) -> tuple[Any, ...]:
        """An updated row as it is now, of which the changeset has only what has changed."""
        assert change.old is not None
        key = sorted(change.pk_columns)
        sql = whole_row(self._schema.table(change.name), key)
        row: tuple[Any, ...]
        (row,) = self._connection.execute(sql, [change.old[at] for at in key])
        return row

    def close(self) -> None:
        """Stop recording."""
        self._session.close()


def _filled(image: Sequence[Any], whole: Sequence[Any]) -> tuple[Any, ...]:
    """An image of a row, with what has not changed."""
    return tuple(now if was is NO_CHANGE else was for was, now in zip(image, whole, strict=True))


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def where(table: Table, key: Sequence[int]) -> str:
    """The condition for one row."""
    return " AND ".join(f"{quoted(table.columns[at])} = ?" for at in key)


def whole_row(table: Table, key: Sequence[int]) -> str:
    """The query for one row by its key. The comment keeps the text apart from what authors write."""
    return f"/* troth */ SELECT {', '.join(map(quoted, table.columns))} FROM {quoted(table.name)} WHERE {where(table, key)}"


def _identity(change: apsw.TableChange, table: bytes, key: Sequence[int]) -> bytes:
    """The identity of a changed row: its table and primary key (see `Schema.key`), so written that no two rows share one."""
    old, new = change.old, change.new
    values = new if old is None else old
    assert values is not None
    if old is not None and new is not None:
        for at in key:
            if new[at] is not NO_CHANGE:
                # The session took one row for another, such as 1 and 1.0 in a key without a type.
                raise CannotCapture(f"{change.name} has keys that are equal and yet different")
    text = _key_part(values[key[0]]) if len(key) == 1 else b"".join([_key_part(values[at]) for at in key])
    return table + _shortened(text)


def _shortened(text: bytes) -> bytes:
    return text if len(text) <= _IDENTITY_BYTES_MAX else b"#" + hashlib.blake2b(text, digest_size=16).digest()


def _key_part(value: object) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return b"t%d:%b" % (len(text), text)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return b"i%d;" % value  # 1 and 1.0 are equal in a key
    if isinstance(value, bytes):
        return b"b%d:%b" % (len(value), value)
    return b"f%b;" % repr(value).encode()


def _folded(value: Any) -> bytes:
    """One form for all values that a foreign key may take for equal, whatever the types and collations of its two columns."""
    if isinstance(value, bytes):
        return b"b" + value
    text = value.strip().casefold() if isinstance(value, str) else value
    try:
        return b"n%b" % repr(float(text)).encode()
    except ValueError:
        return b"t" + text.encode()
