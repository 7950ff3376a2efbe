"""A pooling proxy in front of a test's server: a private directory and a unix socket, stopped by its pid."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from participant_sdk.testing.postgres import PostgresServer
from participant_sdk.testing.servers import NOBODY, as_nobody
from tests.patience import SECONDS as PATIENCE_SECONDS

_UNPACKED = Path(__file__).parents[2] / ".servers" / "pgbouncer" / "usr" / "sbin"
"""Where `scripts/servers.sh` puts it, for a test that is run without `scripts/test`."""
_PORT = 6543
"""Names the socket; nothing listens on a port."""


class PgBouncer:
    """One proxy, which pools by `mode`: `session` or `transaction`."""

    def __init__(self, server: PostgresServer, mode: str) -> None:
        self._server = server
        self._directory = Path(tempfile.mkdtemp(prefix="troth-bouncer-"))
        self._settings = self._directory / "settings.ini"
        self._settings.write_text(
            f"[databases]\n* = host={server.directory} user=troth\n[pgbouncer]\npool_mode = {mode}\nlisten_addr =\n"
            f"listen_port = {_PORT}\nunix_socket_dir = {self._directory}\nauth_type = any\nlogfile = {self._directory}/log\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str) -> str:
        return f"host={self._directory} port={_PORT} user=troth dbname={database}"

    def __enter__(self) -> PgBouncer:
        place = Path(os.environ.get("TEST_PGBOUNCER_BIN", _UNPACKED))
        for path in (self._directory, self._settings):
            if os.geteuid() == 0:
                os.chown(path, NOBODY, NOBODY)
        how = as_nobody(place, [place / "pgbouncer", "-q", self._settings])
        self._process = subprocess.Popen(stderr=subprocess.DEVNULL, **how)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._directory / "log").read_text()
            assert time.monotonic() < deadline, "the proxy does not answer"
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def __exit__(self, *error: Any) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)
        shutil.rmtree(self._directory, ignore_errors=True)
