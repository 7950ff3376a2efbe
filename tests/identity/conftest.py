"""Fixtures: a private authority, what it issued, and a daemon that asks everybody for a certificate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from closed_world import POLICY, SOCKET, Start
from private_authority import Pki

from coordinator.config import load
from coordinator.server import Daemon, make_daemon


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """An authority of the test's own."""
    return Pki(tmp_path / "pki")


@pytest_asyncio.fixture
async def closed(pki: Pki, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon with TLS both ways, on a free port."""
    tls = pki.tls("coordinator", "localhost", "127.0.0.1")
    flags = {
        "listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "drain_seconds": 1.0,
        "tls_certificate": str(tls.certificate), "tls_key": str(tls.key), "tls_authorities": str(tls.authorities), "policy": "open",
    }  # fmt: skip
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


@pytest_asyncio.fixture
async def guarded(pki: Pki, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon with TLS both ways and the policy `POLICY`, in `policy.toml`."""
    tls = pki.tls("coordinator", "localhost", "127.0.0.1")
    (tmp_path / "policy.toml").write_text(POLICY)
    flags = {
        "listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "drain_seconds": 1.0,
        "policy": str(tmp_path / "policy.toml"),
        "tls_certificate": str(tls.certificate), "tls_key": str(tls.key), "tls_authorities": str(tls.authorities),
    }  # fmt: skip
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


@pytest_asyncio.fixture
async def start(pki: Pki, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a closed daemon with further settings."""
    started: list[Daemon] = []

    async def begin(**settings: Any) -> Daemon:
        tls = pki.tls("coordinator", "localhost", "127.0.0.1")
        (tmp_path / "policy.toml").write_text(POLICY + SOCKET)
        flags = {
            "listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "drain_seconds": 1.0,
            "policy": str(tmp_path / "policy.toml"), "tls_certificate": str(tls.certificate), "tls_key": str(tls.key),
            "tls_authorities": str(tls.authorities), **settings,
        }  # fmt: skip
        daemon = make_daemon(load(environment={}, flags=flags).config)
        await daemon.start()
        started.append(daemon)
        return daemon

    yield begin
    for daemon in started:
        await daemon.stop()
