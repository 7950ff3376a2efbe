"""`PostgresLog`: the logs of a service's slots, in its own PostgreSQL database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from participant_sdk.resources.relational.slot_logs import DatabaseLogs
from troth.log import postgres, postgres_store
from troth.log.postgres_leases import Leases
from troth.log.postgres_schema import lives

SLOTS = (
    f"SELECT log.name, lease.log IS NOT NULL, coalesce({lives('lease')}, false)"
    " FROM troth.log LEFT JOIN troth.lease ON lease.log = log.number"
    " WHERE log.role = %s AND starts_with(log.name, %s) ORDER BY length(log.name), log.name"
)
"""Each slot: whether somebody has taken it and not given it back, and whether he has it still."""


class PostgresLog(DatabaseLogs):
    """See `DatabaseLogs`; a connection string of libpq."""

    def _new_leases(self) -> Leases:
        return Leases(self._dsn, self._lease_seconds, "slots")

    async def _check(self, connection: Any) -> None:
        await postgres_store.check_format(connection)

    async def _listed(self, connection: Any, role: str, prefix: str) -> Sequence[tuple[str, bool, bool]]:
        cursor = await connection.execute(SLOTS, (role, prefix))
        rows: Sequence[Any] = await cursor.fetchall()
        return rows

    async def _make(self, connection: Any, role: str, name: str) -> None:
        await postgres_store.make_log(connection, role, name)

    def _new_log(self, role: str, name: str, acknowledged: int) -> postgres.PostgresLog:
        return postgres.PostgresLog(
            self._dsn, role=role, name=name, lease_seconds=self._lease_seconds, leases=self.leases, acknowledged=acknowledged
        )
