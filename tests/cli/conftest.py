"""Fixtures: a daemon, and the command line against it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from store_nodes import node  # noqa: F401 - a fixture

from coordinator.cli.main import run
from coordinator.config import load
from coordinator.server import Daemon, make_daemon
from tests.secured_postgres import nothing_from_outside, secured  # noqa: F401 - fixtures of tests here


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON document of its stdout."""
        return json.loads(self.out)


Troth = Callable[..., Awaitable[Ran]]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from outside; the working directory is the test's own."""
    for name in ("TROTH_CONFIG", "TROTH_COORDINATOR", "TROTH_DATA_DIRECTORY", "TROTH_FAILPOINTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest_asyncio.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon on the real core."""
    flags = {"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "drain_seconds": 1.0}
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


@pytest.fixture
def troth(capsys: pytest.CaptureFixture[str]) -> Troth:
    """Runs one command in a thread, so that a daemon in this loop can answer it."""

    async def command(*arguments: str) -> Ran:
        capsys.readouterr()
        code = await asyncio.to_thread(run, arguments)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return command
