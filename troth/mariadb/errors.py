"""What errors of MariaDB and MySQL mean, by their number, whichever driver raised them."""

from __future__ import annotations

import sys
from functools import cache

UNKNOWN_XID = 1397
"""XAER_NOTA: finished before, never prepared, or still attached to its session. Proof of nothing."""
LISTING_DENIED = 1401
"""XAER_RMERR: what MySQL says to an XA RECOVER of a user who lacks XA_RECOVER_ADMIN."""
LOCK_TIMEOUT = 1205
"""The statement alone was undone: the branch could still be prepared, and must not be."""
DEADLOCK = 1213
"""All was rolled back."""
NO_TABLE = 1146
DENIED = frozenset({1044, 1045, 1142, 1143, 1227, 1370})
READ_ONLY = frozenset({1290, 1792, 1836})
"""The server takes no changes: it was demoted. What it holds prepared stays so."""
CONFLICTS = frozenset({LOCK_TIMEOUT, DEADLOCK, 1020, 3572, 1402, 1613, 1614})
"""3572 is MySQL's for NOWAIT, for which MariaDB says 1205; the last three: XA_RBROLLBACK, XA_RBTIMEOUT, XA_RBDEADLOCK."""
TOO_SLOW = frozenset({1317, 1969, 3024})
NO_ROOM = frozenset({1021, 1037, 1038, 1040, 1041, 1114, 1135, 1203, 1206, 1226})
CONSTRAINTS = frozenset({1048, 1062, 1169, 1216, 1217, 1451, 1452, 1557, 1586, 1761, 1762, 3819, 4025})
ENDS_BRANCH = frozenset({1399, 1568})
"""The statement would have ended the branch's transaction, or changed how it runs."""
SERVER_LOST = 2013
"""While it was asked: also of one that was asked and did not answer."""
_LOST = frozenset({
    1053, 1152, 1158, 1159, 1160, 1161, 1927, 2000, 2002, 2003, 2006, 2012, SERVER_LOST, 2014, 2026, 2027, 2055, 3169, 4031,
})  # fmt: skip


@cache
def _kinds(loaded: tuple[bool, bool]) -> tuple[type[Exception], ...]:
    kinds: list[type[Exception]] = []
    if loaded[0]:
        from pymysql.err import Error

        kinds.append(Error)
    if loaded[1]:
        from asyncmy.errors import Error as AsyncmyError

        kinds.append(AsyncmyError)
    return tuple(kinds)


def kinds() -> tuple[type[Exception], ...]:
    """What the drivers raise, of those that are in use; for `except`. (aiomysql raises PyMySQL's errors.)"""
    return (*_kinds(("pymysql" in sys.modules, "asyncmy" in sys.modules)), OSError, EOFError)


def number(error: BaseException) -> int:
    """The server's number of an error, or the driver's; 0 for none."""
    first = error.args[0] if error.args else 0
    return first if isinstance(first, int) and not isinstance(error, OSError) else 0


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that what was asked may have happened or not."""
    return isinstance(error, OSError | EOFError) or number(error) in _LOST or (number(error) == 0 and _is_interface(error))


def _is_interface(error: BaseException) -> bool:
    return type(error).__name__ in ("InterfaceError", "OperationalError")


def message(error: BaseException) -> str:
    """The server's words alone."""
    return str(error.args[1]) if len(error.args) > 1 else str(error) or type(error).__name__


def why(error: BaseException) -> str:
    """The server's words in one line, with the number, for the log and for operators."""
    code = number(error)
    return " ".join(message(error).split()) + (f" (error {code})" if code else "")
