"""What a session gets of its branch's connection on `postgresql+asyncpg`: SQLAlchemy's adapter of asyncpg, which refuses as well.

Between a session and asyncpg's connection, which `asyncpg_guard` guards, is SQLAlchemy's adapter. What is said to it need not reach
asyncpg: its `commit()` and `rollback()` end a transaction of its own, and do nothing where there is none; a statement that it has
prepared before is not prepared again. So for the time of an operation the adapter, too, is of a class that is made from its own,
by the names that SQLAlchemy's dialects use: those of PEP 249, and a few more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import asyncpg

from participant_sdk.resources.postgres.asyncpg_driver import FAILED_TRANSACTION
from participant_sdk.resources.postgres.asyncpg_guard import AsyncpgGuard
from participant_sdk.resources.postgres.sqlstates import database_error
from participant_sdk.resources.relational.guard import ENDS, LEAKS

_ENDS = ("commit", "close")
_SETTINGS = {"isolation_level": "set_isolation_level", "readonly": "set_read_only", "deferrable": "set_deferrable"}
"""And what psycopg calls it to change them."""
_guards: dict[int, AsyncpgGuard] = {}
"""By the identity of the adapters that sessions have now."""


@contextmanager
def guarded(adapter: Any, guard: AsyncpgGuard) -> Iterator[None]:
    """Guard an adapter for the time of the block; the connection behind it is guarded already."""
    kind: Any = type(adapter)
    _guards[id(adapter)], adapter.__class__ = guard, _guarded(kind)
    try:
        yield
    finally:
        adapter.__class__ = kind
        del _guards[id(adapter)]


@cache
def _guarded(kind: Any) -> Any:
    """A class of adapters with the same layout, so that one can be of either."""
    methods: dict[str, Any] = {"__slots__": (), "__module__": kind.__module__}
    methods.update(cursor=_cursor(kind), rollback=_rollback, terminate=_terminate)
    methods.update({name: _refused(name, ENDS) for name in _ENDS}, set_isolation_level=_refused("set_isolation_level", LEAKS))
    methods.update({name: _fixed(kind, name, told) for name, told in _SETTINGS.items()})
    return type(kind)(kind.__name__, (kind,), methods)


def _refused(name: str, why: str) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any) -> Any:
        return _guards[id(self)].method(name, why, asynchronous=False)()

    return call


def _fixed(kind: Any, name: str, told: str) -> property:
    """A setting that is only read."""
    slot = getattr(kind, name)

    def refuse(self: Any, value: Any) -> None:
        _refused(told, LEAKS)(self)

    return property(lambda self: slot.__get__(self, kind), refuse)


def _rollback(self: Any) -> None:
    """A session rolls back by itself where a statement has failed; then nothing is left of the transaction, and nothing is done. It
    does the same with one that is good when somebody tells it to: asyncpg does not tell these apart, so the server is asked."""
    guard = _guards[id(self)]
    if guard.over or self.driver_connection.is_closed() or _failed(self):
        return
    guard.method("rollback", ENDS, asynchronous=False)()


def _failed(adapter: Any) -> bool:
    cursor = adapter.cursor()
    try:
        cursor.execute("SELECT 1")
    except Exception as error:
        told = database_error(error)
        return told is not None and told.sqlstate == FAILED_TRANSACTION
    finally:
        cursor.close()
    return False


def _terminate(self: Any) -> None:
    """SQLAlchemy calls it when a connection is lost, when a statement was given up, and when it is told to `invalidate()`."""
    guard, connection = _guards[id(self)], self.driver_connection
    if connection.is_closed():
        return
    if not guard.doubtful:
        guard.method("close", ENDS, asynchronous=False)()
    guard.given_up = True
    asyncpg.Connection.terminate(connection)


def _cursor(kind: Any) -> Callable[..., Any]:
    def cursor(self: Any, *arguments: Any, **options: Any) -> Any:
        made = kind.cursor(self, *arguments, **options)
        base: Any = type(made)
        made.__class__ = _reading(base)
        return made

    return cursor


@cache
def _reading(base: Any) -> Any:
    """A class of cursors that read what they send."""

    def watched(name: str) -> Callable[..., Any]:
        method = getattr(base, name)

        def call(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
            guard = _guards.get(id(self._adapt_connection))
            if guard is None:
                return method(self, query, *arguments, **options)
            guard.check(query)
            try:
                return method(self, query, *arguments, **options)
            except BaseException:
                guard.doubtful = True
                raise

        return call

    methods: dict[str, Any] = {name: watched(name) for name in ("execute", "executemany")}
    return type(base)(base.__name__, (base,), {"__slots__": (), "__module__": base.__module__, **methods})
