"""Which of the server's sessions work for which branch, told by locks of names that they hold (`GET_LOCK`): these are free as soon
as a session ends, and `IS_USED_LOCK` tells everybody who has one.

    one for the branch       so that whoever does not find the branch can end who still works for it
    one of many for the      so that a process that starts finds what earlier lives of its own still do
    participant
"""

from __future__ import annotations

from contextlib import suppress

from troth.log.mariadb_branches import branch_lock, lock_name
from troth.mariadb.connection import Connection
from troth.mariadb.errors import kinds

PLACES = 256
"""Sessions of one participant that a successor finds; what further ones do ends with their connection."""


def place_lock(participant: str, database: str, place: int) -> str:
    """Held by a session of a participant."""
    return f"{lock_name('participant', database, participant)[:56]}:{place}"


async def session_of(connection: Connection, name: str, database: str) -> int | None:
    """Who works for a branch."""
    row = await connection.one("SELECT IS_USED_LOCK(%s)", (branch_lock(name, database),))
    return None if row is None or row[0] is None else int(row[0])


async def end_branch(connection: Connection, name: str, database: str) -> None:
    """End whoever works for a branch."""
    session = await session_of(connection, name, database)
    if session is not None:
        await _kill(connection, session)


async def end_earlier(connection: Connection, participant: str, database: str) -> list[int]:
    """End what other lives of this participant still do; returns the sessions that did something."""
    asked = ", ".join(f"IS_USED_LOCK('{place_lock(participant, database, place)}')" for place in range(PLACES))
    row = await connection.one(f"SELECT {asked}")
    found = [int(session) for session in row or () if session is not None]
    for session in found:
        await _kill(connection, session)
    return found


async def _kill(connection: Connection, session: int) -> None:
    with suppress(*kinds()):  # it has ended meanwhile
        await connection.ask(f"KILL {session}")
