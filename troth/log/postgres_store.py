"""A PostgreSQL database as a place for logs: reached, checked, and made.

What would make a durable log a lie is refused at the start, with what to do about it: a server that acknowledges before the
disk has it (`synchronous_commit` or `fsync` off), a replica, a proxy that gives a session's statements to different
backends, missing privileges, and a store of a newer format.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from troth.errors import LogError, LogFailed, LogForeign, LogLocked, Reason
from troth.ids import check_name
from troth.log import postgres_schema as schema
from troth.log.postgres_branches import CREATE, grants
from troth.log.store_status import LogStatus

Connection = psycopg.AsyncConnection[TupleRow]

CONNECT_SECONDS = 10
"""How long one server of a connection string may take to answer."""
_KEEPALIVE: dict[str, Any] = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
"""A server that is gone without a word is noticed within half a minute (seconds; the last in milliseconds)."""

_SAFE = {
    "fsync": ("on", "ALTER SYSTEM SET fsync = on, and restart the server"),
    "full_page_writes": ("on", "ALTER SYSTEM SET full_page_writes = on, and reload"),
}
_PASSWORD_PLACES = "~/.pgpass (or passfile=..., PGPASSFILE), a service file, or PGPASSWORD"
_REACHED_HOW = {
    "read-only": "A replica takes no log: name the primary, or all servers.",
    "no password supplied": f"The server wants a password. Put it into {_PASSWORD_PLACES}. A password file counts for the host, "
    "port, database and role that it names, when only its owner may read it.",
    "password authentication failed": f"Correct the password in {_PASSWORD_PLACES}, or that of the role.",
    "certificate verify failed": "Name the authority that signed the server's certificate: sslrootcert=FILE.",
    "does not match host name": "Name the server as its certificate does (host=...), or give it a certificate for this name.",
    "no pg_hba.conf entry": "The server's pg_hba.conf admits nobody like this: add an entry there, or connect with TLS, "
    "sslmode=verify-full.",
    "server does not support SSL": "Switch TLS on at the server: ssl = on, ssl_cert_file, ssl_key_file.",
}
"""What to do about an answer that contains these words, which libpq does not translate, and servers do where they are set to."""
_ACKNOWLEDGES_EARLY = frozenset({"off"})
_WAITS_FOR_REPLICAS = "SyncRepWaitForLSN"
"""The server's function that waits for synchronous replicas; it is named in the warning, in whatever language that is written."""
NOT_REPLICATED = "the wait for the synchronous replica was cancelled: what was written may be lost with this server"


# ---- reaching it


async def connect(dsn: str, application: str) -> Connection:
    """A connection in autocommit mode to a server that writes. Raises `LogError` (LOG_AWAY, CONFIG)."""
    try:
        return await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, application_name=application, target_session_attrs="read-write",
            connect_timeout=CONNECT_SECONDS, **_KEEPALIVE,
        )  # fmt: skip
    except psycopg.ProgrammingError:
        # libpq repeats what it does not understand, and that may be a part of a password.
        hint = "Write postgresql://HOST/DATABASE, or host=... dbname=...; quote what is special in values, in a URL %-encode it."
        raise LogError(Reason.CONFIG, "the store's address is no connection string", hint=hint) from None
    except psycopg.Error as error:
        hint = next((hint for words, hint in _REACHED_HOW.items() if words in str(error)), "")
        raise LogError(Reason.LOG_AWAY, f"the store cannot be reached: {_words(error)}", hint=hint) from None


def shut(connection: Connection) -> None:
    """Let the socket seem closed by the server. It stays psycopg's: closed here, its number could be another one's before psycopg
    looks at it again."""
    with suppress(OSError, psycopg.Error), socket.fromfd(connection.pgconn.socket, socket.AF_INET, socket.SOCK_STREAM) as one:
        one.shutdown(socket.SHUT_RDWR)


def gave_up_waiting(source_function: str | None) -> bool:
    """Whether a notice, told by the function of the server that it comes from, says that a commit took effect here, and that the
    replicas for which it waited need not have it: somebody cancelled the wait (`pg_cancel_backend`). The server calls that a
    success, with a warning."""
    return source_function == _WAITS_FOR_REPLICAS


def place(connection: Connection) -> str:
    """Where a connection leads, without secrets."""
    info = connection.info
    return f"the database {info.dbname!r} at {info.host or 'the local socket'}:{info.port}"


def from_error(where: str, error: psycopg.Error, doing: str) -> LogError:
    """The log's error for an error of the database, while the log was being `doing` ("opened", "written")."""
    code = error.sqlstate or ""
    text = f"{where} could not be {doing}: {_words(error)}"
    if code == "42501":
        hint = "GRANT USAGE ON SCHEMA troth, and ALL ON ALL TABLES IN SCHEMA troth, to the role."
        return LogError(Reason.STORE_UNSAFE, text, hint=hint)
    if code == "55P03":
        return LogError(Reason.LOG_AWAY, text, hint="An append or another claim holds the log's row: try again.")
    return LogFailed(Reason.LOG_FAILED, text, hint="Nothing was said that is not in the log; claiming it anew tells what it has.")


def _words(error: psycopg.Error) -> str:
    state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    return f"{' '.join(str(error).split())}{state}"


# ---- checking it


async def check_server(connection: Connection, dsn: str) -> None:
    """Raise `LogError` (STORE_UNSAFE) where a commit that was acknowledged may not be there tomorrow."""
    if connection.info.server_version < schema.SERVER_VERSION_MIN:
        raise _unsafe(connection, f"is PostgreSQL {connection.info.server_version // 10_000}", "Use PostgreSQL 13 or newer.")
    cursor = await connection.execute(
        "SELECT current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), current_setting('fsync'),"
        " current_setting('full_page_writes')"
    )
    row = await cursor.fetchone()
    assert row is not None
    acknowledges, replicas, *settings = row
    if acknowledges in _ACKNOWLEDGES_EARLY or (replicas and acknowledges == "local"):
        raise _unsafe(
            connection, f"has synchronous_commit = {acknowledges}",
            "ALTER ROLE ... SET synchronous_commit = on (or the database, or the server).",
        )  # fmt: skip
    for (name, (wanted, hint)), found in zip(_SAFE.items(), settings, strict=True):
        if found != wanted:
            raise _unsafe(connection, f"has {name} = {found}", f"{hint}.")
    await _check_session(connection, dsn)


async def _check_session(connection: Connection, dsn: str) -> None:
    """Find out whether a proxy gives our statements to different backends: then a session's setting gets lost in between.

    A pool hands out the backend that was given back last, so a second session takes that one and keeps it for a moment.
    """
    mark = secrets.token_hex(8)
    await connection.execute("SELECT set_config('troth.session', %s, false)", (mark,))
    other = await connect(dsn, "troth probe")
    try:
        async with other.transaction():
            await other.execute("SELECT 1")
            cursor = await connection.execute("SELECT current_setting('troth.session', true)")
            row = await cursor.fetchone()
    finally:
        await other.close()
    if row is None or row[0] != mark:
        raise _unsafe(
            connection, "is behind a proxy that shares sessions (transaction pooling)",
            "Connect past it, or set pool_mode = session for this database.",
        )  # fmt: skip


async def check_format(connection: Connection) -> str:
    """The store's id. Raises `LogForeign` where there is no store, or one of another version."""
    try:
        cursor = await connection.execute("SELECT format_version, store_id FROM troth.store")
        row = await cursor.fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        row = None
    if row is None:
        raise LogForeign(
            Reason.LOG_FOREIGN, f"{place(connection)} holds no store of Troth", hint="Make it: `troth store init --store ...`."
        )
    version, store_id = row
    if version > schema.FORMAT_VERSION:
        reads = f"this version reads up to format {schema.FORMAT_VERSION}"
        raise LogForeign(Reason.LOG_TOO_NEW, f"the store in {place(connection)} has format {version}; {reads}")
    if version < schema.FORMAT_VERSION:
        raise LogForeign(
            Reason.LOG_FOREIGN,
            f"the store in {place(connection)} has the older format {version}; this version needs {schema.FORMAT_VERSION}",
            hint="Stop all nodes and services that use it, and upgrade it: `troth store upgrade`.",
        )
    return str(store_id)


def _unsafe(connection: Connection, what: str, hint: str) -> LogError:
    return LogError(Reason.STORE_UNSAFE, f"{place(connection)} {what}", hint=hint)


# ---- making it


async def init(dsn: str, role: str, names: Sequence[str], *, branches: bool = False, grant_to: str = "") -> Sequence[str]:
    """Make the store where there is none, and the logs of `names` that it lacks; returns those that were made.

    With `branches` also the table that proves what became of branches, for participants whose data are in this database;
    `grant_to` is the role that these work with.
    """
    for name in names:
        check_name(role, name)
    async with changing(dsn, "troth store init") as connection:
        await make_tables(connection)
        for statement in CREATE if branches else ():
            await connection.execute(statement)
        for grant in grants(sql.Identifier(grant_to).as_string(connection)) if grant_to else ():
            await connection.execute(grant)
        return [name for name in names if await make_log(connection, role, name)]


@asynccontextmanager
async def changing(dsn: str, application: str) -> AsyncIterator[Connection]:
    """A connection in a transaction that changes the store's tables, alone, on a server that was checked. Raises `LogError`."""
    connection = await connect(dsn, application)
    try:
        await check_server(connection, dsn)
        async with connection.transaction():
            # Two that make it at once would trip over each other's tables.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('troth.store'))")
            yield connection
    except psycopg.Error as error:
        raise from_error(place(connection), error, "changed") from error
    finally:
        await connection.close()


async def make_tables(connection: Connection) -> None:
    """Make the tables where there are none. Raises `LogForeign` for those of another version."""
    cursor = await connection.execute("SELECT to_regclass('troth.store') IS NOT NULL")
    row = await cursor.fetchone()
    if row is not None and not row[0]:
        for statement in schema.CREATE:
            await connection.execute(statement)
        await connection.execute(
            "INSERT INTO troth.store (format_version, store_id) VALUES (%s, %s)", (schema.FORMAT_VERSION, secrets.token_hex(16))
        )
    await check_format(connection)


async def upgrade(dsn: str) -> Sequence[int]:
    """Bring a store to the format of this version, in one transaction; returns the formats that it went through, first the one
    that it had. Raises `LogForeign` where there is no store, or a newer one, and `LogLocked`, with nothing changed, in use.
    """
    async with changing(dsn, "troth store upgrade") as connection:
        cursor = await connection.execute("SELECT to_regclass('troth.store') IS NOT NULL")
        row = await cursor.fetchone()
        if row is None or not row[0]:
            await check_format(connection)
        cursor = await connection.execute("SELECT format_version FROM troth.store FOR UPDATE")
        row = await cursor.fetchone()
        assert row is not None
        versions = [row[0]]
        while versions[-1] in schema.UPGRADES:
            await _check_idle(connection)
            for statement in schema.UPGRADES[versions[-1]]:
                await connection.execute(statement)
            versions.append(versions[-1] + 1)
            await connection.execute("UPDATE troth.store SET format_version = %s", (versions[-1],))
        await check_format(connection)
        return versions


async def _check_idle(connection: Connection) -> None:
    cursor = await connection.execute("SELECT count(*) FROM troth.lease WHERE expires_at > clock_timestamp()")
    row = await cursor.fetchone()
    if row is not None and row[0]:
        raise LogLocked(
            Reason.LOG_LOCKED, f"{row[0]} logs of the store in {place(connection)} are in use",
            hint="Stop all nodes and services that use it, then upgrade it.",
        )


async def make_log(connection: Connection, role: str, name: str) -> bool:
    """Make one log, empty; returns whether it was not there."""
    made = await connection.execute(
        "INSERT INTO troth.log (role, name, log_id) VALUES (%s, %s, %s) ON CONFLICT (role, name) DO NOTHING",
        (role, name, secrets.token_hex(16)),
    )
    return made.rowcount == 1


async def status(dsn: str) -> Sequence[LogStatus]:
    """Every log of a store, by role and name. Raises `LogError` for what `check_server` and `check_format` refuse."""
    connection = await connect(dsn, "troth store check")
    try:
        await check_server(connection, dsn)
        await check_format(connection)
        cursor = await connection.execute(
            "SELECT log.role, log.name, log.log_id, log.epoch, count(batch.log), coalesce(sum(length(batch.body)), 0)::bigint,"
            " coalesce(lease.owner, ''), coalesce(extract(epoch FROM lease.expires_at - clock_timestamp()), 0)::float8"
            " FROM troth.log LEFT JOIN troth.batch ON batch.log = log.number LEFT JOIN troth.lease ON lease.log = log.number"
            " GROUP BY log.number, lease.log ORDER BY log.role, log.name"
        )
        return [LogStatus(*row) for row in await cursor.fetchall()]
    except psycopg.Error as error:
        raise from_error(place(connection), error, "read") from error
    finally:
        await connection.close()
