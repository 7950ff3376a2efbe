"""What `troth doctor` looks at in a database of MariaDB or MySQL.

The server does not tell which of InnoDB's transactions an XA branch is. So what waits for branches, and in which tables, is told of
all of them together; and since when one of ours is prepared, by its marker row, which is read although it is not committed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from coordinator.cli import outbox_mariadb
from coordinator.cli.finding import Finding, Held, lacks_index, old, outbox_denied, set_aside
from troth.gids import parse_gid
from troth.log import mariadb_branches as branches
from troth.log import mariadb_outbox
from troth.log import mariadb_schema as schema
from troth.log.mariadb_store import connect, from_error, grants, settings, unfit
from troth.mariadb import errors
from troth.mariadb.connection import Connection

_MARKED = "SELECT gid, TIMESTAMPDIFF(MICROSECOND, at, UTC_TIMESTAMP(6)) / 1e6 FROM troth_branch WHERE committed = 1"
_TABLES = (
    "SELECT t.TABLE_NAME FROM information_schema.TABLES AS t JOIN information_schema.ENGINES AS e ON e.ENGINE = t.ENGINE"
    " WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_TYPE = 'BASE TABLE' AND COALESCE(e.TRANSACTIONS, 'NO') <> 'YES' ORDER BY 1"
)
_REPLICAS = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'"
_SET = re.compile(r"SET GLOBAL [\w ]+ = \w+")


async def examine(dsn: str) -> tuple[list[Finding], list[Held]]:
    """Look at a database: what was found, and what is prepared. Raises `LogError` when it cannot be reached."""
    connection = await connect(dsn)
    try:
        await connection.ask("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
        findings = [*await _of_server(connection), *await _of_tables(connection)]
        ages = await _ages(connection)
        denied = await _listing_denied(connection)
        held = [] if denied else await _held(connection, ages)
        findings += denied or await _lost(connection)
        findings += [one for one in (old(one, f"XA ROLLBACK {one.gid}") for one in held) if one is not None]
        findings += [*await _waiting(connection, held), *await _outbox(connection)]
    except errors.kinds() as error:
        raise from_error("the database", error, "looked at") from error
    finally:
        await connection.close()
    return findings, held


async def _of_server(connection: Connection) -> list[Finding]:
    found = await settings(
        connection, "version", "innodb_flush_log_at_trx_commit", "innodb_redo_log_enabled", "innodb_doublewrite", "read_only",
        "wsrep_on", "group_replication_group_name", "log_bin", "sync_binlog", "max_allowed_packet", "binlog_format",
        "xa_detach_on_prepare",
    )  # fmt: skip
    wrong = of_settings(found)
    return wrong or [Finding("ok", f"{found['version']}: commits are safe on its disk, and prepared branches outlive sessions")]


def of_settings(found: dict[str, str]) -> list[Finding]:
    """What a server's settings mean."""
    wrong = []
    for what, hint in unfit(found):
        said = _SET.search(hint)
        wrong.append(Finding("problem", f"it {what}", f"{hint}.", said[0] if said else ""))
    if found["log_bin"] in ("ON", "1") and found.get("binlog_format") == "STATEMENT":
        what = "binlog_format = STATEMENT: nothing can be written at 'read committed'"
        wrong.append(Finding("problem", what, "Set it.", "SET GLOBAL binlog_format = ROW"))
    if found.get("xa_detach_on_prepare", "ON") not in ("ON", "1"):
        what = "xa_detach_on_prepare = OFF: prepared branches stay in their sessions"
        wrong.append(Finding("problem", what, "Set it.", "SET GLOBAL xa_detach_on_prepare = ON"))
    return wrong


async def _of_tables(connection: Connection) -> list[Finding]:
    user = await connection.user()
    found = []
    for table in ("troth_branch", *schema.TABLES):
        try:
            await connection.ask(f"DELETE FROM {table} WHERE 1 = 0")
        except errors.kinds() as error:
            code = errors.number(error)
            if code == errors.NO_TABLE:
                return [Finding("problem", f"there is no table {table}", "Run `troth store init --participant NAME` on it.")]
            if code not in errors.DENIED:
                raise
            fix = "; ".join(grants(user, connection.dialect))
            return [Finding("problem", f"the user {user} may not use {table}", "Grant it.", fix)]
    found.append(Finding("ok", f"troth_branch and the tables of logs are there, and {user} may use them"))
    for (table,) in (await connection.ask(_TABLES)).rows:
        what = f"the table {table} is not transactional: what an operation wrote there could not be undone, and is refused"
        found.append(Finding("warning", what, "Change its engine.", f"ALTER TABLE {table} ENGINE = InnoDB"))
    return found


async def _outbox(connection: Connection) -> list[Finding]:
    """A database may have none. This session reads what is uncommitted: what branches in doubt have left is not set aside."""
    try:
        for table in mariadb_outbox.TABLES:
            await connection.ask(f"DELETE FROM {table} WHERE 1 = 0")
        counts = await connection.one(outbox_mariadb.COUNT)
        found = set_aside(int(counts[0]) if counts else 0)
        rows = await connection.one(mariadb_outbox.COUNT_KEYS)
        slow = None if await connection.one(mariadb_outbox.HAS_INDEX) else lacks_index()
    except errors.kinds() as error:
        code = errors.number(error)
        if code == errors.NO_TABLE:
            return []
        if code not in errors.DENIED:
            raise
        user = await connection.user()
        return [outbox_denied(f"the user {user}", grants(user, connection.dialect))]
    lacks = Finding("problem", "troth_outbox_key has not all of its rows", "Run `troth store init --participant NAME` on it.")
    return [one for one in (found, slow, None if rows == (mariadb_outbox.KEYS,) else lacks) if one is not None]


async def _listing_denied(connection: Connection) -> list[Finding]:
    """What is wrong where this user may not see what is prepared: MySQL has a privilege for that."""
    try:
        await connection.ask(branches.LIST)
    except errors.kinds() as error:
        if errors.number(error) != errors.LISTING_DENIED:
            raise
        user = await connection.user()
        fix = grants(user, connection.dialect)[-1]
        return [Finding("problem", f"the user {user} may not list prepared branches (XA RECOVER)", "Grant it.", fix)]
    return []


async def _ages(connection: Connection) -> dict[str, float]:
    try:
        return {str(gid): float(age) for gid, age in (await connection.ask(_MARKED)).rows}
    except errors.kinds():  # no table, or no privilege: said already
        return {}


async def _held(connection: Connection, ages: dict[str, float]) -> list[Held]:
    database = await connection.database()
    found = []
    for xid in branches.listed((await connection.ask(branches.LIST)).rows):
        participant, transaction = xid.participant, xid.transaction.decode(errors="replace") if xid.participant else ""
        found.append(Held(xid.sql, participant, transaction, "", ages.get(branches.branch_of(xid, database), -1.0), [], 0))
    return sorted(found, key=lambda one: -one.age_seconds)


async def _lost(connection: Connection) -> list[Finding]:
    """Branches that the server has lost sight of: it said that they are finished while their session was just ending, and did
    nothing. Their marker is there and not committed, nobody works for them, and XA RECOVER does not list them. Asked in this order,
    and the marker last, so that one that is just being prepared or finished is none."""
    database = await connection.database()
    waiting = []
    for name in filter(parse_gid, await _uncommitted(connection)):
        used = await connection.one("SELECT IS_USED_LOCK(%s)", (branches.branch_lock(name, database),))
        if used is None or used[0] is None:
            waiting.append(name)
    listed = branches.listed((await connection.ask(branches.LIST)).rows) if waiting else []
    unlisted = [name for name in waiting if branches.xid_of(name, database) not in listed]
    still = await _uncommitted(connection) if unlisted else set()
    return [
        Finding(
            "problem", f"the server has lost sight of {name}: it keeps its locks, and XA RECOVER does not list it",
            "Restart the server: the branch is prepared then, and Troth finishes it.",
        )
        for name in unlisted if name in still
    ]  # fmt: skip


async def _uncommitted(connection: Connection) -> set[str]:
    """The branches whose marker is not committed. This session reads what is uncommitted, but for the second statement."""
    try:
        seen = {str(name) for name, _ in (await connection.ask(_MARKED)).rows}
        await connection.ask("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return seen - {str(name) for name, _ in (await connection.ask(_MARKED)).rows}
    except errors.kinds():  # as in `_ages`
        return set()


async def _waiting(connection: Connection, held: Sequence[Held]) -> list[Finding]:
    """Who waits for what is prepared, and who reads the binary log."""
    try:
        rows: Any = (await connection.ask(connection.dialect.waiting)).rows if held else ()
        replicas = await connection.one(_REPLICAS)
    except errors.kinds() as error:
        if errors.number(error) not in errors.DENIED:
            raise
        what = "who waits for what is prepared is told only to a user with the privilege PROCESS"
        return [Finding("warning", what, "Look as another user.", connection.dialect.waiting_grants)]
    found = [
        Finding("warning", f"{count} sessions wait for prepared branches in {table}", "End these branches, as said above.")
        for table, count, _ in rows
    ]
    if replicas and int(replicas[0]):
        what = f"{replicas[0]} replicas: XA does not survive a failover to one of them"
        found.append(Finding("warning", what, "Have branches on one primary only; after a failover look at what is in doubt."))
    return found
