"""asyncpg behind one narrow adapter: a statement in; the server's tag, or rows, out; errors by their SQLSTATE.

Its own transactions and pool are not used to finish anything. What it raises becomes psycopg's error of the same SQLSTATE, so that
`sqlstates.py` reads both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import asyncpg
import psycopg
from psycopg.pq import DiagnosticField

from troth.log.postgres_store import NOT_REPLICATED, gave_up_waiting

CLOSE_SECONDS = 5.0
"""For a goodbye; then the socket is closed without."""
FAILED_TRANSACTION = "25P02"
RAISED = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg raises when a statement or a connection fails."""
_FIELDS = {
    DiagnosticField.SQLSTATE: "sqlstate",
    DiagnosticField.MESSAGE_PRIMARY: "message",
    DiagnosticField.CONSTRAINT_NAME: "constraint_name",
    DiagnosticField.COLUMN_NAME: "column_name",
}


def bare(connection: Any) -> Any:
    """asyncpg's connection itself, behind what its pool lends."""
    return connection._con if isinstance(connection, asyncpg.pool.PoolConnectionProxy) else connection


def server_error(error: asyncpg.PostgresError) -> psycopg.Error:
    """psycopg's error that says the same."""
    told = {field: getattr(error, name, None) for field, name in _FIELDS.items()}
    info: dict[int, bytes | None] = {int(field): str(value).encode() for field, value in told.items() if value is not None}
    try:
        kind = psycopg.errors.lookup(error.sqlstate or "")
    except KeyError:
        kind = psycopg.DatabaseError
    return kind(str(error), info=info)


def driver_error(error: BaseException, *, closed: bool) -> psycopg.Error:
    """The same of any error. One that is not the server's says that the connection was lost, unless asyncpg refused to send."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        return server_error(error)
    if isinstance(error, asyncpg.InterfaceError) and not closed:
        return psycopg.ProgrammingError(str(error))
    return psycopg.OperationalError(str(error) or type(error).__name__)


class Session:
    """A connection: `given` is what operations get of it."""

    def __init__(self, given: Any) -> None:
        self.given = given
        self.raw = bare(given)

    @property
    def closed(self) -> bool:
        """Whether it is known to be gone."""
        return bool(self.raw.is_closed())

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed or not: which of both, asyncpg does not tell."""
        return not self.closed and bool(self.raw.is_in_transaction())

    async def tag(self, statement: str) -> str:
        """The server's command tag of a text's last statement. Raises `psycopg.Error`."""
        with self._translated():
            tag: str = await self.raw.execute(statement)
        return tag

    async def rows(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of one statement, whose parameters are written as psycopg has them. Raises `psycopg.Error`."""
        text, arguments = _numbered(statement, parameters)
        with self._translated():
            return [tuple(row) for row in await self.raw.fetch(text, *arguments)]

    def cut(self) -> None:
        """Close the socket without a word, also while a guard is on it."""
        asyncpg.Connection.terminate(self.raw)

    async def close(self) -> None:
        """Say goodbye; raises nothing."""
        with suppress(*RAISED):
            await self.raw.close(timeout=CLOSE_SECONDS)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """psycopg's errors, also for what was answered although replicas that were waited for need not have it. Who does not know
        what became of a statement has no use for its connection."""
        gave_up: list[bool] = []

        def noticed(_: Any, notice: Any) -> None:
            gave_up.append(gave_up_waiting(notice.server_source_function))

        try:
            self.raw.add_log_listener(noticed)
            yield
        except RAISED as error:
            told = driver_error(error, closed=self.closed)
            if isinstance(error, OSError | asyncpg.InternalClientError):
                self.cut()
            raise told from error
        finally:
            self.raw.remove_log_listener(noticed)
        if any(gave_up):
            raise psycopg.OperationalError(NOT_REPLICATED)


def _numbered(statement: str, parameters: Sequence[Any] | Mapping[str, Any]) -> tuple[str, list[Any]]:
    """A statement with the parameters of psycopg, as asyncpg wants it."""
    if isinstance(parameters, Mapping):
        for number, name in enumerate(parameters, 1):
            statement = statement.replace(f"%({name})s", f"${number}")
        return statement, list(parameters.values())
    for number in range(1, len(parameters) + 1):
        statement = statement.replace("%s", f"${number}", 1)
    return statement, list(parameters)
