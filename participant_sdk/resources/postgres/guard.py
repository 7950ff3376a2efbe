"""What an operation gets of its branch's connection; psycopg's cursors read each statement before they send it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from psycopg import AsyncConnection, BaseConnection
from psycopg.pq import TransactionStatus
from psycopg.sql import Composable

from participant_sdk.resources.postgres.statements import forbidden, writes
from participant_sdk.resources.relational.guard import ENDS, LEAKS, BranchGuard, remembered

_ENDS = ("commit", "rollback", "close", "tpc_begin", "tpc_prepare", "tpc_commit", "tpc_rollback", "tpc_recover")
_SESSION = ("set_autocommit", "set_isolation_level", "set_read_only", "set_deferrable", "notifies")
_FACTORIES = ("cursor_factory", "server_cursor_factory")
_read = remembered(forbidden)
_writes = remembered(writes)


class Guard(BranchGuard):
    """Guards a connection of psycopg."""

    def __init__(self) -> None:
        super().__init__()
        self._connection: BaseConnection[Any] | None = None
        self.wrote = False
        """Whether a statement has begun with a word that writes. Others may write as well, and this one need not have."""

    def failed(self) -> bool:
        """See `BranchGuard`."""
        return self._connection is not None and self._connection.pgconn.transaction_status == TransactionStatus.INERROR

    def harmless(self, name: str) -> bool:
        """See `BranchGuard`. Whoever finds a connection lost closes it, and SQLAlchemy one whose statement was given up: that is
        done when the branch ends."""
        return super().harmless(name) or (name == "close" and (self._closed() or self.failed()))

    def _closed(self) -> bool:
        return self._connection is not None and self._connection.closed

    def check(self, query: Any, connection: Any) -> None:
        """Raise `RequestError` (FORBIDDEN_SQL) for a statement that an operation may not send."""
        text = _text(query, connection)
        if why := _read(text):
            raise self.deny(why)
        self.wrote = self.wrote or _writes(text)

    @contextmanager
    def on(self, connection: BaseConnection[Any]) -> Iterator[None]:
        """See `BranchGuard`."""
        self._connection, asynchronous = connection, isinstance(connection, AsyncConnection)
        attributes = vars(connection)
        before = {name: attributes[name] for name in (*_ENDS, *_SESSION, *_FACTORIES) if name in attributes}
        for name in _FACTORIES:
            attributes[name] = _guarded(before[name])
        attributes.update({name: self.method(name, ENDS, asynchronous=asynchronous) for name in _ENDS})
        attributes.update({name: self.method(name, LEAKS, asynchronous=asynchronous) for name in _SESSION})
        attributes["troth_guard"], self.over = self, False
        try:
            yield
        finally:
            for name in (*_ENDS, *_SESSION, "troth_guard"):
                attributes.pop(name, None)
            attributes.update(before)


def _text(query: Any, connection: Any) -> str:
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    if isinstance(query, Composable):
        return query.as_string(connection)
    return "".join(getattr(query, "strings", ()))  # a template string of Python 3.14


@cache
def _guarded(base: Any) -> Any:
    """A cursor class that reads what it sends."""

    def checked(name: str) -> Callable[..., Any]:
        method = getattr(base, name)

        def call(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
            guard: Guard | None = vars(self.connection).get("troth_guard")
            if guard is not None:
                guard.check(query, self.connection)
            return method(self, query, *arguments, **options)

        return call

    methods = {name: checked(name) for name in ("execute", "executemany", "stream", "copy") if hasattr(base, name)}
    return type(base.__name__, (base,), methods)
