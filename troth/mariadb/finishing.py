"""Finishing a branch that is prepared in MariaDB or MySQL: one way, for the resource and for whoever does it in its place.

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

from troth.log import mariadb_branches as branches
from troth.mariadb import errors
from troth.mariadb.connection import Connection

_LOOK = "SELECT IS_USED_LOCK(%s), @@GLOBAL.read_only"
ATTACHED_WAITS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds between looks at a branch whose session is about to end."""
SETTLE_SECONDS = 0.005
"""Between the end of a session, as its locks tell, and the first word about its branch."""


class StillAttached(Exception):
    """A prepared branch is held by its session."""


class Demoted(Exception):
    """The server takes no changes."""


class Swallowed(Exception):
    """The server has said that a branch is finished, and it is not."""


async def finish(connection: Connection, name: str, database: str, *, commit: bool) -> bool:
    """Commit or roll back a prepared branch; returns whether it was prepared, and is finished now.

    `name` is the branch's (`troth.gids`), `database` that of the connection. Raises `StillAttached` after a second, `Demoted`,
    `Swallowed`, and what the driver raises. No session is ended here.
    """
    xid = branches.xid_of(name, database)
    statement = f"XA {'COMMIT' if commit else 'ROLLBACK'} {xid.sql}"
    for wait_seconds in ATTACHED_WAITS:
        if not await _worked_for(connection, name, database):
            await asyncio.sleep(SETTLE_SECONDS)
            if await _said_done(connection, statement):
                await _prove(connection, name, commit)
                return True
            if xid not in await listed(connection):
                return False
        await asyncio.sleep(wait_seconds)
    raise StillAttached(f"{name} is held by its session")


async def listed(connection: Connection) -> list[branches.Xid]:
    """What is prepared on the whole server."""
    return branches.listed((await connection.ask(branches.LIST)).rows)


async def marker(connection: Connection, name: str, *, uncommitted: bool = False) -> bool | None:
    """Whether a branch's row in the table of proofs is its marker (or else a tombstone); `None` where it has no row.

    With `uncommitted` the row of a branch that is not over counts, too.
    """
    if uncommitted:
        await connection.ask(branches.UNCOMMITTED)
    row = await connection.one(branches.FATE, (name,))
    return None if row is None else bool(row[0])


async def _worked_for(connection: Connection, name: str, database: str) -> bool:
    """Whether a session works for a branch. Raises `Demoted`."""
    session, read_only = await connection.one(_LOOK, (branches.branch_lock(name, database),)) or (None, 0)
    if str(read_only) not in ("0", "OFF"):
        raise Demoted("the server takes no changes (read_only): the branch stays prepared until it does")
    return session is not None


async def _said_done(connection: Connection, statement: str) -> bool:
    """Whether the server says that it has done it; `False` for XAER_NOTA."""
    try:
        await connection.ask(statement)
    except errors.kinds() as error:
        if errors.number(error) != errors.UNKNOWN_XID:
            raise
        return False
    return True


async def _prove(connection: Connection, name: str, commit: bool) -> None:
    """Look whether what the server has said is true: a marker that is seen by all, or by nobody."""
    if bool(await marker(connection, name, uncommitted=not commit)) is not commit:
        raise Swallowed(
            f"the server said that {name} is finished, and it is not: its session was just ending. It keeps its locks until "
            "the server is started again, and is finished then"
        )
