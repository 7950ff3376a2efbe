"""A log in a PostgreSQL database; who owns it, and why nobody else writes it, is said in `owned`.

The claim locks the log's row FOR UPDATE, an append FOR SHARE (`postgres_schema`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.errors import Diagnostic
from psycopg.rows import TupleRow

from troth.errors import LogFailed, Reason
from troth.log import batches, owned
from troth.log import postgres_schema as schema
from troth.log.contract import LogIdentity, StoredRecord
from troth.log.owned import LEASE_SECONDS
from troth.log.postgres_leases import Leases
from troth.log.postgres_store import (
    NOT_REPLICATED,
    Connection,
    check_format,
    check_server,
    connect,
    from_error,
    gave_up_waiting,
    place,
    shut,
)


class PostgresLog(owned.OwnedLog):
    """An owned log (see `OwnedLog`).

    `dsn`            a connection string of libpq; what it does not say comes from the environment, a service file, or .pgpass
    `lease_seconds`  how long after its last word this owner may be replaced
    `leases`         renews this log's lease together with those of other logs of the process; without it the log renews its own
    """

    def __init__(
        self, dsn: str, *, role: str, name: str, lease_seconds: float = LEASE_SECONDS, acknowledged: int = 0,
        leases: Leases | None = None, owner: str = "",
    ) -> None:
        super().__init__(
            dsn, role=role, name=name, leases=leases or Leases(dsn, lease_seconds, name), shared=leases is not None,
            acknowledged=acknowledged, owner=owner,
        )
        self._replicated = True
        """Whether replicas that are waited for have all that was written."""

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise from_error(self._where, error, doing) from error
        if not self._replicated:
            # An unclear commit (rule 17): the next claim, which waits for the replicas as well, tells.
            hint = "Let nothing cancel the backends of Troth; see to the replica."
            raise LogFailed(Reason.LOG_FAILED, f"{self._where} was {doing}, but {NOT_REPLICATED}", hint=hint)

    def _shut(self, connection: Connection) -> None:
        shut(connection)

    def _noticed(self, notice: Diagnostic) -> None:
        self._replicated = self._replicated and not gave_up_waiting(notice.source_function)

    # ---- opening

    async def _claimed(self) -> tuple[LogIdentity, Sequence[StoredRecord]]:
        self._connection = await connect(self._dsn, f"troth {self._role} {self._name}")
        self._connection.add_notice_handler(self._noticed)
        with self._errors("opened"):
            await check_server(self._connection, self._dsn)
            await check_format(self._connection)
            claimed = await self._claim(self._connection)
            # An append of which only the beginning arrived, before the network went, would keep every claim waiting for as long as
            # the server believes in the connection: hours. Nobody need wait for it longer than for the lease.
            wait_ms = max(1, int(self._leases.seconds * 1000))
            await self._connection.execute(f"SET idle_in_transaction_session_timeout = {wait_ms}")
        return claimed

    async def _claim(self, connection: Connection) -> tuple[LogIdentity, list[StoredRecord]]:
        asked = time.monotonic()
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {int(owned.CLAIM_WAIT_SECONDS * 1000)}")
            found = await _one(connection, schema.CLAIM, {"role": self._role, "name": self._name})
            if found is None:
                cursor = await connection.execute(schema.NAMES)
                raise self._foreign(place(connection), [row[0] for row in await cursor.fetchall()])
            self._log, log_id, _ = found
            self._where = f"{self._where} in {place(connection)}"
            held = await _one(connection, schema.HELD, {"log": self._log})
            if held is not None:
                raise self._locked(*held)
            taken = {"log": self._log, "owner": self._owner, "seconds": self._leases.seconds}
            row = await _one(connection, schema.TAKE, taken)
            assert row is not None
            self._epoch = row[0]
            self.held_until = asked + self._leases.seconds
            cursor = await connection.execute(schema.READ, {"log": self._log}, binary=True)
            records = batches.read_batches(await cursor.fetchall(), self._where)
            self._check_end(records)
        return LogIdentity(self._role, self._name, log_id, schema.FORMAT_VERSION), records

    # ---- writing

    async def _sent(self, rows: Sequence[dict[str, Any]], drop_below: int) -> bool:
        connection: Connection = self._connection
        with self._errors("written"):
            if len(rows) == 1 and not drop_below:
                landed = (await connection.execute(schema.APPEND, rows[0], prepare=True, binary=True)).rowcount > 0
            else:
                landed = await self._sent_together(connection, rows, drop_below)
        return landed

    async def _sent_together(self, connection: Connection, rows: Sequence[dict[str, Any]], drop_below: int) -> bool:
        """Several rows, or rows and the drop of the head, in one transaction and one round trip."""
        own = self._own(drop_below=drop_below)
        async with connection.pipeline(), connection.transaction():
            landed = None if rows else await connection.execute(schema.HIDE, own)
            for row in rows:
                landed = await connection.execute(schema.APPEND, row, binary=True)
            await connection.execute(schema.DROP, own)
        assert landed is not None
        return landed.rowcount > 0

    # ---- closing

    async def _give_back(self) -> None:
        with self._errors("closed"):
            await self._connection.execute(schema.RELEASE, self._own(owner=self._owner))


async def _one(connection: Connection, statement: str, parameters: dict[str, Any]) -> TupleRow | None:
    cursor = await connection.execute(statement, parameters)
    return await cursor.fetchone()
