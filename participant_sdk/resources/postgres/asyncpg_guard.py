"""What an operation gets of its branch's connection with asyncpg: the connection itself, which reads statements first.

asyncpg's connections have no room for attributes of ours. So for the time of an operation the connection is of a class that is made
from its own, whether that is asyncpg's or one that the service has given to its pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from asyncpg.transaction import Transaction

from participant_sdk.resources.postgres.asyncpg_driver import bare
from participant_sdk.resources.postgres.statements import forbidden
from participant_sdk.resources.relational.guard import ENDS, LEAKS, BranchGuard, remembered
from troth.errors import Reason, RequestError

_READ = ("execute", "executemany", "fetch", "fetchval", "fetchrow", "fetchmany", "prepare", "copy_from_query")
_WATCHED = ("copy_from_table", "copy_to_table", "copy_records_to_table")
_ENDS = ("close", "reset")
_SESSION = ("add_listener", "remove_listener", "set_type_codec", "set_builtin_type_codec", "reset_type_codec")
_read = remembered(forbidden)
_guards: dict[int, AsyncpgGuard] = {}
"""By the identity of the connections that operations have now."""


class AsyncpgGuard(BranchGuard):
    """Guards a connection of asyncpg."""

    def __init__(self) -> None:
        super().__init__()
        self.doubtful = False
        """Whether a statement has failed: then the transaction may have, unless a savepoint kept it."""

        self.given_up = False
        """Whether the connection was closed because a statement has failed."""

    def failed(self) -> bool:
        """See `BranchGuard`. Only what rolls back by itself asks, and asyncpg's connection has no `rollback`."""
        return False

    def check(self, query: Any) -> None:
        """Raise `RequestError` (FORBIDDEN_SQL) for a statement that an operation may not send."""
        if why := _read(str(query)):
            raise self.deny(why)

    @contextmanager
    def on(self, connection: Any) -> Iterator[None]:
        """See `BranchGuard`. To asyncpg the branch is an outer transaction, so `transaction()` is a savepoint, and cursors work."""
        raw = bare(connection)
        kind: Any = type(raw)
        _guards[id(raw)], raw.__class__, raw._top_xact = self, _guarded(kind), Transaction(raw, None, False, False)
        self.over = False
        try:
            yield
        finally:
            raw.__class__, raw._top_xact = kind, None
            del _guards[id(raw)]


@cache
def _guarded(kind: Any) -> Any:
    """A class of connections that read what they send; with the same layout, so that a connection can be of either."""
    methods: dict[str, Any] = {"__slots__": (), "__module__": kind.__module__}
    methods.update(cursor=_cursor(kind), terminate=_terminate(kind))
    methods.update({name: _watched(kind, name, reads=True) for name in _READ if hasattr(kind, name)})
    methods.update({name: _watched(kind, name, reads=False) for name in _WATCHED})
    methods.update({name: _refused(name, ENDS) for name in _ENDS})
    methods.update({name: _refused(name, LEAKS) for name in _SESSION})
    return type(kind)(kind.__name__, (kind,), methods)


def _watched(kind: Any, name: str, *, reads: bool) -> Callable[..., Any]:
    method = getattr(kind, name)

    async def call(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        guard = _guards[id(self)]
        if reads:
            guard.check(query)
        try:
            return await method(self, query, *arguments, **options)
        except BaseException:
            guard.doubtful = True
            raise

    return call


def _cursor(kind: Any) -> Callable[..., Any]:
    def cursor(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        _guards[id(self)].check(query)
        return kind.cursor(self, query, *arguments, **options)

    return cursor


def _terminate(kind: Any) -> Callable[..., Any]:
    """asyncpg itself calls it, too, when a connection is lost: it is told, and done."""

    def terminate(self: Any) -> None:
        guard = _guards[id(self)]
        told = f"terminate() in a transaction of the coordinator: {ENDS}"
        guard.fatal = guard.fatal or RequestError(Reason.FORBIDDEN_SQL, told)
        kind.terminate(self)

    return terminate


def _refused(name: str, why: str) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        return _guards[id(self)].method(name, why, asynchronous=True)()

    return call
