"""A disk below the real logs that keeps what was synced, and of the rest whatever it likes: pages of files, names in directories.
Now and then it lies: a sync is acknowledged, and what it was for stays in memory.

The resource's log goes through apsw, which lets a VFS be written in Python. Python's sqlite3 has a SQLite of its own and admits
none; so `OverApsw` puts apsw's SQLite below the very same log: its settings, its statements, its checkpoints. What the code does by
itself (`os.fsync`, `os.mkdir`, `os.rename`) is seen where it calls the system.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw

from troth.log.sqlite import LogConnection

PAGE_BYTES = 4096
VFS = "troth-lossy"


class LossyDisk:
    """Everything below one directory, which is there, and stays."""

    keeps_whole_directories = True
    """Whether the sync of a new journal's name keeps the other names beside it; nothing says that it must."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lies: Callable[[], bool] = lambda: False
        """Asked at each sync of a file."""
        self.lied = 0
        self._content: dict[int, bytes] = {}
        """By inode: what was synced last."""
        self._names: dict[int, dict[str, int]] = {os.stat(root).st_ino: {}}
        """By inode of a directory: the names that were synced last, and whose they are."""
        self._fsync = os.fsync

    # ---- syncs

    def synced(self, path: str) -> None:
        """A file, or a directory."""
        if not Path(path).is_relative_to(self.root):
            return
        inode = os.stat(path).st_ino
        if os.path.isdir(path):
            self._names[inode] = {entry.name: entry.inode() for entry in os.scandir(path)}
        elif self.lies():
            self.lied += 1
        else:
            self._content[inode] = Path(path).read_bytes()

    def synced_descriptor(self, descriptor: int) -> None:
        """`os.fsync`. Nothing here needs to outlive this machine's power."""
        self.synced(os.readlink(f"/proc/self/fd/{descriptor}"))

    def made(self, path: str) -> None:
        """A file is new: what was synced of one that had its inode before is gone."""
        self._content.pop(os.stat(path).st_ino, None)

    def named(self, path: Path) -> None:
        """A new journal was synced, and with it the directory that it is in."""
        if self.keeps_whole_directories:
            self.synced(str(path.parent))
        else:
            self._names.setdefault(os.stat(path.parent).st_ino, {})[path.name] = os.stat(path).st_ino

    # ---- the power fails

    def left(self, roll: random.Random, target: Path) -> None:
        """Write down what another machine would find on the disk. How eager the kernel was is drawn once for all."""
        eager = roll.choice([0.0, 0.5, 1.0, roll.random()])
        self._directory(roll, eager, self.root, target)

    def _directory(self, roll: random.Random, eager: float, source: Path, target: Path) -> None:
        target.mkdir(exist_ok=True)
        there = {entry.name: entry.inode() for entry in os.scandir(source)}
        durable = self._names.get(os.stat(source).st_ino, {})
        now = {inode: source / name for name, inode in there.items()}
        for name in sorted(there.keys() | durable.keys()):
            inode = there.get(name) if roll.random() < eager else durable.get(name)
            if inode is None:
                continue
            path = now.get(inode)
            if path is not None and path.is_dir():
                self._directory(roll, eager, path, target / name)
            else:
                (target / name).write_bytes(self._bytes(roll, eager, inode, path))

    def _bytes(self, roll: random.Random, eager: float, inode: int, path: Path | None) -> bytes:
        """Each page as it was synced, or as it is."""
        old = self._content.get(inode, b"")
        new = path.read_bytes() if path is not None else old
        size = len(new) if roll.random() < eager else len(old)
        pages = [
            (new if roll.random() < eager else old)[start : start + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")
            for start in range(0, size, PAGE_BYTES)
        ]
        return b"".join(pages)[:size]


_disk: list[LossyDisk] = []


class _Vfs(apsw.VFS):
    def __init__(self, name: str, base: str) -> None:
        self._base = base
        super().__init__(name, base)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        """Open a file of the database."""
        return _File(self._base, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, base: str, name: Any, flags: list[int]) -> None:
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        new = not os.path.exists(self._path)
        self._new_journal = new and bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        super().__init__(base, name, flags)
        if new and _disk and os.path.exists(self._path):
            _disk[-1].made(self._path)

    def xSync(self, flags: int) -> None:
        """A sync; the first one of a new journal syncs its name as well (os_unix.c, UNIXFILE_DIRSYNC)."""
        if _disk and os.path.exists(self._path):
            _disk[-1].synced(self._path)
            if self._new_journal:
                _disk[-1].named(Path(self._path))
        self._new_journal = False


_vfses: dict[str, _Vfs] = {}


def _vfs(base: str) -> str:
    name = f"{VFS}-{base}"
    if name not in _vfses:
        _vfses[name] = _Vfs(name, base)
    return name


@contextmanager
def below(disk: LossyDisk) -> Iterator[None]:
    """What opens files now has them on this disk."""
    real = apsw.Connection

    def connect(path: str, **settings: Any) -> apsw.Connection:
        return real(path, **(settings | {"vfs": _vfs(settings.get("vfs") or "unix")}))

    _disk.append(disk)
    try:
        with patch.object(os, "fsync", disk.synced_descriptor), patch.object(apsw, "Connection", connect):
            yield
    finally:
        _disk.pop()


# ---- sqlite3's face, apsw's SQLite


class _Rows:
    """A cursor, as far as the log uses it."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = iter(rows)

    def fetchone(self) -> Any:
        """The next row."""
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        """All the rest."""
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def close(self) -> None:
        """There is nothing to close."""


class _Apsw(sqlite3.Connection):
    """What stands below `LogConnection` in place of sqlite3's own."""

    def __init__(self, path: str, **settings: Any) -> None:
        super().__init__(":memory:", isolation_level=None)
        self._below = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        self._below.set_busy_timeout(0)

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """One statement."""
        return _Rows(self._below.execute(sql, parameters).fetchall())

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        """One statement for each row."""
        self._below.executemany(sql, [tuple(row) for row in parameters]).fetchall()
        return _Rows([])

    def close(self) -> None:
        """Let go of the file."""
        self._below.close()
        super().close()


class OverApsw(LogConnection, _Apsw):
    """The log's connection on the disk of the test."""


__all__ = ["LossyDisk", "OverApsw", "below"]
