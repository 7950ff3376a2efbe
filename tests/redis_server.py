"""A private Redis server, which tests kill and start again; it keeps what it has acknowledged."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from participant_sdk.testing.servers import libraries
from tests.patience import SECONDS as PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[1]


class RedisServer:
    """One server on a port that the kernel chose, as a context manager."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="troth-redis-"))
        # The port is kept while the server is down, or somebody who dials anything then may be given it. On Linux a socket that
        # does not listen keeps everybody out but who sets SO_REUSEADDR as well, as a server does.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port = self._place.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers as ours."""
        programs = Path(os.environ.get("TEST_REDIS_BIN") or ROOT / ".servers" / "redis" / "usr" / "bin")
        self._process = subprocess.Popen(
            [programs / "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory,
             "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no"],
            env={**os.environ, "LD_LIBRARY_PATH": libraries(programs)}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + PATIENCE_SECONDS
        with redis.Redis(port=self.port) as client:
            while time.monotonic() < end:
                try:
                    if client.info("server")["process_id"] == self._process.pid:
                        return
                except redis.ConnectionError:
                    time.sleep(0.02)
        raise AssertionError("Redis does not start")

    def kill(self) -> None:
        """Kill it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
        self._place.close()
        shutil.rmtree(self._directory)
