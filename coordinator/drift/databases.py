"""What a participant's database holds of branches: what is prepared, and the rows of `troth.branch`; and finishing there what is
decided."""

from __future__ import annotations

from typing import Any

from coordinator.drift.evidence import Branch, Evidence, Fate
from troth.gids import parse_gid
from troth.mariadb.address import is_address

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
        row = await connection.one("SELECT DATABASE()")
        database = str(row[0]) if row else ""
        listed = branches.listed((await connection.ask(branches.LIST)).rows)
        prepared = [(name, xid.sql) for xid in listed if (name := branches.branch_of(xid, database))]
        return prepared, list((await connection.ask(_MARIADB_ROWS)).rows)
    except errors.kinds() as error:
        raise from_error("the database", error, "looked at") from error
    finally:
        await connection.close()


def statement(dsn: str, branch: Branch, *, commit: bool) -> str:
    """What finishes a branch that is prepared, on its server."""
    word = "COMMIT" if commit else "ROLLBACK"
    return f"XA {word} {branch.gid}" if is_address(dsn) else f"{word} PREPARED '{branch.gid}'"


async def finish(dsn: str, branch: Branch, *, commit: bool) -> str:
    """Finish a branch in PostgreSQL as it was decided; returns what was wrong, or nothing. Raises `LogError`."""
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
