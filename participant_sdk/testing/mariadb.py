"""A MariaDB server of a test's own: a private directory, a unix socket and no port, stopped by its pid.

    async with MariadbServer() as server:
        ... await aiomysql.connect(unix_socket=str(server.socket), user="root")

`TEST_MARIADB_BIN` names the directory of the server's program; without it the usual place is searched.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from participant_sdk.testing.servers import PrivateServer, as_nobody, programs

_PLACES = ("/usr/sbin", "/usr/libexec", "/usr/bin")
_SETTINGS = {
    "skip-networking": "1", "max-connections": "120", "innodb-buffer-pool-size": "16M", "innodb-log-file-size": "8M",
    "innodb-lock-wait-timeout": "10", "innodb-buffer-pool-dump-at-shutdown": "0", "innodb-buffer-pool-load-at-startup": "0",
}  # fmt: skip
_GRANTED = "CREATE DATABASE troth;\n"


class MariadbServer(PrivateServer):
    """One server, with an empty database `troth`. `settings` are what my.cnf would say besides. SIGTERM stops it, SIGKILL is a
    crash."""

    def __init__(self, **settings: str) -> None:
        super().__init__("MariaDB", programs("MariaDB", "mariadbd", "TEST_MARIADB_BIN", _PLACES))
        self._settings = {**_SETTINGS, "lc-messages-dir": str(self._share), **settings}

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.directory / "socket"

    def dsn(self, database: str = "troth", *, driver: str = "", user: str = "root", **more: Any) -> str:
        """A connection string, for the administrator `root`."""
        scheme = f"mysql+{driver}" if driver else "mysql"
        return f"{scheme}://{quote(user)}@localhost/{quote(database)}?{urlencode({'unix_socket': self.socket, **more})}"

    def create(self) -> None:
        """Make the data directory, with the server's own tables."""
        self.data.mkdir()
        self._give_to_nobody(self.directory, self.data)
        tables = b"".join((self._share / f"mysql_system_tables{part}.sql").read_bytes() for part in ("", "_data"))
        words = b"CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n" + tables + _GRANTED.encode()
        self._run("mariadbd", *self._options(), "--bootstrap", words=words)

    def command(self, **settings: str) -> list[Any]:
        """See `PrivateServer`."""
        return [self._bin / "mariadbd", *self._options(**settings)]

    def _as(self, command: Sequence[Any]) -> Mapping[str, Any]:
        """The server stops being root by itself."""
        return {**as_nobody(self._bin, command), "args": command}

    def _options(self, **settings: str) -> list[str]:
        said = {
            "datadir": str(self.data), "socket": str(self.socket), "pid-file": str(self.directory / "pid"),
            # A server that starts removes what others have left in the directory of temporary files.
            "tmpdir": str(self.directory), **({"user": "nobody"} if os.geteuid() == 0 else {}), **self._settings, **settings,
        }  # fmt: skip
        return ["--no-defaults", *(f"--{name.replace('_', '-')}={value}" for name, value in said.items())]

    @property
    def _share(self) -> Path:
        return self._bin.parent / "share" / "mysql"

    def answers(self) -> bool:
        """See `PrivateServer`."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0 and bool(probe.recv(1))
