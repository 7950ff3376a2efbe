"""What an operation gets of its branch's connection; every driver sends what its cursors execute through `connection.query`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from participant_sdk.resources.mariadb.statements import forbidden, forbidden_table
from participant_sdk.resources.relational.guard import ENDS, LEAKS, BranchGuard, remembered
from troth.errors import Reason, RequestError
from troth.mariadb import errors

_ENDS = ("commit", "rollback", "begin", "ensure_closed", "connect", "ping")
_SESSION = ("autocommit", "select_db", "set_charset", "set_character_set", "kill", "change_user", "prepare")
_FATAL = frozenset({errors.LOCK_TIMEOUT, errors.DEADLOCK, *errors.CONFLICTS, *errors.TOO_SLOW})
_read = remembered(forbidden)


class Guard(BranchGuard):
    """Guards a connection of a driver. `tables` are those of the database that are not transactional."""

    def __init__(self, *, asynchronous: bool, tables: Collection[str] = ()) -> None:
        super().__init__()
        self._asynchronous = asynchronous
        self._tables = tables
        self._last: BaseException | None = None
        """The error of the last statement, if it failed."""

    def failed(self) -> bool:
        """Libraries roll back after an error and raise it: whoever does, has lost his branch."""
        if self._last is not None:
            self.fatal = self.fatal or self._last
        return self._last is not None

    def harmless(self, name: str) -> bool:
        """See `BranchGuard`. SQLAlchemy closes what is lost: that is done when the branch ends."""
        return super().harmless(name) or (name == "ensure_closed" and self.failed())

    def check(self, query: Any) -> None:
        """Raise `RequestError` (FORBIDDEN_SQL) for a statement that an operation may not send."""
        text = query.decode(errors="replace") if isinstance(query, bytes | bytearray) else str(query)
        if why := _read(text) or forbidden_table(text, self._tables):
            raise self.deny(why)

    @contextmanager
    def on(self, connection: Any) -> Iterator[None]:
        """See `BranchGuard`."""
        attributes = vars(connection)
        replaced = {name: self.method(name, ENDS, asynchronous=self._asynchronous) for name in _ENDS}
        replaced.update({name: self.method(name, LEAKS, asynchronous=self._asynchronous) for name in _SESSION})
        replaced["close"] = self._closing(connection.close)
        replaced["query"] = (self._reading_async if self._asynchronous else self._reading)(connection.query)
        before = {name: attributes[name] for name in replaced if name in attributes}
        attributes.update(replaced)
        self.over = False
        try:
            yield
        finally:
            for name in replaced:
                attributes.pop(name, None)
            attributes.update(before)

    def _closing(self, close: Callable[[], None]) -> Callable[[], None]:
        """Drivers close their connection themselves when it is lost, or its user cancelled: then that is told, and not this."""

        def closed() -> None:
            if not self.over:
                told = f"close() in a transaction of the coordinator: {ENDS}"
                self.fatal = self.fatal or RequestError(Reason.FORBIDDEN_SQL, told)
                close()

        return closed

    def _reading(self, query: Callable[..., Any]) -> Callable[..., Any]:
        def read(sql: Any, *arguments: Any, **options: Any) -> Any:
            self.check(sql)
            try:
                answer = query(sql, *arguments, **options)
            except errors.kinds() as error:
                self._note(error)
                raise
            self._last = None
            return answer

        return read

    def _reading_async(self, query: Callable[..., Any]) -> Callable[..., Any]:
        async def read(sql: Any, *arguments: Any, **options: Any) -> Any:
            self.check(sql)
            try:
                answer = await query(sql, *arguments, **options)
            except errors.kinds() as error:
                self._note(error)
                raise
            self._last = None
            return answer

        return read

    def _note(self, error: BaseException) -> None:
        """A statement that timed out was undone alone, and a deadlock has undone all: neither may be voted YES on."""
        self._last = error
        if errors.number(error) in _FATAL or errors.is_lost(error):
            self.fatal = self.fatal or error
