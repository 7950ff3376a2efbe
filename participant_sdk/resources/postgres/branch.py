"""One branch at work in PostgreSQL: one connection, and one local transaction on it.

Whatever the driver reports, only the server's command tag counts: `PREPARE TRANSACTION` and `COMMIT` of a failed transaction roll
it back, and answer `ROLLBACK` without an error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from participant_sdk.registry import BoundOperation
from participant_sdk.resources.postgres.connections import Source, Working, twin, waits_for_replicas
from participant_sdk.resources.postgres.guard import Guard
from participant_sdk.resources.relational.branch import NotDone, RelationalBranch
from troth.errors import Aborted, Reason, RequestError
from troth.log.postgres_branches import MARK


class PostgresBranch(RelationalBranch):
    """A branch that has a connection. `name` is its gid."""

    def __init__(self, name: str, connection: Working, source: Source) -> None:
        guard = Guard()
        super().__init__(name, guard)
        self.pid = connection.info.backend_pid
        self._connection = connection
        self._source = source
        self._blocking: psycopg.Connection[Any] | None = None
        self._reader = guard

    async def begin(self, statement: str) -> None:
        """Begin the local transaction. Raises `psycopg.Error`."""
        await self._connection.execute(statement, prepare=False)

    # ---- work

    def _given(self, *, blocking: bool) -> Any:
        """psycopg's asynchronous object, or its blocking one for the same session."""
        if not blocking:
            return self._connection
        if self._blocking is None:
            self._blocking = twin(psycopg.Connection, self._connection)
        return self._blocking

    def _work(self, operation: BoundOperation) -> Callable[[Any], Any]:
        return self._source.work(operation, self._connection, self._reader)

    def cut(self) -> None:
        self._connection.pgconn.finish()

    async def _interrupt(self) -> None:
        with suppress(psycopg.Error):
            await self._connection.cancel_safe(timeout=5.0)

    def _broken(self, operation: str) -> BaseException | None:
        """What is wrong with a transaction whose operation raised nothing."""
        status = self._connection.pgconn.transaction_status
        if status == TransactionStatus.INTRANS:
            return None
        if status == TransactionStatus.INERROR:
            return Aborted(Reason.OPERATION_FAILED, f"{operation} went on after a statement had failed: use a savepoint")
        if status == TransactionStatus.IDLE:
            return RequestError(Reason.FORBIDDEN_SQL, f"{operation} ended the transaction")
        if status == TransactionStatus.ACTIVE:
            return RequestError(Reason.FORBIDDEN_SQL, f"{operation} left a statement unfinished: read its results to their end")
        return psycopg.OperationalError("the connection was lost")

    # ---- ends

    async def _prepared(self) -> bool:
        """Who has seen a statement that writes prepares in one round trip; who has not asks first, since it costs less than to
        prepare nothing."""
        prepare = f"PREPARE TRANSACTION '{self.name}'"
        if self._reader.wrote:
            if await self._end(prepare, "PREPARE TRANSACTION", mark=True):
                return True
            await self._end(f"COMMIT PREPARED '{self.name}'", "COMMIT PREPARED")  # it wrote no row
            return False
        if await self._mark():
            await self._end(prepare, "PREPARE TRANSACTION")
            return True
        await self._end("COMMIT", "COMMIT")
        return False

    async def _committed(self) -> None:
        await self._end("COMMIT", "COMMIT", mark=True)

    async def end(self) -> None:
        """Roll back what is not finished, and give the connection back."""
        connection = self._connection
        try:
            if connection.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                with suppress(psycopg.Error):
                    await connection.execute("ROLLBACK", prepare=False)
            if connection.pgconn.transaction_status != TransactionStatus.IDLE:
                await connection.close()
        finally:
            await self._source.give(connection)

    async def _mark(self) -> bool:
        """Leave the proof, unless nothing was changed; returns whether it was left."""
        try:
            return (await self._connection.execute(MARK, (self.name,), prepare=False)).rowcount > 0
        except psycopg.Error as error:
            raise NotDone(error) from error

    async def _end(self, statement: str, tag: str, *, mark: bool = False) -> bool:
        """End the transaction, with the proof before it in the same message; returns whether that was left. An error of the first
        keeps the server from the second."""
        cursor = None
        text = f"{MARK % repr(self.name)}; {statement}" if mark else statement
        try:
            with waits_for_replicas(self._connection):
                cursor = await self._connection.execute(text, prepare=False)
        except psycopg.Error as error:
            raise NotDone(error, lost=self._connection.closed or cursor is not None) from error
        marked = mark and cursor.rowcount > 0
        if mark:
            cursor.nextset()
        if cursor.statusmessage != tag:
            raise NotDone(Aborted(Reason.OPERATION_FAILED, f"{statement.split(' ')[0]} answered {cursor.statusmessage}"))
        return marked
