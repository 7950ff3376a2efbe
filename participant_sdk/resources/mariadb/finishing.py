"""Finishing branches in MariaDB: how one is finished, and what the server's answers prove, is said in `troth.mariadb.finishing`."""

from __future__ import annotations

from collections.abc import Sequence

from participant_sdk.resources.mariadb.connections import Source, finisher_pool
from participant_sdk.resources.mariadb.sessions import end_branch
from participant_sdk.resources.relational import finishing
from participant_sdk.resources.relational.finishing import BranchFinishers, Fate
from participant_sdk.resources.relational.pool import PoolBusy
from troth.log import mariadb_branches as branches
from troth.mariadb import errors
from troth.mariadb.finishing import Demoted, StillAttached, Swallowed, finish, listed


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
            self.database = await connection.database()

    async def close(self) -> None:
        """See `BranchFinishers`."""
        await self.pool.close()

    async def finish(self, name: str, *, commit: bool) -> bool:
        """See `BranchFinishers`."""
        async with self.pool.connection(finishing.WAIT_SECONDS) as connection:
            try:
                return await finish(connection, name, self.database, commit=commit)
            except StillAttached:
                await end_branch(connection, name, self.database)
        raise StillAttached(f"{name} is held by its session, which is being ended")

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

    async def prepared(self, participant: str) -> Sequence[str]:
        """See `BranchFinishers`."""
        async with self.pool.connection(finishing.WAIT_SECONDS) as connection:
            return branches.names(await listed(connection), participant, self.database)

    async def forget(self, names: Sequence[str]) -> None:
        """See `BranchFinishers`."""
        async with self.pool.connection(finishing.WAIT_SECONDS) as connection, connection.transaction():
            for name in names:
                await connection.ask(branches.FORGET, (name,))
