"""Opening the file: alone, in the mode that is needed, and only if it is ours.

Nobody else may have the file open, in this process or another: undecided changes would be seen, and SQLite before
3.51.3 can corrupt a WAL that two connections use. SQLite's own locks belong to a *process*: a second library in the same
process (Python's `sqlite3`) passes them, and drops them when it closes. On Linux we therefore hold the bytes that SQLite
locks by a lock of our open file description (`F_OFD_SETLK`), which keeps everybody out, and open SQLite without locks of
its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from troth import forks
from troth.errors import ConfigError, LogDamaged, LogError, LogFailed, LogForeign, LogLocked, Reason
from troth.log.contract import LogIdentity, StoredRecord
from troth.log.files import StillThere
from troth.log.schema import META_SQL, RECORDS_SQL, checksum

_T = TypeVar("_T")

SQLITE_VERSION_MIN = 3_053_002
"""The floor of `troth[sqlite]`. SQLite 3.51.3 loses entries of an index on an expression: generated schemas found it."""
FORMAT_VERSION = 1
ROLE = "resource"
_LOCK_START, _LOCK_BYTES = 0x40000000, 512
"""PENDING_BYTE, RESERVED_BYTE and the shared range of SQLite's locking protocol (os.h)."""
_FLOCK = "hhqqi4x"
_CACHE_KIB = 65_536
_STATEMENTS_KEPT = 128
"""Prepared statements; apsw goes through all of them to find one."""
_CHECKPOINT_PAGES = 4_000
_WAL_BYTES_KEPT = 64 * 1024 * 1024


class SqliteFile:
    """The one connection, and what is stamped in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_version(apsw.sqlite_lib_version())
        self._lock = _lock(path)
        forks.hold(self)
        try:
            self.connection = self._guarded(self._connect)
            self.places = StillThere(path)
        except BaseException:
            self._unlock()
            raise

    def close(self) -> None:
        """Close the connection, and then let others in."""
        try:
            self.connection.close()
        finally:
            self._unlock()

    def identify(self, participant: str) -> LogIdentity:
        """Check whose file this is, or make it the participant's. Raises `LogError`."""
        return self._guarded(lambda: self._identify(participant))

    def records(self) -> tuple[list[StoredRecord], int]:
        """All records, checked, and the seq of the next one. Raises `LogDamaged`."""
        return self._guarded(self._records)

    def meta(self, name: str) -> str | None:
        """A stamp of the file."""
        rows = self.connection.execute("SELECT value FROM troth_meta WHERE name = ?", (name,)).fetchall()
        return str(rows[0][0]) if rows else None

    def _number(self, name: str, otherwise: int) -> int:
        text = self.meta(name)
        if text is None:
            return otherwise
        if not (text.isascii() and text.isdigit()):
            raise self._damaged(f"the stamp {name} is {text[:40]!r}, which is no number")
        return int(text)

    def set_meta(self, name: str, value: str) -> None:
        """Stamp the file, in the open transaction or one of its own."""
        self.connection.execute("INSERT OR REPLACE INTO troth_meta VALUES (?, ?)", (name, value)).fetchall()

    # ---- opening

    def _connect(self) -> apsw.Connection:
        vfs = "unix-none" if self._lock is not None else None
        connection = apsw.Connection(str(self.path), vfs=vfs, statementcachesize=_STATEMENTS_KEPT)
        forks.keep_open(connection)
        try:
            connection.set_busy_timeout(0)
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            for pragma in (
                "locking_mode = EXCLUSIVE",
                "journal_mode = WAL",
                "synchronous = FULL",
                "foreign_keys = ON",
                f"cache_size = -{_CACHE_KIB}",
                f"journal_size_limit = {_WAL_BYTES_KEPT}",
                "temp_store = MEMORY",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            connection.set_wal_hook(_checkpoint)
            connection.execute("BEGIN IMMEDIATE").fetchall()
            connection.execute("COMMIT").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def _identify(self, participant: str) -> LogIdentity:
        tables = {name for (name,) in self.connection.execute("SELECT name FROM sqlite_schema")}
        if "troth_meta" not in tables:
            self._create(participant)
        version = self._number("format_version", 0)
        if version > FORMAT_VERSION:
            raise LogForeign(Reason.LOG_TOO_NEW, f"{self.path} has format {version}; this is {FORMAT_VERSION}")
        identity = LogIdentity(self.meta("role") or "", self.meta("name") or "", self.meta("log_id") or "", version)
        if (identity.role, identity.name) != (ROLE, participant) or not identity.log_id:
            raise LogForeign(
                Reason.LOG_FOREIGN,
                f"{self.path} belongs to the {identity.role} {identity.name!r}, not to the participant {participant!r}",
            )
        return identity

    def _create(self, participant: str) -> None:
        self.connection.execute("BEGIN IMMEDIATE").fetchall()
        for table in (META_SQL, RECORDS_SQL):  # word for word: `troth log` compares them
            self.connection.execute(table).fetchall()
        stamps = {"role": ROLE, "name": participant, "log_id": secrets.token_hex(16), "next_seq": "1"}
        for name, value in (stamps | {"format_version": str(FORMAT_VERSION)}).items():
            self.set_meta(name, value)
        self.connection.execute("COMMIT").fetchall()

    def _records(self) -> tuple[list[StoredRecord], int]:
        records: list[StoredRecord] = []
        rows = self.connection.execute("SELECT seq, crc, body FROM troth_records ORDER BY seq")
        for seq, crc, body in rows:
            if not isinstance(seq, int):  # the definition of the table itself is damaged
                raise self._damaged("a record has no number")
            if records and seq != records[-1].seq + 1:
                raise self._damaged(f"record {records[-1].seq + 1} is missing")
            if not isinstance(body, bytes) or checksum(seq, body) != crc:
                raise self._damaged(f"record {seq} has a wrong checksum")
            records.append(StoredRecord(seq, body))
        stamped = self._number("next_seq", 1)
        if records and records[-1].seq + 1 < stamped:
            raise self._damaged(f"records {records[-1].seq + 1} to {stamped - 1} are missing")
        return records, records[-1].seq + 1 if records else stamped

    # ---- errors

    def _damaged(self, what: str) -> LogDamaged:
        return LogDamaged(Reason.LOG_DAMAGED, f"{self.path}: {what}")

    def _guarded(self, work: Callable[[], _T]) -> _T:
        """Run it, and turn SQLite's errors into those of a log."""
        try:
            return work()
        except apsw.BusyError as error:
            raise _open_elsewhere(self.path, "another process") from error
        except apsw.NotADBError as error:
            raise LogForeign(Reason.LOG_FOREIGN, f"{self.path} is no SQLite database") from error
        except apsw.CorruptError as error:
            raise self._damaged(str(error)) from error
        except apsw.ReadOnlyError as error:
            raise LogError(Reason.LOG_READ_ONLY, f"{self.path} cannot be written") from error
        except UnicodeError as error:
            raise self._damaged("a text in it is not UTF-8") from error
        except apsw.Error as error:
            raise LogFailed(Reason.LOG_FAILED, f"{self.path}: {type(error).__name__}: {error}") from error

    def let_go(self) -> None:
        """See `forks.Lock`."""
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _checkpoint(connection: apsw.Connection, database: str, pages: int) -> int:
    """Move the write-ahead log into the file now and then, in the COMMIT that filled it; an error is that COMMIT's.

    SQLite's automatic checkpoint keeps its errors to itself and tries again, on a file that may have lied.
    """
    if pages >= _CHECKPOINT_PAGES:
        connection.wal_checkpoint(database, apsw.SQLITE_CHECKPOINT_PASSIVE)
    return apsw.SQLITE_OK


def _check_version(found: str) -> None:
    """apsw may have been built with a library that is older than itself."""
    major, minor, patch = ([int(part) for part in found.split(".")] + [0, 0])[:3]
    if major * 1_000_000 + minor * 1_000 + patch < SQLITE_VERSION_MIN:
        raise ConfigError(
            f"SQLite {found} is too old: some of its versions lose entries of an index",
            hint="Install apsw 3.53.2 or newer from a package index; its wheels bring their own SQLite.",
        )


def _lock(path: Path) -> int | None:
    """Keep everybody else out for as long as the descriptor is open."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _not_opened(path, error) from error
    if sys.platform != "linux":
        os.close(descriptor)  # elsewhere SQLite's own exclusive lock has to do
        return None
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _LOCK_START, _LOCK_BYTES, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        holder = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted))[4]
        os.close(descriptor)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise LogFailed(Reason.LOG_FAILED, f"{path} cannot be locked: {error.strerror}") from error
        if holder == -1:  # a lock like ours
            raise LogLocked(Reason.LOG_LOCKED, f"{path} is in use by another participant process") from error
        raise _open_elsewhere(path, f"process {holder}" if holder else "another process") from error
    return descriptor


def _open_elsewhere(path: Path, who: str) -> LogLocked:
    return LogLocked(Reason.LOG_FILE_OPEN_ELSEWHERE, f"{path} is open in {who}")


def _not_opened(path: Path, error: OSError) -> LogError:
    message = f"{path} cannot be opened: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return LogError(Reason.LOG_READ_ONLY, message)
    hint = f"Create the directory {path.parent}." if error.errno == errno.ENOENT else ""
    return LogFailed(Reason.LOG_FAILED, message, hint=hint)
