"""A PostgreSQL server of a test's own: a private directory, a unix socket and no port, stopped by its pid.

    async with PostgresServer() as server:
        ... await psycopg.AsyncConnection.connect(server.dsn())

`TEST_POSTGRES_BIN` names the directory of the server's programs; without it the usual places are searched. As root the server
runs as `nobody`, since PostgreSQL refuses to be root.
"""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from typing import Any

from participant_sdk.testing.servers import PrivateServer, as_nobody, programs

_PLACES = tuple(f"/usr/lib/postgresql/{version}/bin" for version in (18, 17, 16, 15, 14, 13))
_SETTINGS = {"listen_addresses": "", "max_prepared_transactions": "64", "max_connections": "120", "autovacuum": "off"}


class PostgresServer(PrivateServer):
    """One server. `settings` are what postgresql.conf would say besides. SIGINT stops it fast, SIGQUIT at once, as a crash."""

    crash = signal.SIGQUIT

    def __init__(self, **settings: str) -> None:
        super().__init__("PostgreSQL", programs("PostgreSQL", "postgres", "TEST_POSTGRES_BIN", _PLACES))
        self._settings = {**_SETTINGS, **settings}

    def dsn(self, database: str = "postgres", **more: Any) -> str:
        """A connection string, for the superuser `troth`."""
        parts: dict[str, Any] = {"host": self.directory, "user": "troth", "dbname": database, **more}
        return " ".join(f"{name}={value}" for name, value in parts.items())

    def create(self) -> None:
        """Make the data directory."""
        self._give_to_nobody(self.directory)
        self._run("initdb", "-D", self.data, "-A", "trust", "-U", "troth", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")

    def copy_of(self, primary: PostgresServer) -> None:
        """Make the data directory as a replica of a server that runs: it streams from there, from its start on."""
        self._give_to_nobody(self.directory)
        source = primary.dsn(application_name=self.directory.name)
        self._run("pg_basebackup", "-D", self.data, "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync")

    def promote(self) -> None:
        """Let a replica be a primary, as soon as it can (what `pg_ctl promote` does)."""
        assert self._process is not None, "the server does not run"
        (self.data / "promote").touch()
        self._process.send_signal(signal.SIGUSR1)

    def remove(self) -> None:
        """See `PrivateServer`. What a server leaves that was killed is named in its pid file, which any other end removes."""
        self.stop(self.crash)
        with suppress(OSError, IndexError):
            segment = (self.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
            subprocess.run(["ipcrm", "-m", segment], check=False, capture_output=True)
        super().remove()

    def be_replica(self) -> None:
        """Start as a replica from the next start on; it has no primary, so it only reads what is there."""
        (self.data / "standby.signal").touch()
        self._give_to_nobody(self.data / "standby.signal")

    def command(self, **settings: str) -> list[Any]:
        """See `PrivateServer`."""
        options = [word for name, value in {**self._settings, **settings}.items() for word in ("-c", f"{name}={value}")]
        return [self._bin / "postgres", "-D", self.data, "-k", self.directory, *options]

    def answers(self) -> bool:
        """See `PrivateServer`."""
        ready: list[Any] = [self._bin / "pg_isready", "-q", "-h", self.directory]
        return subprocess.run(check=False, **as_nobody(self._bin, ready)).returncode == 0
