"""`troth doctor`: is a service's database fit for branches, and what do those that are in doubt block?

Here is what is looked at in PostgreSQL; `doctor_mariadb` has the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli import outbox_postgres, render
from coordinator.cli.command import Command, json_option
from coordinator.cli.failure import OK, REFUSED
from coordinator.cli.finding import Finding, Held, lacks_index, old, outbox_denied, set_aside
from troth.mariadb.address import is_address

if TYPE_CHECKING:
    from troth.log.postgres_store import Connection

EXAMPLES = """
troth doctor --dsn postgresql://payments_app@db/bank        # as the role of the service: its privileges are looked at
troth doctor --dsn postgresql://db/bank --json
troth doctor --dsn mysql://payments_app@db/bank             # MariaDB
"""

SERVER = (
    "SELECT current_setting('server_version_num')::int AS version, current_setting('max_prepared_transactions')::int AS room,"
    " (SELECT count(*) FROM pg_prepared_xacts)::int AS prepared, current_setting('fsync') AS fsync,"
    " current_setting('full_page_writes') AS full_page_writes, current_setting('synchronous_commit') AS synchronous_commit,"
    " current_setting('synchronous_standby_names') AS standbys, (SELECT count(*) FROM pg_stat_replication)::int AS replicas"
)
OUTBOX = (
    "SELECT outbox IS NOT NULL, current_user, has_table_privilege(outbox, 'SELECT') AND has_table_privilege(outbox, 'INSERT')"
    " AND has_table_privilege(outbox, 'UPDATE') AND has_table_privilege(outbox, 'DELETE')"
    " FROM (SELECT to_regclass('troth.outbox')::oid AS outbox) AS there"
)
FULL = 0.8
"""Of the room for prepared transactions."""


@click.command(cls=Command, examples=EXAMPLES)
@click.option("--dsn", required=True, metavar="DSN", help="The service's database, as the service reaches it.")
@json_option
def doctor(dsn: str, as_json: bool) -> int:
    """Look at a service's database: settings, privileges, and prepared transactions with what they block. Exit 1 for a problem."""
    findings, held = asyncio.run(_look(dsn))
    if as_json:
        render.write_json({"findings": [asdict(one) for one in findings], "prepared": [asdict(one) for one in held]})
    else:
        render.write_table(("", "FOUND", "WHAT TO DO", "SQL"), [(one.level, one.what, one.fix, one.sql) for one in findings])
        if held:
            rows = [
                (one.gid, one.participant or "other software", _since(one), ", ".join(one.tables), one.waiting)
                for one in held
            ]
            render.write_table(("PREPARED", "OF", "SINCE", "LOCKS IN", "WAITING"), rows)
    return REFUSED if any(one.level == "problem" for one in findings) else OK


async def _look(dsn: str) -> tuple[list[Finding], list[Held]]:
    if is_address(dsn):
        from coordinator.cli import doctor_mariadb

        return await doctor_mariadb.examine(dsn)
    return await examine(dsn)


def _since(held: Held) -> str:
    return f"{held.age_seconds:.0f} s" if held.age_seconds >= 0 else "not known"


async def examine(dsn: str) -> tuple[list[Finding], list[Held]]:
    """Look at a database: what was found, and what is prepared. Raises `LogError` when it cannot be reached."""
    from troth.gids import parse_gid
    from troth.log.postgres_branches import HELD
    from troth.log.postgres_store import connect

    connection = await connect(dsn, "troth doctor")
    try:
        held = []
        prepared = await (await connection.execute(HELD, ("",))).fetchall()
        for gid, owner, age, tables, waiting, _ in sorted(prepared, key=lambda row: -row[2]):
            ours = parse_gid(gid)
            held.append(
                Held(gid, ours.participant if ours else "", ours.transaction if ours else "", owner, age, list(tables), waiting)
            )
        in_doubt = (old(one, f"ROLLBACK PREPARED '{one.gid}'") for one in held)
        fit = await _branches(connection)
        findings = [*of_server(*(await _rows(connection, SERVER))[0]), fit, *in_doubt]
        if fit.level == "ok":
            findings += await _outbox(connection)
    finally:
        await connection.close()
    return [one for one in findings if one is not None], held


async def _rows(connection: Connection, statement: str) -> list[Any]:
    return await (await connection.execute(statement)).fetchall()


def of_server(
    version: int, room: int, prepared: int, fsync: str, pages: str, commit: str, standbys: str, replicas: int
) -> Iterator[Finding]:
    """What the server's settings mean; the arguments are the columns of `SERVER`."""
    major = version // 10_000
    yield Finding("ok", f"PostgreSQL {major}") if major >= 13 else Finding("problem", f"PostgreSQL {major}", "Use 13 or newer.")
    if not room:
        yield Finding(
            "problem", "max_prepared_transactions = 0: nothing can be prepared", "Set it and restart the server.",
            "ALTER SYSTEM SET max_prepared_transactions = 100",
        )  # fmt: skip
    elif prepared >= room * FULL:
        yield Finding(
            "warning", f"{prepared} of {room} prepared transactions are taken", "End what is in doubt; or raise it and restart.",
            f"ALTER SYSTEM SET max_prepared_transactions = {room * 4}",
        )  # fmt: skip
    else:
        yield Finding("ok", f"{prepared} of {room} prepared transactions are taken")
    for name, value in (("fsync", fsync), ("full_page_writes", pages)):
        if value != "on":
            yield Finding("problem", f"{name} = {value}: a crash may lose commits", "Set it.", f"ALTER SYSTEM SET {name} = on")
    if commit in ("off", "local") and (commit == "off" or standbys):
        yield Finding(
            "problem", f"synchronous_commit = {commit}: commits are acknowledged before they are safe", "Set it.",
            "ALTER ROLE CURRENT_USER SET synchronous_commit = on",
        )  # fmt: skip
    if replicas and not standbys:
        yield Finding(
            "warning", f"{replicas} replicas, none of them synchronous: a failover loses votes and commits",
            "Name a synchronous one.", "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'",
        )  # fmt: skip


async def _branches(connection: Connection) -> Finding:
    from troth.log.postgres_branches import CHECK, grants

    ((_, replica, made, role, _, granted),) = await _rows(connection, CHECK)
    if replica:
        return Finding("problem", "it is a replica", "Name the primary.")
    if not made:
        return Finding("problem", "there is no table troth.branch", "Run `troth store init --participant NAME` on it.")
    if not granted:
        return Finding("problem", f"the role {role} may not use troth.branch", "Grant it.", "; ".join(grants(role)))
    return Finding("ok", f"troth.branch is there, and {role} may use it")


async def _outbox(connection: Connection) -> list[Finding | None]:
    """A database may have none."""
    from troth.log.postgres_branches import HAS_INDEX, grants

    ((there, role, granted),) = await _rows(connection, OUTBOX)
    if not there:
        return []
    if not granted:
        return [outbox_denied(f"the role {role}", grants(role))]
    ((aside, _, _),) = await _rows(connection, outbox_postgres.COUNT)
    return [set_aside(aside), None if await _rows(connection, HAS_INDEX) else lacks_index()]
