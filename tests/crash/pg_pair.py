"""Two PostgreSQL servers: a primary, and a replica that can take its place. One connection string names both."""

from __future__ import annotations

import signal
from typing import Any

import psycopg

from participant_sdk.testing.postgres import PostgresServer

WAITS = "wait_event = 'SyncRep' AND backend_type = 'client backend'"
"""For the replica. (The server's own housekeeping commits something now and then, too.)"""


class Pair:
    """A context manager. With `synchronous` nothing is acknowledged that the replica has not on its disk."""

    def __init__(self, *, synchronous: bool) -> None:
        settings = {"synchronous_standby_names": "*"} if synchronous else {}
        self.primary = PostgresServer(**settings)
        self.replica = PostgresServer(wal_retrieve_retry_interval="100ms")

    def __enter__(self) -> Pair:
        try:
            self.primary.create()
            self.primary.start()
            self.replica.copy_of(self.primary)
            self.replica.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.primary.remove()
        self.replica.remove()

    def dsn(self, database: str = "postgres", **more: Any) -> str:
        """Of whichever of the two takes writes."""
        hosts = f"{self.primary.directory},{self.replica.directory}"
        return self.primary.dsn(database, **{"host": hosts, "target_session_attrs": "read-write", **more})

    def fail_over(self) -> None:
        """The primary is killed, and the replica takes its place with what it has."""
        self.primary.stop(signal.SIGKILL)
        self.replica.promote()

    def part(self) -> None:
        """The replica hears no more of the primary, until they meet again."""
        self._lead_to("''")
        with psycopg.connect(self.replica.dsn(), autocommit=True) as connection:
            while connection.execute("SELECT FROM pg_stat_wal_receiver").fetchone() is not None:
                pass

    def meet(self) -> None:
        """The replica hears the primary again."""
        self._lead_to(f"'host={self.primary.directory} user=troth'")
        with psycopg.connect(self.primary.dsn(), autocommit=True) as connection:
            while connection.execute("SELECT FROM pg_stat_replication WHERE state = 'streaming'").fetchone() is None:
                pass

    def _lead_to(self, primary: str) -> None:
        with psycopg.connect(self.replica.dsn(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET primary_conninfo = {primary}")
            connection.execute("SELECT pg_reload_conf()")

    def waiting(self) -> bool:
        """Whether somebody waits for the replica."""
        with psycopg.connect(self.primary.dsn(), autocommit=True) as connection:
            return connection.execute(f"SELECT FROM pg_stat_activity WHERE {WAITS}").fetchone() is not None

    def cancel(self) -> None:
        """Somebody cancels whoever waits for the replica."""
        with psycopg.connect(self.primary.dsn(), autocommit=True) as connection:
            connection.execute(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {WAITS}")
