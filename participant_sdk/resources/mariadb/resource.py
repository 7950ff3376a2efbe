"""`MariaDB`: a database of MariaDB, or of MySQL, as a participant's resource.

    bank = Participant("payments", resource=MariaDB("mysql://payments@db/bank"), log=MariadbLog("mysql://payments@db/bank"), ...)

    @bank.operation
    async def debit(db: aiomysql.Connection, *, account: str, amount: int) -> None:
        async with db.cursor() as cursor:
            await cursor.execute("UPDATE account SET balance = balance - %s WHERE name = %s", (amount, account))

A branch is one XA transaction. The database isolates branches by itself, so operations need no lock keys: but a branch whose vote
depends on a row must change that row, since mere locks do not outlive a crash of the server. `troth store init --participant` makes
the table that proves outcomes.

    connections.py, pool.py   where connections come from
    branch.py, finishing.py   a branch at work, and phase two
    sessions.py               which session works for which branch
    guard.py, statements.py   what operations may not do
    causes.py                 what the server's errors mean
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from participant_sdk.resources.contract import Broken, HeldUp, Unreachable
from participant_sdk.resources.mariadb import sessions
from participant_sdk.resources.mariadb.branch import MariadbBranch
from participant_sdk.resources.mariadb.causes import cause_of_error
from participant_sdk.resources.mariadb.connections import DsnSource, Source, pool_source
from participant_sdk.resources.mariadb.finishing import Finishers
from participant_sdk.resources.mariadb.guard import Guard
from participant_sdk.resources.relational import finishing
from participant_sdk.resources.relational.pool import PoolBusy
from participant_sdk.resources.relational.resource import DatabaseLimits, RelationalResource
from troth.errors import ConfigError
from troth.gids import gid_prefix
from troth.log import mariadb_branches as branches
from troth.log import mariadb_store
from troth.mariadb import errors
from troth.mariadb.address import parse
from troth.mariadb.connection import Connection
from troth.mariadb.dialect import Dialect, dialect_of, too_old, wanted
from troth.v1 import common_pb2

_PROBE = "probe:"
_NOT_TRANSACTIONAL = (
    "SELECT LOWER(t.TABLE_NAME) FROM information_schema.TABLES AS t JOIN information_schema.ENGINES AS e ON e.ENGINE = t.ENGINE"
    " WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_TYPE = 'BASE TABLE' AND COALESCE(e.TRANSACTIONS, 'NO') <> 'YES'"
)


class MariaDB(RelationalResource):
    """The resource (`resources.contract.Resource`).

    `database`   an address (`troth.mariadb.address`), or the service's own pool of aiomysql or asyncmy
    `engine`     instead of it: a SQLAlchemy `AsyncEngine` (aiomysql, asyncmy) or `Engine` (pymysql); then operations get an
                 `AsyncSession` or a `Session` that is bound to the branch (`async def` on the one, plain `def` on the other)
    `session`    makes these: a class, or an `async_sessionmaker` or `sessionmaker`
    `isolation`  of the local transactions: "read committed", "repeatable read" or "serializable"

    Raises `ConfigError`.
    """

    busy = PoolBusy

    def __init__(
        self, database: Any = None, *, engine: Any = None, session: Callable[..., Any] | None = None,
        isolation: str = "read committed", limits: DatabaseLimits | None = None,
    ) -> None:
        limits = limits or DatabaseLimits()
        source = _source(database, limits) if engine is None else _engine_source(database, engine, session)
        super().__init__(source, isolation, limits)
        self._tables: frozenset[str] = frozenset()
        self._places = list(range(sessions.PLACES))

    def _again(self) -> MariaDB:
        return MariaDB(self._source, isolation=self._isolation, limits=self._limits)

    # ---- in the words of MariaDB

    def _kinds(self) -> tuple[type[Exception], ...]:
        return (*errors.kinds(), PoolBusy)

    def _is_lost(self, error: Exception) -> bool:
        return errors.is_lost(error)

    def _why(self, error: Exception) -> str:
        return errors.why(error)

    def _cause(self, error: BaseException, step: str) -> common_pb2.Cause:
        return cause_of_error(error, self._participant, step)

    def _name(self, transaction_id: str) -> str:
        return branches.branch_name(self._participant, transaction_id)

    def _new_finishers(self) -> Finishers:
        return Finishers(self._source)

    @property
    def _database(self) -> str:
        database: str = self._finishers.database
        return database

    # ---- life

    async def _unfit(self) -> Broken | None:
        async with self._finishers.pool.connection(finishing.WAIT_SECONDS) as connection:
            if why := await self._unfit_server(connection):
                return Broken(why)
            if why := await self._unfit_tables(connection):
                return Broken(why)
            self._tables = frozenset(str(row[0]) for row in (await connection.ask(_NOT_TRANSACTIONAL)).rows)
        return None

    async def _unfit_server(self, connection: Connection) -> str:
        where = f"the server of the database {self._database!r}"
        found = await mariadb_store.settings(
            connection, "version", "wsrep_on", "group_replication_group_name", "read_only", "log_bin", "binlog_format",
            "xa_detach_on_prepare",
        )  # fmt: skip
        if too_old(found["version"]):
            return f"{where} is {found['version']}: it takes {wanted()}, where prepared branches outlive their session"
        if dialect_of(found["version"]) is not connection.dialect:
            return f"{where} is {found['version']}, and whatever stands before it says otherwise: let the proxy say its version"
        if found.get("wsrep_on", "OFF") not in ("OFF", "0"):
            return f"{where} is a node of a Galera cluster, with which XA does not work"
        if found.get("group_replication_group_name"):
            return f"{where} is a member of a group (Group Replication), with which branches have not been tried"
        if found.get("xa_detach_on_prepare", "ON") not in ("ON", "1"):
            return f"{where} keeps prepared branches in their sessions: SET GLOBAL xa_detach_on_prepare = ON"
        if found["read_only"] not in ("OFF", "0"):
            return f"{where} takes no changes (read_only): name the primary"
        if found["log_bin"] in ("ON", "1") and found.get("binlog_format") == "STATEMENT" and self._isolation == "read committed":
            return f"{where} has binlog_format = STATEMENT, and writes nothing at 'read committed': SET GLOBAL binlog_format = ROW"
        return ""

    async def _unfit_tables(self, connection: Connection) -> str:
        """Whether the table of proofs may be used, and branches may be listed: found out by doing it, and undoing that."""
        name = f"{_PROBE}{self._nonce}"
        try:
            await connection.ask("BEGIN")
            await connection.ask("INSERT INTO troth_branch (gid) VALUES (%s)", (name,))
            await connection.ask("UPDATE troth_branch SET committed = 0 WHERE gid = %s", (name,))
            await connection.ask(branches.FORGET, (name,))
            await connection.ask("ROLLBACK")
            await connection.ask(branches.LIST)
        except errors.kinds() as error:
            code = errors.number(error)
            if code == errors.NO_TABLE:
                service = self._participant.partition("/")[0]
                return f"the database {self._database!r} has no table troth_branch: `troth store init --participant {service}`"
            if code not in (*errors.DENIED, errors.LISTING_DENIED):
                raise
            user = await connection.user()
            granted = mariadb_store.grants(user, connection.dialect)
            if code == errors.LISTING_DENIED:
                return f"the user {user} may not list prepared branches: {granted[-1]}"
            return f"the user {user} may not use troth_branch: {'; '.join(granted)}"
        return ""

    async def _clear(self) -> Sequence[int]:
        prefix = gid_prefix(self._participant)
        async with self._finishers.pool.connection(finishing.WAIT_SECONDS) as connection:
            for (name,) in (await connection.ask(branches.OLD, (prefix, prefix))).rows:
                await connection.ask(branches.FORGET, (name,))
            return await sessions.end_earlier(connection, self._participant, self._database)

    async def blocked(self) -> Mapping[str, HeldUp] | Unreachable:
        """See the contract. The server does not tell for which branch somebody waits: it is known where nobody waits for any, and
        where one alone is prepared on the whole server. Needs the privilege PROCESS, and has a connection of its own."""
        try:
            async with asyncio.timeout(finishing.BLOCKED_SECONDS):
                waiting, prepared = await self._asked_about_waiting(await self._source.new())
        except TimeoutError:
            return Unreachable(f"it has not answered within {finishing.BLOCKED_SECONDS} s")
        except errors.kinds() as error:
            return Unreachable(self._why(error))
        if waiting and len(prepared) != 1:
            return {}
        seconds = max((float(longest or 0) for _, _, longest in waiting), default=0.0)
        tables = tuple(str(table).replace("`", "") for table, _, _ in waiting)
        held_up = HeldUp(sum(int(count) for _, count, _ in waiting), seconds, tables)
        return dict.fromkeys(branches.names(prepared, self._participant, self._database), held_up)

    async def _asked_about_waiting(self, connection: Connection) -> tuple[Any, list[branches.Xid]]:
        """Who waits, and what is prepared on the whole server; what was prepared only before or after that is not meant."""
        try:
            before = branches.listed((await connection.ask(branches.LIST)).rows)
            waiting = (await connection.ask(connection.dialect.waiting)).rows
            after = branches.listed((await connection.ask(branches.LIST)).rows)
        finally:
            connection.cut()
        return waiting, after if after == before else []

    # ---- work

    async def _begun(self, name: str, *, look_seconds: float = 0.0) -> MariadbBranch:
        connection = await self._source.take(self._limits.connect_wait_seconds)
        place = self._places.pop(0)
        self._places.append(place)
        locks = branches.branch_lock(name, self._database), sessions.place_lock(self._participant, self._database, place)
        guard = Guard(asynchronous=connection.driver.asynchronous, tables=self._tables)
        branch = MariadbBranch(name, branches.xid_of(name, self._database), connection, self._source, guard, locks)
        try:
            await branch.begin(self._database, self._settings(connection.dialect, look_seconds))
        except BaseException:
            await branch.end()
            raise
        return branch

    def _settings(self, dialect: Dialect, look_seconds: float) -> dict[str, object]:
        """See `Dialect.settings`."""
        limits = self._limits
        lock_seconds = max(1, math.ceil(limits.lock_wait_seconds))
        level = "REPEATABLE-READ" if look_seconds else self._isolation.upper().replace(" ", "-")
        statement_seconds = float(min(limits.statement_seconds_max, look_seconds or math.inf))
        return dialect.settings(level, lock_seconds, statement_seconds, math.ceil(limits.idle_seconds_max))


def _engine_source(database: Any, engine: Any, session: Callable[..., Any] | None) -> Source:
    if database is not None:
        raise ConfigError("a database and an engine are given", hint="MariaDB(dsn), MariaDB(pool), or MariaDB(engine=engine).")
    from participant_sdk.resources.mariadb.engines import engine_source

    return engine_source(engine, session)


def _source(database: Any, limits: DatabaseLimits) -> Source:
    if hasattr(database, "lends"):
        source: Source = database
        return source
    return pool_source(database) or DsnSource(parse(database), limits.connections_max)
