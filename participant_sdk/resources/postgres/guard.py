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
_REFUSED = {**dict.fromkeys(_ENDS, ENDS), **dict.fromkeys(_SESSION, LEAKS)}
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
    def on(self, connection: Any) -> Iterator[None]:
        """See `BranchGuard`."""
        self._connection, kind, attributes = connection, connection.__class__, vars(connection)
        before = {name: attributes[name] for name in _FACTORIES}
        hidden = {name: attributes.pop(name) for name in _REFUSED.keys() & attributes.keys()}
        attributes.update({name: _guarded(factory) for name, factory in before.items()}, troth_guard=self)
        connection.__class__, self.over = _refusing(kind), False
        try:
            yield
        finally:
            connection.__class__ = kind
            del attributes["troth_guard"]
            attributes.update(before, **hidden)


@cache
def _refusing(kind: Any) -> Any:
    """A class of connections without what an operation must not call; a connection can be of either."""
    asynchronous = issubclass(kind, AsyncConnection)

    def refused(name: str, why: str) -> Callable[..., Any]:
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            guard: Guard = vars(self)["troth_guard"]
            return guard.method(name, why, asynchronous=asynchronous)()

        return call

    return type(kind.__name__, (kind,), {name: refused(name, why) for name, why in _REFUSED.items()})


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
