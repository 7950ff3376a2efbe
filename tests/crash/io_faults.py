"""Makes the nth call of SQLite fail: with an I/O error, or because the disk is full.

The two logs are reached in different ways. The resource's file is apsw's: a VFS between SQLite and the system counts what
SQLite asks of the file (reads, writes, syncs, truncations), and fails one. The coordinator's log is Python's own sqlite3, which
lets nobody put a VFS in: there each call of the connection is counted, and fails before SQLite was asked, or after it has
done its work.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import apsw

from troth.log.sqlite import LogConnection

IO, FULL = "I/O error", "disk full"
VFS_NAME = "troth-faulty"


@dataclass
class Injector:
    """Fails the nth call from `arm` on, once."""

    kind: str = IO
    waiting: int = 0
    fired: str = ""
    """The call that failed."""

    def arm(self, nth: int, kind: str) -> None:
        """Let the nth call from now on fail."""
        self.kind, self.waiting, self.fired = kind, nth, ""

    def due(self, call: str) -> bool:
        """Count a call; says whether it is the one."""
        if not self.waiting:
            return False
        self.waiting -= 1
        if self.waiting:
            return False
        self.fired = call
        return True


# ---- apsw


class FaultyVFS(apsw.VFS):
    """SQLite's own, with an injector in between, for files whose path contains `what`."""

    def __init__(self, injector: Injector, what: str, base: str) -> None:
        self._injector = injector
        self._what = what
        self._base = base
        super().__init__(VFS_NAME, base)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        """Open a file of the database."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        injector = self._injector if self._what in path else Injector()
        return _FaultyFile(injector, self._base, name, flags)


class _FaultyFile(apsw.VFSFile):
    def __init__(self, injector: Injector, base: str, name: Any, flags: list[int]) -> None:
        self._injector = injector
        super().__init__(base, name, flags)

    def _count(self, call: str, *, writes: bool = False) -> None:
        if (writes or self._injector.kind == IO) and self._injector.due(call):
            raise apsw.FullError(FULL) if self._injector.kind == FULL else apsw.IOError(IO)

    def xRead(self, amount: int, offset: int) -> bytes:
        """Read."""
        self._count("xRead")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        """Write."""
        self._count("xWrite", writes=True)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        """Sync."""
        self._count("xSync")
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:
        """Truncate."""
        self._count("xTruncate")
        super().xTruncate(size)


def faulty_connect(real: Callable[..., apsw.Connection]) -> Callable[..., apsw.Connection]:
    """In place of `apsw.Connection`: the same, on the faulty VFS."""

    def connect(path: str, **settings: Any) -> apsw.Connection:
        return real(path, **(settings | {"vfs": VFS_NAME}))

    return connect


# ---- sqlite3


def faulty_connection(injector: Injector, *, after: bool) -> type[LogConnection]:
    """A connection for `SqliteLog` whose calls fail before SQLite was asked, or `after` it has done its work."""

    class Counting(sqlite3.Connection):
        def _call(self, what: str, work: Callable[[], Any]) -> Any:
            due = injector.due(what)
            if due and not after:
                raise _error(injector.kind)
            done = work()
            if due:
                done.close()  # the error's traceback would keep it, and an open cursor keeps the file open
                raise _error(injector.kind)
            return done

        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            return self._call(sql, lambda: super(Counting, self).execute(sql, parameters))

        def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
            return self._call(sql, lambda: super(Counting, self).executemany(sql, parameters))

    # LogConnection's own `executemany` makes its calls through the class that comes after it.
    return type("Faulty", (LogConnection, Counting), {})


def _error(kind: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("database or disk is full" if kind == FULL else "disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL if kind == FULL else sqlite3.SQLITE_IOERR
    return error
