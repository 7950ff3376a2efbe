"""Processes of a test: a coordinator, services, web servers. Whatever still runs is killed at its end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICE = Path(__file__).with_name("pg_service.py")
QUICK = {"TROTH_RESEND_FIRST_SECONDS": "0.2", "TROTH_RESEND_CAP_SECONDS": "1", "TROTH_SETTLE_ANSWER_SECONDS": "1"}


class Processes:
    """A coordinator and banks; whatever still runs is killed at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.address = ""

    def start(
        self, name: str, *command: str, pipe: bool = False, environment: Mapping[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> subprocess.Popen[str]:  # fmt: skip
        """Run Python with these arguments."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TROTH_")}
        with (self._directory / f"{name.replace('/', '-')}.err").open("a") as err:
            self.running[name] = subprocess.Popen(
                [sys.executable, *command], stderr=subprocess.PIPE if pipe else err, text=True, pass_fds=pass_fds,
                env={**clean, **QUICK, "PYTHONPATH": str(ROOT), **(environment or {})},
            )  # fmt: skip
        return self.running[name]

    def coordinate(self, listen: str = "127.0.0.1:0") -> None:
        data = str(self._directory / "c1")
        process = self.start("c1", "-m", "coordinator.cli", "serve", "--data-directory", data, "--listen", listen, pipe=True)
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"serving on (\S+)", line):
                self.address = found[1]
                return
        raise AssertionError("the coordinator does not serve")

    def bank(self, name: str, number: int, dsn: str) -> None:
        self.start(f"{name}/{number}", str(SERVICE), name, dsn, self.address)

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running.pop(name).communicate(timeout=120)

    def end(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate(timeout=120)
