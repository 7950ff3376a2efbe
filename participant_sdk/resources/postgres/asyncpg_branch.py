"""One branch at work on a connection of asyncpg. As with psycopg, only the server's command tag counts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

import asyncpg
import psycopg

from participant_sdk.border import Raised
from participant_sdk.registry import BoundOperation
from participant_sdk.resources.postgres.asyncpg_driver import FAILED_TRANSACTION, Session
from participant_sdk.resources.postgres.asyncpg_guard import AsyncpgGuard
from participant_sdk.resources.postgres.sqlstates import behind, is_lost
from participant_sdk.resources.relational.branch import NotDone, RelationalBranch
from troth.errors import Aborted, Reason, RequestError
from troth.log.postgres_branches import MARK

_LOST = (asyncpg.InterfaceError, OSError)
"""What asyncpg raises, besides errors of the server, when its connection is gone."""


class AsyncpgBranch(RelationalBranch):
    """A branch that has a connection. `name` is its gid."""

    def __init__(self, name: str, session: Session, source: Any) -> None:
        guard = AsyncpgGuard()
        super().__init__(name, guard)
        self._session = session
        self._source = source
        self._reader = guard

    async def begin(self, statement: str) -> None:
        """Begin the local transaction. Raises `psycopg.Error`."""
        await self._session.tag(statement)

    # ---- work

    async def run(self, operation: BoundOperation, executor: Executor) -> Any:
        """See `RelationalBranch`. asyncpg does not tell a failed transaction from a good one: where a statement has failed, the
        server is asked."""
        result = await super().run(operation, executor)
        if self._lost_by(self.error):
            self.error = psycopg.OperationalError("the connection was lost")
            return Raised(self.error)
        if self.error is None and self._reader.doubtful:
            self.error = await self._failed(operation.name)
            self._reader.doubtful = False
        return result if self.error is None else Raised(self.error)

    def _lost_by(self, error: BaseException | None) -> bool:
        """Whether an error says, in whatever words of asyncpg's, that the connection is lost."""
        if error is None or not self._session.closed or self._reader.given_up:
            return False
        return any(isinstance(one, _LOST) for one in behind(error))

    async def _failed(self, operation: str) -> BaseException | None:
        try:
            await self._session.tag("SELECT 1")
        except psycopg.Error as error:
            if error.sqlstate != FAILED_TRANSACTION:
                return error
            return self._went_on(operation)
        return None

    @staticmethod
    def _went_on(operation: str) -> Aborted:
        return Aborted(Reason.OPERATION_FAILED, f"{operation} went on after a statement had failed: use a savepoint")

    def _given(self, *, blocking: bool) -> Any:
        assert not blocking, "asyncpg does not block"
        return self._session.given

    def _work(self, operation: BoundOperation) -> Callable[[Any], Any]:
        work: Callable[[Any], Any] = self._source.work(operation, self._session, self._reader)
        return work

    def cut(self) -> None:
        self._session.cut()

    async def _interrupt(self) -> None:
        """Nobody waits in a thread."""

    def _broken(self, operation: str) -> BaseException | None:
        """What is wrong with a transaction whose operation raised nothing, as far as asyncpg knows."""
        if self._session.closed and self._reader.given_up:
            return self._went_on(operation)
        if self._session.closed:
            return psycopg.OperationalError("the connection was lost")
        if not self._session.in_transaction:
            return RequestError(Reason.FORBIDDEN_SQL, f"{operation} ended the transaction")
        return None

    # ---- ends

    async def _prepared(self) -> bool:
        changed = await self._mark()
        statement, tag = (f"PREPARE TRANSACTION '{self.name}'", "PREPARE TRANSACTION") if changed else ("COMMIT", "COMMIT")
        await self._end(statement, tag)
        return changed

    async def _committed(self) -> None:
        """The proof goes before it in the same message: an error of the first keeps the server from the second."""
        await self._end(f"{MARK % repr(self.name)}; COMMIT", "COMMIT")

    async def end(self) -> None:
        """Roll back what is not finished, and give the connection back."""
        session = self._session
        try:
            if session.in_transaction:
                with suppress(psycopg.Error):
                    await session.tag("ROLLBACK")
            if session.in_transaction:
                session.cut()
        finally:
            await self._source.give(session)

    async def _mark(self) -> bool:
        """Leave the proof, unless nothing was changed; returns whether it was left."""
        try:
            return await self._session.tag(MARK % repr(self.name)) == "INSERT 0 1"
        except psycopg.Error as error:
            raise NotDone(error) from error

    async def _end(self, statement: str, tag: str) -> None:
        """End the transaction."""
        try:
            answered = await self._session.tag(statement)
        except psycopg.Error as error:
            lost = self._session.closed or is_lost(error)
            if lost:
                self._session.cut()
            raise NotDone(error, lost=lost) from error
        if answered != tag:
            raise NotDone(Aborted(Reason.OPERATION_FAILED, f"{tag} answered {answered}"))
