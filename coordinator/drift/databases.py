"""What a participant's database holds of branches: what is prepared, and the rows of `troth.branch`; and finishing there what is
decided."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from coordinator.drift.evidence import Branch, Evidence, Fate
from troth.errors import LogError, Reason
from troth.gids import parse_gid
from troth.mariadb.address import is_address

if TYPE_CHECKING:
    from troth.mariadb.connection import Connection

ROWS_MAX = 10_000
"""Rows of `troth.branch` that are looked at, the newest."""
_PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, 'troth:') ORDER BY prepared"
_ROWS = f"SELECT gid, committed FROM troth.branch ORDER BY at DESC LIMIT {ROWS_MAX}"
_MARIADB_ROWS = f"SELECT gid, committed FROM troth_branch ORDER BY at DESC LIMIT {ROWS_MAX}"


async def read_database(dsn: str, label: str) -> Evidence:
    """What a database holds; `label` names it for people. Raises `LogError`."""
    prepared, rows = await (_of_mariadb(dsn) if is_address(dsn) else _of_postgres(dsn))
    branches = []
    for name, statement in prepared:
        gid = parse_gid(name)
        if gid is not None:
            branches.append(Branch(gid.participant, gid.transaction, Fate.PREPARED, gid=statement))
    for name, committed in rows:
        gid = parse_gid(str(name))
        if gid is not None:
            fate = Fate.COMMITTED if committed else Fate.ABORTED
            branches.append(Branch(gid.participant, gid.transaction, fate, gid=str(name), marker=True))
    return Evidence(label, "", tuple(branches))


Read = tuple[list[tuple[str, str]], list[Any]]
"""Of what is prepared the name and what its server's statements take; and the rows of markers."""


async def _of_postgres(dsn: str) -> Read:
    from troth.log.postgres_store import connect

    connection = await connect(dsn, "troth reconcile")
    try:
        prepared = [(str(gid), str(gid)) for (gid,) in await (await connection.execute(_PREPARED)).fetchall()]
        (there,) = await (await connection.execute("SELECT to_regclass('troth.branch')")).fetchone() or (None,)
        return prepared, list(await (await connection.execute(_ROWS)).fetchall()) if there is not None else []
    finally:
        await connection.close()


async def _of_mariadb(dsn: str) -> Read:
    from troth.log import mariadb_branches as branches
    from troth.log.mariadb_store import connect, from_error
    from troth.mariadb import errors

    connection = await connect(dsn)
    try:
        database = await connection.database()
        listed = branches.listed((await connection.ask(branches.LIST)).rows)
        prepared = [(name, xid.sql) for xid in listed if (name := branches.branch_of(xid, database))]
        return prepared, await _mariadb_rows(connection)
    except errors.kinds() as error:
        if errors.number(error) in (*errors.DENIED, errors.LISTING_DENIED):
            raise await _denied(connection, error) from error
        raise from_error("the database", error, "looked at") from error
    finally:
        await connection.close()


async def _mariadb_rows(connection: Connection) -> list[Any]:
    from troth.mariadb import errors

    try:
        return list((await connection.ask(_MARIADB_ROWS)).rows)
    except errors.kinds() as error:
        if errors.number(error) != errors.NO_TABLE:
            raise
        return []


async def _denied(connection: Connection, error: BaseException) -> LogError:
    """What the user has to be given for looking and finishing, which is less than a participant needs."""
    from troth.log.mariadb_store import grants_to_finish
    from troth.mariadb import errors

    user = await connection.user()
    # What MySQL says to who may not list is of a fatal error, and of data to be checked.
    listing = errors.number(error) == errors.LISTING_DENIED
    what = "what is prepared" if listing else f"the proofs of branches: {errors.why(error)}"
    granted = grants_to_finish(user, connection.dialect)
    return LogError(Reason.STORE_UNSAFE, f"the user {user} may not see {what}", hint="; ".join(granted))


def statement(dsn: str, branch: Branch, *, commit: bool) -> str:
    """What finishes a branch that is prepared, on its server."""
    word = "COMMIT" if commit else "ROLLBACK"
    return f"XA {word} {branch.gid}" if is_address(dsn) else f"{word} PREPARED '{branch.gid}'"


async def finish(dsn: str, branch: Branch, *, commit: bool) -> str:
    """Finish a branch in its database as it was decided; returns what was wrong, or nothing. Raises `LogError`."""
    return await (_finish_in_mariadb if is_address(dsn) else _finish_in_postgres)(dsn, branch, commit=commit)


async def _finish_in_postgres(dsn: str, branch: Branch, *, commit: bool) -> str:
    import psycopg

    from troth.log.postgres_store import connect

    connection = await connect(dsn, "troth reconcile")
    try:
        await connection.execute(statement(dsn, branch, commit=commit).encode())
    except psycopg.errors.UndefinedObject:
        return ""  # somebody else was first, and everybody follows the same decision
    except psycopg.Error as error:
        return str(error).strip()
    finally:
        await connection.close()
    return ""


async def _finish_in_mariadb(dsn: str, branch: Branch, *, commit: bool) -> str:
    from troth.log import mariadb_branches as branches
    from troth.log.mariadb_store import connect
    from troth.mariadb import errors, finishing

    connection = await connect(dsn)
    wrong: tuple[type[Exception], ...] = (finishing.Demoted, finishing.Swallowed, *errors.kinds())
    try:
        database = await connection.database()
        name = branches.branch_name(branch.participant, branch.transaction)
        if not await finishing.marker(connection, name, uncommitted=True):
            if branches.xid_of(name, database) in await finishing.listed(connection):
                return f"{name} has no marker in troth_branch, without which Troth prepares nothing: look at it by hand"
        elif await finishing.finish(connection, name, database, commit=commit):
            return ""
        return await _ended_otherwise(connection, name, commit)
    except finishing.StillAttached as error:
        return f"{error}, which works yet or is about to end: run it again; start the service, which ends such sessions"
    except wrong as error:
        return errors.why(error)
    finally:
        await connection.close()


async def _ended_otherwise(connection: Connection, name: str, commit: bool) -> str:
    """What is wrong with a branch that is not prepared any more; somebody else was first, and mostly follows the same decision."""
    from troth.mariadb import finishing

    for wait_seconds in finishing.ATTACHED_WAITS:  # whoever finishes it is about to have done it
        committed = bool(await finishing.marker(connection, name))
        if committed or not await finishing.marker(connection, name, uncommitted=True):
            break
        await asyncio.sleep(wait_seconds)
    else:
        return f"the server does not list {name} any more, and it is not over: it comes back when the server is started again"
    if committed is commit:
        return ""
    return f"{name} is {'committed' if committed else 'rolled back'} already: by hand, and against the decision"
