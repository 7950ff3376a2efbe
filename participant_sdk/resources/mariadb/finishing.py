"""Finishing branches in MariaDB.

1397 (XAER_NOTA) proves nothing: the branch may still be attached to the session that prepared it, which then is about to end, or
has to be ended. Such a branch is listed by XA RECOVER; of one that is not, the table of proofs tells.

Success proves nothing either. In MariaDB 10.11 an XA COMMIT (or ROLLBACK) that arrives while the preparing session is just ending
is answered with success and does nothing: the server lets go of the id before InnoDB lets go of the session, finds no transaction,
and says nothing of it. The branch then keeps its locks, unlisted, until the server is started again, and is prepared then. So
nobody is asked to finish a branch whose session is there, and each success is proved by the marker row.

A server that was demoted is not asked: MariaDB would say 1290, and MySQL would do it, behind the new primary's back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from participant_sdk.resources.mariadb.connections import Source, finisher_pool
from participant_sdk.resources.mariadb.sessions import end_branch
from participant_sdk.resources.relational import finishing
from participant_sdk.resources.relational.finishing import BranchFinishers, Fate
from participant_sdk.resources.relational.pool import PoolBusy
from troth.log import mariadb_branches as branches
from troth.mariadb import errors
from troth.mariadb.connection import Connection

_LOOK = "SELECT IS_USED_LOCK(%s), @@GLOBAL.read_only"
ATTACHED_WAITS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds between looks at a branch whose session is about to end; then it is ended."""


SETTLE_SECONDS = 0.005
"""Between the end of a session, as its locks tell, and the first word about its branch."""


class StillAttached(Exception):
    """A prepared branch is held by its session."""


class Demoted(Exception):
    """The server takes no changes."""


class Swallowed(Exception):
    """The server has said that a branch is finished, and it is not."""


class Finishers(BranchFinishers):
    """Connections that finish branches."""

    def __init__(self, source: Source) -> None:
        self.pool = finisher_pool(source)
        self.database = ""
        """Known once it is open."""

    def kinds(self) -> tuple[type[Exception], ...]:
        """See `BranchFinishers`."""
        return (*errors.kinds(), PoolBusy, StillAttached, Demoted, Swallowed)

    def why(self, error: Exception) -> str:
        """See `BranchFinishers`."""
        return errors.why(error)

    async def open(self) -> None:
        """See `BranchFinishers`."""
        async with self.pool.connection(finishing.WAIT_SECONDS) as connection:
            row = await connection.one("SELECT DATABASE()")
            self.database = str(row[0]) if row else ""

    async def close(self) -> None:
        """See `BranchFinishers`."""
        await self.pool.close()

    async def finish(self, name: str, *, commit: bool) -> bool:
        """See `BranchFinishers`."""
        xid = branches.xid_of(name, self.database)
        statement = f"XA {'COMMIT' if commit else 'ROLLBACK'} {xid.sql}"
        async with self.pool.connection(finishing.WAIT_SECONDS) as connection:
            for wait_seconds in ATTACHED_WAITS:
                if not await self._worked_for(connection, name):
                    await asyncio.sleep(SETTLE_SECONDS)
                    if await self._finished(connection, statement):
                        await self._prove(connection, name, commit)
                        return True
                    if xid not in await self._listed(connection):
                        return False
                await asyncio.sleep(wait_seconds)
            await end_branch(connection, name, self.database)
        raise StillAttached(f"{name} is held by its session, which is being ended")

    async def _worked_for(self, connection: Connection, name: str) -> bool:
        """Whether a session works for a branch. Raises `Demoted`."""
        session, read_only = await connection.one(_LOOK, (branches.branch_lock(name, self.database),)) or (None, 0)
        if str(read_only) not in ("0", "OFF"):
            raise Demoted("the server takes no changes (read_only): the branch stays prepared until it does")
        return session is not None

    async def _prove(self, connection: Connection, name: str, commit: bool) -> None:
        """Look whether what the server has said is true: a marker that is seen by all, or by nobody."""
        if not commit:
            await connection.ask(branches.UNCOMMITTED)
        row = await connection.one(branches.FATE, (name,))
        if (row is not None and bool(row[0])) is not commit:
            raise Swallowed(
                f"the server said that {name} is finished, and it is not: its session was just ending. It keeps its locks until "
                "the server is started again, and is finished then"
            )

    async def _finished(self, connection: Connection, statement: str) -> bool:
        try:
            await connection.ask(statement)
        except errors.kinds() as error:
            if errors.number(error) != errors.UNKNOWN_XID:
                raise
            return False
        return True

    async def fate(self, name: str) -> Fate:
        """See `BranchFinishers`."""
        async with self.pool.connection(finishing.WAIT_SECONDS) as connection:
            try:
                await connection.ask(branches.ENTOMB, (name,))
            except errors.kinds() as error:
                if errors.number(error) == errors.LOCK_TIMEOUT:
                    await end_branch(connection, name, self.database)
                raise
            row = await connection.one(branches.FATE, (name,))
        return Fate.COMMITTED if row and row[0] else Fate.DEAD

    async def _listed(self, connection: Connection) -> list[branches.Xid]:
        return branches.listed((await connection.ask(branches.LIST)).rows)

    async def prepared(self, participant: str) -> Sequence[str]:
        """See `BranchFinishers`."""
        async with self.pool.connection(finishing.WAIT_SECONDS) as connection:
            return branches.names(await self._listed(connection), participant, self.database)

    async def forget(self, names: Sequence[str]) -> None:
        """See `BranchFinishers`."""
        async with self.pool.connection(finishing.WAIT_SECONDS) as connection, connection.transaction():
            for name in names:
                await connection.ask(branches.FORGET, (name,))
