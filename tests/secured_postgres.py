"""A PostgreSQL server as it is run where others share the network: on TCP, by TLS alone, and with passwords (scram)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from coordinator.pki import authority
from participant_sdk.testing.postgres import PostgresServer

HOST = "127.0.0.1"
ROLE = "clerk"
PASSWORD = "winter:in'Troth"
"""A colon and a quote are special in the places from where it comes."""
ACCESS = f"""
local   all all                   trust
hostssl all all {HOST}/32 scram-sha-256
"""


class SecuredPostgres(PostgresServer):
    """Listens on loopback, at a port that the kernel chose, with a certificate for that address from an authority of its own. There
    is a role with a password; past all that, the superuser has the unix socket."""

    def __init__(self) -> None:
        # The port is kept while the server is down: a socket that does not listen keeps everybody out but who sets SO_REUSEADDR.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind((HOST, 0))
        self.port = self._place.getsockname()[1]
        super().__init__(listen_addresses=HOST, port=str(self.port), ssl="on", password_encryption="scram-sha-256")
        self.authority = self.directory / "pki" / "authority.pem"
        self._settings["ssl_cert_file"] = str(self.directory / "server.pem")
        self._settings["ssl_key_file"] = str(self.directory / "server.key")

    def dsn(self, database: str = "postgres", **more: Any) -> str:
        """For the superuser, by the unix socket."""
        return super().dsn(database, **{"port": self.port, **more})

    def secured(self, database: str = "postgres", **more: Any) -> str:
        """For the role, by TCP and TLS. The password is not in it."""
        parts = {"host": HOST, "user": ROLE, "sslmode": "verify-full", "sslrootcert": self.authority, **more}
        return self.dsn(database, **parts)

    def create(self) -> None:
        """See `PostgresServer`."""
        super().create()
        authority.init(self.authority.parent, "The database's authority")
        authority.issue(self.authority.parent, "server", [HOST])
        for end in ("pem", "key"):
            made = self.directory / f"server.{end}"
            (self.authority.parent / made.name).rename(made)
            self._give_to_nobody(made)
        (self.data / "pg_hba.conf").write_text(ACCESS)

    def start(self, **settings: str) -> None:
        """See `PostgresServer`; the role is there then."""
        super().start(**settings)
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone() is None:
                connection.execute(f"CREATE ROLE {ROLE} LOGIN")
            self.set_password(PASSWORD)

    def set_password(self, password: str) -> None:
        """Give the role another one."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(ROLE), password))

    def end_sessions(self) -> None:
        """All of the role's."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (ROLE,))

    def make_database(self, name: str) -> None:
        """A database of the role's own."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} OWNER {ROLE}")  # type: ignore[call-overload]  # the test's own name

    def answers(self) -> bool:
        """See `PostgresServer`."""
        try:
            psycopg.connect(self.dsn()).close()
        except psycopg.OperationalError:
            return False
        return True

    def remove(self) -> None:
        """See `PostgresServer`."""
        super().remove()
        self._place.close()


def write_passwords(path: Path, password: str = PASSWORD) -> Path:
    """A password file (pgpass) for the role, as libpq wants it: for nobody else's eyes."""
    escaped = password.replace("\\", r"\\").replace(":", r"\:")
    path.write_text(f"{HOST}:*:*:{ROLE}:{escaped}\n")
    os.chmod(path, 0o600)
    return path


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredPostgres]:
    """One for the tests of a module."""
    with SecuredPostgres() as server:
        yield server


@pytest.fixture
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a password nor a service, wherever these tests run: an empty home."""
    for name in ("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGHOST", "PGUSER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
