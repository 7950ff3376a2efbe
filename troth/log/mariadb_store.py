"""A MariaDB database as a place for the logs of a service's slots: reached, checked, and made.

What would make a durable log a lie is refused at the start, with what to do about it: a server that acknowledges before the
disk has it, one that takes no changes, a Galera cluster, missing privileges, and a store of a newer format.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from troth.errors import ConfigError, LogError, LogFailed, LogForeign, Reason
from troth.ids import check_name
from troth.log import mariadb_branches, mariadb_outbox
from troth.log import mariadb_schema as schema
from troth.log.store_status import LogStatus
from troth.mariadb import errors
from troth.mariadb.address import parse
from troth.mariadb.connection import Connection
from troth.mariadb.dialect import MYSQL, Dialect, too_old, wanted

_SAFE = {
    "innodb_flush_log_at_trx_commit": (("1", "3"), "SET GLOBAL innodb_flush_log_at_trx_commit = 1, and in my.cnf"),
    "innodb_redo_log_enabled": (("ON",), "ALTER INSTANCE ENABLE INNODB REDO_LOG"),
    "innodb_doublewrite": (("ON", "1", "DETECT_AND_RECOVER"), "innodb_doublewrite = ON in my.cnf, and restart the server"),
    "read_only": (("OFF", "0"), "Name the primary, which takes changes"),
    "wsrep_on": (("OFF", "0"), "XA does not work with Galera: use a server that replicates otherwise"),
    "group_replication_group_name": (("",), "It has not been tried with Group Replication: use a server that replicates otherwise"),
}
"""What the server must say, and what to do otherwise."""


async def connect(dsn: str, *, lock_wait_seconds: float = 10.0) -> Connection:
    """A connection whose sessions read committed data. Raises `LogError` (LOG_AWAY, CONFIG)."""
    try:
        address = parse(dsn)
    except ConfigError as error:
        raise LogError(Reason.CONFIG, error.message, hint=error.hint) from None
    connection = None
    try:
        connection = await Connection.to(address)
        await connection.set_up(max(1, math.ceil(lock_wait_seconds)))
    except errors.kinds() as error:
        if connection is not None:
            connection.cut()
        raise LogError(Reason.LOG_AWAY, f"{address.place} cannot be reached: {errors.why(error)}") from None
    return connection


def from_error(where: str, error: BaseException, doing: str) -> LogError:
    """The log's error for an error of the database, while the log was being `doing` ("opened", "written")."""
    code = errors.number(error)
    text = f"{where} could not be {doing}: {errors.why(error)}"
    if code in errors.DENIED:
        return LogError(Reason.STORE_UNSAFE, text, hint="GRANT SELECT, INSERT, UPDATE, DELETE on the tables troth_* to the user.")
    if code == errors.LISTING_DENIED:
        return LogError(Reason.STORE_UNSAFE, text, hint=f"The user may not list what is prepared: GRANT {MYSQL.listing_privilege}.")
    if code in (errors.LOCK_TIMEOUT, errors.DEADLOCK):
        return LogError(Reason.LOG_AWAY, text, hint="An append or another claim holds the log's row: try again.")
    return LogFailed(Reason.LOG_FAILED, text, hint="Nothing was said that is not in the log; claiming it anew tells what it has.")


# ---- checking it


async def place(connection: Connection) -> str:
    """Where a connection leads, for people."""
    row = await connection.one("SELECT DATABASE(), @@hostname, @@port")
    assert row is not None
    return f"the database {row[0]!r} at {row[1]}:{row[2]}"


async def settings(connection: Connection, *names: str) -> dict[str, str]:
    """The server's global settings, and what it says of its state, of these names; as far as it has them."""
    asked = ", ".join(f"'{name}'" for name in names)
    said = [
        row
        for kind in ("VARIABLES", "STATUS")
        for row in (await connection.ask(f"SHOW GLOBAL {kind} WHERE Variable_name IN ({asked})")).rows
    ]
    return {str(name).lower(): str(value) for name, value in said}


async def check_server(connection: Connection) -> None:
    """Raise `LogError` (STORE_UNSAFE) where a commit that was acknowledged may not be there tomorrow."""
    where = await place(connection)
    found = await settings(connection, *_SAFE, "version", "log_bin", "sync_binlog", "max_allowed_packet")
    for what, hint in unfit(found):
        raise LogError(Reason.STORE_UNSAFE, f"{where} {what}", hint=f"{hint}.")


def unfit(found: dict[str, str]) -> list[tuple[str, str]]:
    """What is wrong with a server's settings, and what to do."""
    wrong = []
    if too_old(found["version"]):
        wrong.append((f"is {found['version']}", f"Use {wanted()}"))
    for name, (safe, hint) in _SAFE.items():
        if found.get(name, safe[0]) not in safe:
            wrong.append((f"has {name} = {found[name]}", hint))
    if found["log_bin"] in ("ON", "1") and found["sync_binlog"] != "1":
        hint = "SET GLOBAL sync_binlog = 1, and in my.cnf: after a crash the binary log says what was committed"
        wrong.append((f"has log_bin = ON and sync_binlog = {found['sync_binlog']}", hint))
    if int(found["max_allowed_packet"]) < schema.PACKET_BYTES_MIN:
        hint = f"SET GLOBAL max_allowed_packet = {schema.PACKET_BYTES_MIN}, and in my.cnf"
        wrong.append((f"has max_allowed_packet = {found['max_allowed_packet']}", hint))
    return wrong


async def check_format(connection: Connection) -> str:
    """The store's id. Raises `LogForeign` where there is no store, or one of another version."""
    try:
        row = await connection.one("SELECT format_version, store_id FROM troth_store")
    except errors.kinds() as error:
        if errors.number(error) != errors.NO_TABLE:
            raise
        row = None
    where = await place(connection)
    if row is None:
        hint = "Make it: `troth store init --participant NAME --store ...`."
        raise LogForeign(Reason.LOG_FOREIGN, f"{where} holds no store of Troth", hint=hint)
    version, store_id = row
    if version > schema.FORMAT_VERSION:
        reads = f"this version reads up to format {schema.FORMAT_VERSION}"
        raise LogForeign(Reason.LOG_TOO_NEW, f"the store in {where} has format {version}; {reads}")
    return str(store_id)


# ---- making it


async def init(dsn: str, role: str, names: Sequence[str], *, branches: bool = False, grant_to: str = "") -> Sequence[str]:
    """Make the store where there is none, and the logs of `names` that it lacks; returns those that were made.

    With `branches` also the table that proves what became of branches, and those of the outbox, for participants whose data are in
    this database; `grant_to` is the user that these work as, `name` or `name@host`.
    """
    for name in names:
        check_name(role, name)
    async with _changing(dsn) as connection:
        for statement in schema.CREATE:
            await connection.ask(statement.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
        made = (schema.FORMAT_VERSION, secrets.token_hex(16))
        await connection.ask("INSERT IGNORE INTO troth_store (format_version, store_id) VALUES (%s, %s)", made)
        await check_format(connection)
        if branches:
            await _make_branches(connection)
        for grant in grants(grant_to, connection.dialect) if grant_to else ():
            await connection.ask(grant)
        return [name for name in names if await make_log(connection, role, name)]


async def _make_branches(connection: Connection) -> None:
    for statement in (mariadb_branches.CREATE, *mariadb_outbox.create(connection.dialect)):
        await connection.ask(statement)
    if await connection.one(mariadb_outbox.HAS_INDEX) is None:
        await connection.ask(mariadb_outbox.ADD_INDEX)
    there = await connection.one(mariadb_outbox.COUNT_KEYS)
    if there != (mariadb_outbox.KEYS,):
        await connection.ask(mariadb_outbox.FILL_KEYS)


@asynccontextmanager
async def _changing(dsn: str) -> AsyncIterator[Connection]:
    """A connection that changes the store's tables, alone, on a server that was checked."""
    connection = await connect(dsn)
    where = parse(dsn).place
    try:
        await check_server(connection)
        # Two that make it at once would trip over each other's tables.
        await connection.ask("SELECT GET_LOCK(CONCAT('troth:init:', DATABASE()), 10)")
        yield connection
    except errors.kinds() as error:
        raise from_error(where, error, "changed") from error
    finally:
        await connection.close()


def grants(user: str, dialect: Dialect) -> list[str]:
    """What a user needs besides its own tables, to have branches and to keep its log here."""
    tables = (*schema.TABLES, "troth_branch", *mariadb_outbox.TABLES)
    return _granted(tables, "SELECT, INSERT, UPDATE, DELETE", user, dialect)


def grants_to_finish(user: str, dialect: Dialect) -> list[str]:
    """What a user needs who only looks at branches here, and finishes them: any login may do that, but has to see the proof."""
    return _granted(("troth_branch",), "SELECT", user, dialect)


def _granted(tables: Sequence[str], privileges: str, user: str, dialect: Dialect) -> list[str]:
    """As SQL; what is needed to list what is prepared comes last."""
    name, _, host = user.partition("@")
    who = f"{_quoted(name)}@{_quoted(host or '%')}"
    listing = [f"GRANT {dialect.listing_privilege} ON *.* TO {who}"] if dialect.listing_privilege else []
    return [f"GRANT {privileges} ON {table} TO {who}" for table in tables] + listing


def _quoted(text: str) -> str:
    inner = text.strip("'`").replace("`", "``")
    return f"`{inner}`"


async def make_log(connection: Connection, role: str, name: str) -> bool:
    """Make one log, empty; returns whether it was not there."""
    made = await connection.ask(
        "INSERT IGNORE INTO troth_log (role, name, log_id) VALUES (%s, %s, %s)", (role, name, secrets.token_hex(16))
    )
    return made.changed == 1


async def status(dsn: str) -> Sequence[LogStatus]:
    """Every log of a store, by role and name. Raises `LogError` for what `check_server` and `check_format` refuse."""
    connection = await connect(dsn)
    try:
        await check_server(connection)
        await check_format(connection)
        answer = await connection.ask(
            "SELECT o.role, o.name, o.log_id, o.epoch, COUNT(b.log), CAST(COALESCE(SUM(LENGTH(b.body)), 0) AS SIGNED),"
            " COALESCE(MAX(l.owner), ''),"
            " COALESCE(MAX(TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), l.expires_at)) / 1e6, 0e0)"
            " FROM troth_log AS o LEFT JOIN troth_batch AS b ON b.log = o.number LEFT JOIN troth_lease AS l ON l.log = o.number"
            " GROUP BY o.number ORDER BY o.role, o.name"
        )
        rows: Sequence[Any] = answer.rows
        return [LogStatus(*(*row[:-1], float(row[-1]))) for row in rows]
    except errors.kinds() as error:
        raise from_error(parse(dsn).place, error, "read") from error
    finally:
        await connection.close()
