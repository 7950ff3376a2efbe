"""`Postgres`: a PostgreSQL database as a participant's resource.

    bank = Participant("payments", resource=Postgres("postgresql:///bank"), ...)

    @bank.operation
    async def debit(db: psycopg.AsyncConnection, *, account: str, amount: int) -> None:
        await db.execute("UPDATE account SET balance = balance - %s WHERE name = %s", (amount, account))

A branch is one local transaction, prepared natively (`PREPARE TRANSACTION`). The database isolates branches by itself, so
operations need no lock keys. `troth store init --participant` makes the table that proves outcomes. What is the same for every
database is in `resources/relational/`; here is how PostgreSQL says it:

    branch.py        a branch at work: its connection, its vote
    finishing.py     phase two, and what became of a branch
    connections.py   where connections come from
    guard.py         what operations may not do; statements.py reads their SQL
    sqlstates.py     what the server's errors mean
    engines.py       SQLAlchemy's engines
    asyncpg_*.py     the same with asyncpg instead of psycopg
    backends.py      which backend works for which branch
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from participant_sdk.resources.contract import Broken, HeldUp, Unreachable
from participant_sdk.resources.postgres.backends import END_EARLIER, application_name, short_name
from participant_sdk.resources.postgres.branch import PostgresBranch
from participant_sdk.resources.postgres.connections import BlockingPoolSource, DsnSource, PoolSource, Source
from participant_sdk.resources.postgres.finishing import Finishers
from participant_sdk.resources.postgres.sqlstates import cause_of_error, is_lost, why
from participant_sdk.resources.relational import finishing
from participant_sdk.resources.relational.branch import RelationalBranch
from participant_sdk.resources.relational.resource import DatabaseLimits, RelationalResource
from troth.errors import ConfigError
from troth.gids import gid_of, gid_prefix
from troth.log import postgres_branches as branches
from troth.v1 import common_pb2


class Postgres(RelationalResource):
    """The resource (`resources.contract.Resource`).

    `database`   a connection string of libpq, or the service's own pool: a `psycopg_pool.AsyncConnectionPool` or `ConnectionPool`,
                 or an `asyncpg.Pool`, or a function (`async` or not) that gives one when the participant starts
    `engine`     instead of it: a SQLAlchemy `AsyncEngine` on `postgresql+psycopg` or `+asyncpg`, or an `Engine` on the first; then
                 operations get an `AsyncSession` or a `Session` that is bound to the branch (`async def` on the one, plain `def` on
                 the other)
    `session`    makes these: a class, or an `async_sessionmaker` or `sessionmaker`
    `django`     instead of both: the name of a database in Django's settings; then operations (plain `def`) get Django's connection
                 inside of `atomic`, and models use it
    `isolation`  of the local transactions: "read committed", "repeatable read" or "serializable"

    Raises `ConfigError`.
    """

    busy = PoolTimeout

    def __init__(
        self,
        database: str | AsyncConnectionPool[Any] | ConnectionPool[Any] | Source | Any | None = None,
        *,
        engine: Any = None,
        session: Callable[..., Any] | None = None,
        django: str = "",
        isolation: str = "read committed",
        limits: DatabaseLimits | None = None,
    ) -> None:
        limits = limits or DatabaseLimits()
        super().__init__(_source_of(database, engine, session, django, limits), isolation, limits)
        kinds: tuple[Any, Any] = getattr(self._source, "kinds", (PostgresBranch, Finishers))
        self._branch_class, self._finishers_class = kinds
        self.around: Callable[[Any], AbstractContextManager[None]] = getattr(self._source, "around", nullcontext)
        """What is around a block in a thread; see `pins`."""

    def _again(self) -> Postgres:
        return Postgres(self._source, isolation=self._isolation, limits=self._limits)

    # ---- in the words of PostgreSQL

    def _kinds(self) -> tuple[type[Exception], ...]:
        return (psycopg.Error,)

    def _is_lost(self, error: Exception) -> bool:
        return isinstance(error, psycopg.Error) and is_lost(error)

    def _why(self, error: Exception) -> str:
        assert isinstance(error, psycopg.Error)
        return why(error)

    def _cause(self, error: BaseException, step: str) -> common_pb2.Cause:
        return cause_of_error(error, self._participant, step)

    def _name(self, transaction_id: str) -> str:
        return gid_of(self._participant, transaction_id)

    def _new_finishers(self) -> Finishers:
        finishers: Finishers = self._finishers_class(self._source.finishers())
        return finishers

    # ---- life

    async def _unfit(self) -> Broken | None:
        prepared, replica, made, role, database, granted = (await self._finishers.ask(branches.CHECK))[0]
        if not prepared:
            return Broken(
                f"the server of the database {database!r} has max_prepared_transactions = 0, and can prepare nothing: "
                "ALTER SYSTEM SET max_prepared_transactions = 100, and restart it"
            )
        if replica:
            return Broken(f"the server of the database {database!r} is a replica: name the primary")
        if not made:
            service = self._participant.partition("/")[0]
            return Broken(f"the database {database!r} has no table troth.branch: `troth store init --participant {service}`")
        if not granted:
            return Broken(f"the role {role!r} may not use troth.branch: {'; '.join(branches.grants(role))}")
        return None

    async def _clear(self) -> Sequence[int]:
        await self._finishers.ask(branches.CLEAN, (gid_prefix(self._participant),))
        left = await self._finishers.ask(END_EARLIER, (short_name(self._participant), self._nonce))
        return [row[0] for row in left]

    async def blocked(self) -> Mapping[str, HeldUp] | Unreachable:
        """See the contract. It has a connection of its own: those that work and those that finish branches are not for this."""
        asking = self._new_finishers()
        try:
            async with asyncio.timeout(finishing.BLOCKED_SECONDS):
                await asking.open()
                rows = await asking.ask(branches.HELD, (gid_prefix(self._participant),))
        except (TimeoutError, psycopg.Error) as error:
            return Unreachable(f"{type(error).__name__}: {error}")
        finally:
            await asking.close()
        return {gid: HeldUp(sessions, seconds, tables) for gid, _, _, tables, sessions, seconds in rows}

    # ---- work

    async def _begun(self, name: str, *, look_seconds: float = 0.0) -> RelationalBranch:
        branch: Any = self._branch_class(name, await self._source.take(self._limits.connect_wait_seconds), self._source)
        limits, isolation = self._limits, "REPEATABLE READ READ ONLY" if look_seconds else self._isolation.upper()
        statement_ms = int(min(limits.statement_seconds_max, look_seconds or math.inf) * 1000)
        try:
            await branch.begin(
                f"BEGIN ISOLATION LEVEL {isolation};"
                f" SELECT set_config('application_name', '{application_name(self._participant, self._nonce, name)}', true),"
                f" set_config('lock_timeout', '{int(limits.lock_wait_seconds * 1000)}', true),"
                f" set_config('statement_timeout', '{statement_ms}', true),"
                f" set_config('idle_in_transaction_session_timeout', '{int(limits.idle_seconds_max * 1000)}', true)"
            )
        except BaseException:
            await branch.end()
            raise
        begun: RelationalBranch = branch
        return begun


def _source_of(
    database: Any, engine: Any, session: Callable[..., Any] | None, django: str, limits: DatabaseLimits
) -> Source:
    if (database is not None) + (engine is not None) + bool(django) > 1:
        hint = "Postgres(dsn), Postgres(pool), Postgres(engine=engine) or Postgres(django=alias)."
        raise ConfigError("more than one of a database, an engine and a database of Django is given", hint=hint)
    if engine is not None:
        from participant_sdk.resources.postgres.engines import engine_source

        return engine_source(engine, session)
    if django:
        from participant_sdk.resources.postgres.django_source import django_source

        return django_source(django, limits.connections_max)
    return _source(database, limits)


def _source(database: Any, limits: DatabaseLimits) -> Source:
    if hasattr(database, "finishers"):
        source: Source = database
        return source
    if isinstance(database, AsyncConnectionPool):
        return PoolSource(database)
    if isinstance(database, ConnectionPool):
        return BlockingPoolSource(database)
    if callable(database) or _is_asyncpg_pool(database):
        from participant_sdk.resources.postgres.asyncpg_source import AsyncpgSource

        asyncpg_source: Any = AsyncpgSource(database)
        return cast(Source, asyncpg_source)
    try:
        conninfo_to_dict(database)
    except (psycopg.Error, AttributeError):
        # libpq repeats what it does not understand, and that may be a part of a password.
        hint = "Write postgresql://HOST/DATABASE, or host=... dbname=...; quote what is special in values, in a URL %-encode it."
        raise ConfigError("the database is no connection string, and no pool of psycopg_pool or asyncpg", hint=hint) from None
    return DsnSource(database, limits.connections_max)


def _is_asyncpg_pool(database: Any) -> bool:
    """Who has made one has imported asyncpg; nobody else needs it."""
    asyncpg = sys.modules.get("asyncpg")
    return asyncpg is not None and isinstance(database, asyncpg.Pool)
