"""What the service manager hears of `troth serve`: systemd's protocol, on a real socket."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.notify import Notify

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """Where a service manager would listen. (The path of a socket is short; those of tests are not.)"""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"{directory}/notify")
        listening.settimeout(SECONDS)
        yield listening


def heard(manager: socket.socket) -> dict[str, str]:
    """The next message."""
    return dict(line.split("=", 1) for line in manager.recv(65_536).decode().splitlines())


def test_a_daemon_says_that_it_is_ready_lives_and_stops(manager: socket.socket, tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
    environment = {**clean, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "300000"}
    flags = ("--data-directory", str(tmp_path / "c1"), "--listen", "127.0.0.1:0")
    command = (sys.executable, "-m", "coordinator.cli", "serve", *flags)
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        before: list[dict[str, str]] = []
        while "READY" not in (message := heard(manager)):
            before.append(message)
        assert re.fullmatch(r"serving on 127\.0\.0\.1:\d+ \(coordinator c1, epoch 1\)", message["STATUS"])
        beats = 0
        while beats < 3:
            beats += "WATCHDOG" in heard(manager)
        process.send_signal(signal.SIGTERM)
        while "STOPPING" not in heard(manager):
            pass
        assert process.wait(SECONDS) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert all("STOPPING" not in one for one in before)


def test_nobody_who_listens_is_nobody_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("somebody was told"))
    Notify({}).ready("serving")


async def test_where_nobody_watches_there_are_no_beats(manager: socket.socket) -> None:
    path = manager.getsockname()
    await Notify({"NOTIFY_SOCKET": path}).beat()
    await Notify({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, pid=2).beat()
    Notify({"NOTIFY_SOCKET": path}).status("the first that is heard")
    assert heard(manager) == {"STATUS": "the first that is heard"}


def test_a_manager_in_the_abstract_namespace_is_told() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel chooses a name
        listening.settimeout(SECONDS)
        Notify({"NOTIFY_SOCKET": "@" + listening.getsockname().decode()[1:]}).stopping()
        assert heard(listening) == {"STOPPING": "1"}


def test_a_manager_that_is_gone_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notify({"NOTIFY_SOCKET": "/nowhere/notify"}).ready("serving")
    assert "the service manager was not told" in caplog.text
