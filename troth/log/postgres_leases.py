"""The leases of logs in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from troth.errors import LogError
from troth.log import owned
from troth.log import postgres_schema as schema
from troth.log.owned import Claim
from troth.log.postgres_store import Connection, connect, from_error, shut


class Leases(owned.Leases):
    """See `owned.Leases`."""

    async def _renewed(self, claims: Sequence[Claim]) -> set[Claim]:
        logs, epochs, owners = ([claim[place] for claim in claims] for place in range(3))
        mine = {"logs": logs, "epochs": epochs, "owners": owners, "seconds": self.seconds}
        async with self.connected("held") as connection:
            cursor = await connection.execute(schema.RENEW, mine)
            return {Claim(*row) for row in await cursor.fetchall()}

    def _shut(self, connection: Connection) -> None:
        shut(connection)

    async def _connect(self) -> Connection:
        return await connect(self._dsn, f"troth lease {self._name}")

    def _kinds(self) -> tuple[type[Exception], ...]:
        return (psycopg.Error,)

    def _error(self, what: str, error: Any, doing: str) -> LogError:
        return from_error(what, error, doing)
