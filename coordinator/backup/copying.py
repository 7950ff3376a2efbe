"""A consistent copy of an SQLite file with a write-ahead log, while another process has it to itself.

A log is opened exclusively, so SQLite lets no second connection in, and its backup API cannot be used from outside. The files can
be read all the same, and SQLite's own rules make such a copy consistent:

- Transactions are appended to the write-ahead log. The main file changes in a checkpoint alone, and then only pages change whose
  newest version is in the write-ahead log.
- So the main file is copied first, and the write-ahead log after it. Pages that a checkpoint has changed meanwhile are in the
  second copy, and count there.
- That fails only when the write-ahead log was begun anew in between. Its header has a new salt then, and the copy is made again.
- A frame that was being written is torn in the copy, and SQLite ends before it. It was not synced, so nothing was promised on it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from troth.errors import LogError, LogFailed, LogForeign, Reason
from troth.log import files, offline, schema
from troth.log.offline import Verified

ATTEMPTS_MAX = 20
"""A write-ahead log is begun anew every few MiB."""
_HEADER_BYTES = 32
"""Of a write-ahead log: its salts are in it."""

Mark = tuple[bytes, tuple[int, ...]]


def copy_log(source: Path, target: Path) -> Verified:
    """Copy a log that a process may have, into one file, synced and verified. Raises `LogError`: it is no log, or is damaged."""
    found = None
    for _ in range(ATTEMPTS_MAX):
        copy_pages(source, target)
        found = verify(target)
        if not found.problems:
            fold(target)
            return found
        if any(problem.place == "its identity" for problem in found.problems):
            raise LogForeign(Reason.LOG_FOREIGN, f"{source} holds no log of Troth that this version can read")
    assert found is not None
    raise schema.DamagedAt(source, found.problems[0].place, found.problems[0].what)


def copy_pages(source: Path, target: Path) -> None:
    """Copy a file and its write-ahead log so that they belong together. Raises `LogError`."""
    try:
        for _ in range(ATTEMPTS_MAX):
            before = _mark(source)
            for one, copy in ((source, target), (files.wal_path(source), files.wal_path(target))):
                _copy(one, copy)
            if _mark(source) == before:
                return
    except OSError as error:
        raise files.from_error(source, error, "copied") from error
    hint = "It is written faster than it can be read: try again at a quieter time, or stop its process."
    raise LogFailed(Reason.LOG_FAILED, f"{source} changed {ATTEMPTS_MAX} times while it was copied", hint=hint)


def verify(path: Path) -> Verified:
    """`troth log verify` of a copy that is ours alone; nothing is left beside it."""
    try:
        return offline.verify(path)
    finally:
        path.with_name(path.name + ".lock").unlink(missing_ok=True)


def fold(path: Path) -> None:
    """Move the write-ahead log of a copy into the file, and sync it. Raises `LogError`."""
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise files.from_error(path, error, "opened") from error
    assert not files.wal_path(path).exists(), "the last connection takes the write-ahead log with it"
    files.sync(path)


def _mark(source: Path) -> Mark:
    """What must be the same before and after. Without a write-ahead log nobody may have touched the file either."""
    main = source.stat()
    try:
        with files.wal_path(source).open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        header = b""
    untouched = () if header else (main.st_mtime_ns, main.st_size)
    return header, (main.st_dev, main.st_ino, *untouched)


def _copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        with source.open("rb") as reading, os.fdopen(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as writing:
            shutil.copyfileobj(reading, writing, 1024 * 1024)
    except FileNotFoundError:
        if not source.name.endswith("-wal"):
            raise LogError(Reason.LOG_FOREIGN, f"{source} is no file") from None
