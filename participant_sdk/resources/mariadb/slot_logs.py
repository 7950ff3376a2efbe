"""`MariadbLog`: the logs of a service's slots, in its own MariaDB database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from participant_sdk.resources.relational.slot_logs import DatabaseLogs
from troth.log import mariadb, mariadb_schema, mariadb_store


class MariadbLog(DatabaseLogs):
    """See `DatabaseLogs`; a DSN as of `troth.mariadb.address`, with a driver that does not block."""

    def _new_leases(self) -> mariadb.Leases:
        return mariadb.Leases(self._dsn, self._lease_seconds, "slots")

    async def _check(self, connection: Any) -> None:
        await mariadb_store.check_format(connection)

    async def _listed(self, connection: Any, role: str, prefix: str) -> Sequence[tuple[str, bool, bool]]:
        rows: Sequence[Any] = (await connection.ask(mariadb_schema.SLOTS, (role, prefix, prefix))).rows
        return rows

    async def _make(self, connection: Any, role: str, name: str) -> None:
        await mariadb_store.make_log(connection, role, name)

    def _new_log(self, role: str, name: str, acknowledged: int) -> mariadb.MariadbLog:
        return mariadb.MariadbLog(
            self._dsn, role=role, name=name, lease_seconds=self._lease_seconds, leases=self.leases, acknowledged=acknowledged
        )
