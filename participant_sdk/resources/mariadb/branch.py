"""One branch at work in MariaDB: one session, and one XA transaction in it.

    XA START ─ run* ─┬─ XA END, XA PREPARE, and the session is closed: only then others can finish the branch
                     ├─ XA END, XA COMMIT ... ONE PHASE
                     └─ XA END, XA ROLLBACK
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from participant_sdk.registry import BoundOperation
from participant_sdk.resources.mariadb.connections import Source
from participant_sdk.resources.mariadb.guard import Guard
from participant_sdk.resources.relational.branch import NotDone, RelationalBranch
from troth.errors import Aborted, Reason
from troth.log.mariadb_branches import MARK, WRITTEN, Xid
from troth.mariadb.connection import Connection
from troth.mariadb.errors import is_lost, kinds

_BEGIN = f"SELECT DATABASE(), CONNECTION_ID(), GET_LOCK(%s, 0), GET_LOCK(%s, 0), {WRITTEN}, {{settings}}"


class MariadbBranch(RelationalBranch):
    """A branch that has a connection. `locks` are the names by which its session is found (`sessions`)."""

    def __init__(self, name: str, xid: Xid, connection: Connection, source: Source, guard: Guard, locks: tuple[str, str]) -> None:
        super().__init__(name, guard)
        self._xid = xid.sql
        self._connection = connection
        self._source = source
        self._reader = guard
        self._locks = locks
        self._dialect = connection.dialect
        self._before: dict[str, Any] = {}
        """What the session was set to before, by the names of variables; what the service lends is given back as it was."""
        self._set = False
        self._written = 0
        self._session = 0
        self._state = "new"

    async def begin(self, database: str, settings: dict[str, Any]) -> None:
        """Begin the transaction in a session of these settings (`Dialect.settings`). Raises what the driver raises, and `Aborted`
        where it cannot be in this session."""
        asked = ", ".join(f"@@{name}" for name in settings)
        row = await self._connection.one(_BEGIN.format(status=self._dialect.session_status, settings=asked), self._locks)
        assert row is not None
        found, self._session, alone, _, self._written, *before = row
        if found != database:
            raise Aborted(Reason.OPERATION_FAILED, f"a connection leads to the database {found!r}, and not {database!r}")
        if not alone:
            raise Aborted(Reason.CONFLICT, f"another session still works for {self.name}")
        self._before = dict(zip(settings, before, strict=True))
        if any(str(self._before[name]) != str(value) for name, value in settings.items()):
            self._set = True
            await self._configure(settings)
        await self._connection.ask(f"XA START {self._xid}")
        self._state = "active"

    async def _configure(self, settings: dict[str, Any]) -> None:
        await self._connection.ask(f"SET SESSION {', '.join(f'{name} = %s' for name in settings)}", tuple(settings.values()))

    # ---- work

    def _given(self, *, blocking: bool) -> Any:
        return self._connection.raw

    def _work(self, operation: BoundOperation) -> Callable[[Any], Any]:
        return self._source.work(operation, self._connection, self._reader)

    def cut(self) -> None:
        self._connection.cut()

    async def _interrupt(self) -> None:
        with suppress(*kinds()):
            async with asyncio.timeout(5.0):
                killer = await self._source.new()
                try:
                    await killer.ask(f"KILL QUERY {self._session}")
                finally:
                    await killer.close()

    def _broken(self, operation: str) -> BaseException | None:
        return OSError("the connection was lost") if self._connection.closed else None

    # ---- ends

    async def _prepared(self) -> bool:
        if not await self._mark():
            await self._step(f"XA COMMIT {self._xid} ONE PHASE", "idle")
            return False
        await self._step(f"XA PREPARE {self._xid}", "prepared")
        return True

    async def _committed(self) -> None:
        await self._mark()
        await self._step(f"XA COMMIT {self._xid} ONE PHASE", "idle")

    async def _mark(self) -> bool:
        """Leave the proof, unless nothing was changed, and end the work; returns whether it was left."""
        try:
            marked = await self._connection.ask(MARK.format(status=self._dialect.session_status), (self.name, self._written))
            await self._connection.ask(f"XA END {self._xid}")
        except kinds() as error:
            raise NotDone(error) from error
        self._state = "ended"
        return marked.changed > 0

    async def _step(self, statement: str, state: str) -> None:
        try:
            await self._connection.ask(statement)
        except kinds() as error:
            # An error of the server is a NO only once the branch is rolled back.
            raise NotDone(error, lost=is_lost(error) or not await self._rolled_back()) from error
        self._state = state

    async def _rolled_back(self) -> bool:
        if self._state == "active":
            with suppress(*kinds()):  # after a deadlock it has ended already
                await self._connection.ask(f"XA END {self._xid}")
        try:
            await self._connection.ask(f"XA ROLLBACK {self._xid}")
        except kinds():
            self._connection.cut()
            return False
        self._state = "idle"
        return True

    async def end(self) -> None:
        """See `RelationalBranch`."""
        connection = self._connection
        try:
            if self._state in ("active", "ended") and not connection.closed:
                await self._rolled_back()
            if self._state == "prepared":
                await connection.close()
            elif not connection.closed:
                await self._restore()
        finally:
            await self._source.give(connection)

    async def _restore(self) -> None:
        try:
            await self._connection.ask("DO RELEASE_LOCK(%s), RELEASE_LOCK(%s)", self._locks)
            if self._set and (self._source.lends or self._dialect.idle_ends_sessions):
                await self._configure(self._before)
        except kinds():
            self._connection.cut()
