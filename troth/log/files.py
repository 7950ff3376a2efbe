"""The files of a log: who may have them, how they come to be, and what is checked before SQLite sees them.

    PATH          the SQLite file; appears whole, by a rename
    PATH-wal      what is not in PATH yet; SQLite's
    PATH.lock     held (flock) by whoever has the log, with the process id for people; never deleted

The lock is a file of its own because closing any descriptor of PATH would drop the locks that SQLite holds on it in the same
process (POSIX record locks belong to the process).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

from troth import forks
from troth.errors import LogError, LogFailed, LogLocked, Reason
from troth.log import schema, wal
from troth.log.contract import LogIdentity

PAGE_BYTES = 4096
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100
_SQLITE_LOCK_START, _SQLITE_LOCK_BYTES = 0x40000000, 512
"""PENDING_BYTE, RESERVED_BYTE and the shared range of SQLite's locking protocol (os.h)."""
_WAL_MODE = b"\x02\x02"
"""Bytes 18 and 19 of the header: the file is used with a WAL. With other values SQLite would ignore the WAL, silently."""


def wal_path(path: Path) -> Path:
    """SQLite's write-ahead log of a file."""
    return path.with_name(path.name + "-wal")


class FileLock:
    """Keeps every other process, and every other log of this one, away from a path until `release`."""

    __slots__ = ("__weakref__", "_descriptor")

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises `LogLocked`, or `LogError` (LOG_READ_ONLY) where no lock can be made."""
        lock_path = path.with_name(path.name + ".lock")
        try:
            self._descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise read_only(path, error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise LogLocked(Reason.LOG_LOCKED, f"{path} is used by process {holder or 'unknown'}") from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        forks.hold(self)

    def release(self) -> None:
        """Let the next one have the file."""
        os.close(self._descriptor)

    def let_go(self) -> None:
        """See `forks.Lock`."""
        os.close(self._descriptor)


class StillThere:
    """Notices that the files of an open log were removed, or that others stand in their place: SQLite keeps its descriptors, and
    what it syncs into them is gone with the process. Asking costs a microsecond or two.
    """

    __slots__ = ("_paths", "_seen")

    def __init__(self, path: Path) -> None:
        """The file is open; its write-ahead log may come with the first write."""
        self._paths = (path, wal_path(path))
        self._seen = {path: _inode(path)}

    def check(self) -> None:
        """Ask after each sync, before anything is said. Raises `LogFailed`."""
        for path in self._paths:
            inode = _inode(path)
            if inode is None or self._seen.setdefault(path, inode) != inode:
                what = "was removed" if inode is None else "was replaced by another file"
                hint = "Nothing more is promised on it. Put it back, or see how-to/operate-a-coordinator, 'a lost or old log'."
                raise LogFailed(Reason.LOG_FAILED, f"{path} {what} while it was in use", hint=hint)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def prepare(path: Path, identity: LogIdentity) -> FileLock:
    """Lock the path, create the log when there is none, and check the files. Raises `LogError`."""
    make_directory(path.parent)
    lock = FileLock(path)
    try:
        if not path.exists():
            _create(path, identity)
        check(path)
        problem = scan_wal(path).problem
        if problem:
            raise schema.DamagedAt(wal_path(path), *problem)
        if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            raise read_only(path)
    except OSError as error:
        lock.release()
        raise from_error(path, error, "opened") from error
    except BaseException:
        lock.release()
        raise
    return lock


def check(path: Path) -> None:
    """Check what SQLite would not: call it before SQLite opens the file. Raises `LogDamaged`."""
    if not path.is_file():
        raise schema.DamagedAt(path, "its name", "it is not a regular file")
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise schema.DamagedAt(path, "byte 0", "the header of an SQLite file is missing or cut")
    if header[18:20] != _WAL_MODE:
        raise schema.DamagedAt(path, "byte 18", "the file is not marked as one with a write-ahead log")


def scan_wal(path: Path) -> wal.WalScan:
    """What stands in the write-ahead log of a file, if it has one; call it before SQLite opens the file."""
    return wal.scan(wal_path(path).read_bytes() if wal_path(path).exists() else b"")


def check_unused(path: Path) -> None:
    """Raise `LogLocked` while SQLite has the file open in another process, Troth's or not.

    Call it with the lock held: closing the descriptor drops this process's own record locks on the file.
    """
    with path.open("rb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, _SQLITE_LOCK_BYTES, _SQLITE_LOCK_START)
        except OSError as error:
            raise LogLocked(Reason.LOG_LOCKED, f"{path} is open in another program") from error


def from_error(path: Path, error: Exception, doing: str) -> LogError:
    """The log's error for an error of sqlite3 or of the system, while the file was being `doing` ("opened", "written")."""
    if isinstance(error, LogError):
        return error
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if isinstance(error, sqlite3.Error) and doing == "opened":
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return LogLocked(Reason.LOG_LOCKED, f"{path} is open in another program")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return read_only(path, error)
        if code not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM):
            return schema.DamagedAt(path, "its pages", str(error))
    if isinstance(error, OSError) and isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError):
        return read_only(path, error)
    full = code == sqlite3.SQLITE_FULL or "No space left" in str(error)
    what = "the disk is full" if full else f"{type(error).__name__}: {error}"
    return LogFailed(Reason.LOG_FAILED, f"{path} could not be {doing}: {what}")


def read_only(path: Path, error: Exception | None = None) -> LogError:
    """The error for a place where no log can be kept."""
    return LogError(Reason.LOG_READ_ONLY, f"{path} cannot be created or written" + (f": {error}" if error else ""))


def make_directory(directory: Path) -> None:
    """Make a directory, with those above it, and sync the name of each that is new: with it, all that is in it would be lost.
    Raises `LogError` (LOG_READ_ONLY)."""
    new = [one for one in (directory, *directory.parents) if not one.exists()]
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        for one in new:
            sync(one.parent)
    except OSError as error:
        raise read_only(directory, error) from error


def _create(path: Path, identity: LogIdentity) -> None:
    """Make an empty log. It is built beside its place and renamed, so a log that exists was complete once."""
    if wal_path(path).exists():
        raise schema.DamagedAt(path, "its name", "the file is gone, but its write-ahead log is there")
    building = path.with_name(path.name + ".new")
    for leftover in (building, wal_path(building)):
        leftover.unlink(missing_ok=True)
    os.close(os.open(building, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
    try:
        _fill(building, identity)
    except sqlite3.Error as error:
        raise from_error(path, error, "created") from error
    sync(building)
    building.rename(path)
    sync(path.parent)


def _fill(building: Path, identity: LogIdentity) -> None:
    connection = sqlite3.connect(building, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        schema.create(connection.execute, identity)
        connection.execute("COMMIT")
    finally:
        connection.close()


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
