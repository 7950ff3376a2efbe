"""A log in a MariaDB database; who owns it, and why nobody else writes it, is said in `owned`.

The claim locks the log's row FOR UPDATE, an append locks it IN SHARE MODE (`mariadb_schema`). A session holds a lock of a random
name for as long as it lives: so others see at once that an owner was killed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from troth.errors import LogError
from troth.log import batches, owned
from troth.log import mariadb_schema as schema
from troth.log.contract import LogIdentity, StoredRecord
from troth.log.mariadb_store import check_format, check_server, connect, from_error, place
from troth.log.owned import LEASE_SECONDS, Claim
from troth.mariadb.connection import Connection
from troth.mariadb.errors import kinds


class Leases(owned.Leases):
    """See `owned.Leases`."""

    async def _renewed(self, claims: Sequence[Claim]) -> set[Claim]:
        async with self.connected("held") as connection:
            async with connection.transaction():
                for claim in sorted(claims):
                    mine = {**claim._asdict(), "microseconds": int(self.seconds * 1_000_000)}
                    await connection.ask(schema.RENEW, mine)
            logs = [claim.log for claim in claims] or [0]
            answer = await connection.ask(schema.MINE.format(", ".join(["%s"] * len(logs))), logs)
            return {Claim(int(log), int(epoch), str(owner)) for log, epoch, owner in answer.rows}

    def _shut(self, connection: Connection) -> None:
        connection.cut()

    async def _connect(self) -> Connection:
        return await connect(self._dsn)

    def _kinds(self) -> tuple[type[Exception], ...]:
        return kinds()

    def _error(self, what: str, error: Any, doing: str) -> LogError:
        return from_error(what, error, doing)


class MariadbLog(owned.OwnedLog):
    """An owned log (see `OwnedLog`).

    `dsn`            see `troth.mariadb.address`
    `lease_seconds`  how long after its last word this owner may be replaced
    `leases`         renews this log's lease together with those of other logs of the process; without it the log renews its own
    """

    batch_bytes_max = schema.BATCH_BYTES_MAX

    def __init__(
        self, dsn: str, *, role: str, name: str, lease_seconds: float = LEASE_SECONDS, acknowledged: int = 0,
        leases: Leases | None = None, owner: str = "",
    ) -> None:
        super().__init__(
            dsn, role=role, name=name, leases=leases or Leases(dsn, lease_seconds, name), shared=leases is not None,
            acknowledged=acknowledged, owner=owner,
        )
        self._life = f"troth:{secrets.token_hex(16)}"

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except kinds() as error:
            raise from_error(self._where, error, doing) from error

    def _shut(self, connection: Connection) -> None:
        connection.cut()

    # ---- opening

    async def _claimed(self) -> tuple[LogIdentity, Sequence[StoredRecord]]:
        self._connection = await connect(self._dsn, lock_wait_seconds=owned.CLAIM_WAIT_SECONDS)
        with self._errors("opened"):
            await check_server(self._connection)
            await check_format(self._connection)
            return await self._claim(self._connection)

    async def _claim(self, connection: Connection) -> tuple[LogIdentity, list[StoredRecord]]:
        asked = time.monotonic()
        await connection.one(schema.LIVE, {"life": self._life})
        async with connection.transaction():
            found = await connection.one(schema.CLAIM, {"role": self._role, "name": self._name})
            if found is None:
                there = (await connection.ask(schema.NAMES)).rows
                raise self._foreign(await place(connection), [row[0] for row in there])
            self._log, log_id, epoch = int(found[0]), str(found[1]), int(found[2])
            self._where = f"{self._where} in {await place(connection)}"
            held = await connection.one(schema.HELD, {"log": self._log})
            if held is not None:
                raise self._locked(str(held[0]), float(held[1]))
            self._epoch = epoch + 1
            await connection.ask(schema.RAISE, self._own())
            microseconds = int(self._leases.seconds * 1_000_000)
            await connection.ask(schema.TAKE, self._own(owner=self._owner, life=self._life, microseconds=microseconds))
            self.held_until = asked + self._leases.seconds
            records = batches.read_batches((await connection.ask(schema.READ, self._own())).rows, self._where)
            self._check_end(records)
        return LogIdentity(self._role, self._name, log_id, schema.FORMAT_VERSION), records

    # ---- writing

    async def _sent(self, rows: Sequence[dict[str, Any]], drop_below: int) -> bool:
        connection: Connection = self._connection
        with self._errors("written"):
            if len(rows) == 1 and not drop_below:
                return (await connection.ask(schema.APPEND, rows[0])).changed > 0
            async with connection.transaction():
                return await self._sent_together(connection, rows, drop_below)

    async def _sent_together(self, connection: Connection, rows: Sequence[dict[str, Any]], drop_below: int) -> bool:
        own = self._own(drop_below=drop_below)
        if await connection.one(schema.STILL_OURS, own) is None:
            return False
        for row in rows:
            await connection.ask(schema.APPEND, row)
        if not rows:
            await connection.ask(schema.HIDE, own)
        await connection.ask(schema.DROP, own)
        return True

    # ---- closing

    async def _give_back(self) -> None:
        with self._errors("closed"):
            await self._connection.ask(schema.RELEASE, self._own(owner=self._owner))
