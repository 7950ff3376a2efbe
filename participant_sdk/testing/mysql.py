"""A MySQL server of a test's own: a private directory, a unix socket and no port, stopped by its pid.

    async with MysqlServer() as server:
        ... await aiomysql.connect(unix_socket=str(server.socket), user="root")

`TEST_MYSQL_BIN` names the directory of `mysqld`; without it the usual place is searched. (A program of this name may be MariaDB's.)
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from participant_sdk.testing.mariadb import MariadbServer
from participant_sdk.testing.servers import PrivateServer, programs

_PLACES = ("/usr/sbin", "/usr/libexec", "/usr/bin")
_SETTINGS = {
    "skip-networking": "1", "mysqlx": "0", "max-connections": "120", "innodb-buffer-pool-size": "16M",
    "innodb-redo-log-capacity": "8M", "innodb-lock-wait-timeout": "10", "innodb-buffer-pool-dump-at-shutdown": "0",
    "innodb-buffer-pool-load-at-startup": "0", "secure-file-priv": "NULL",
}  # fmt: skip


class MysqlServer(MariadbServer):
    """One server, with an empty database `troth`. `settings` are what my.cnf would say besides. SIGTERM stops it, SIGKILL is a
    crash."""

    _made: Path | None = None
    """Below it is a data directory that was just made, once in a process."""

    def __init__(self, **settings: str) -> None:
        PrivateServer.__init__(self, "MySQL", programs("MySQL", "mysqld", "TEST_MYSQL_BIN", _PLACES))
        self._settings = {**_SETTINGS, **settings}

    def create(self) -> None:
        """Make the data directory. That takes seconds, so it is a copy of what this process made first."""
        self._give_to_nobody(self.directory)
        if MysqlServer._made is None:
            self._initialize()
            MysqlServer._made = Path(tempfile.mkdtemp(prefix="troth-mysql-", dir=self.directory.parent))
            atexit.register(shutil.rmtree, MysqlServer._made, ignore_errors=True)
            shutil.copytree(self.data, MysqlServer._made / "data")
        else:
            shutil.copytree(MysqlServer._made / "data", self.data)
            self._give_to_nobody(self.data, *self.data.rglob("*"))

    def _initialize(self) -> None:
        words = self.directory / "words"
        words.write_text("CREATE DATABASE troth;\n")
        fast = {"skip_log_bin": "1", "innodb_flush_log_at_trx_commit": "0", "innodb_doublewrite": "0", "init_file": str(words)}
        self._run("mysqld", *self._options(**fast), "--initialize-insecure")

    def command(self, **settings: str) -> list[Any]:
        """See `PrivateServer`."""
        return [self._bin / "mysqld", *self._options(**settings)]

    def _as(self, command: Sequence[Any]) -> Mapping[str, Any]:
        """The server stops being root by itself. What starts it knows its libraries, which may be newer than this machine's."""
        return {"args": command}
