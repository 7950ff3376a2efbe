"""`troth serve` as a process of its own: what it says, what it writes, and how it ends."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30


def command(*arguments: str, python: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *python, "-m", "coordinator.cli", *arguments]


def environment(**extra: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
    return {**clean, "PYTHONPATH": str(ROOT), **extra}


class Process:
    """One `troth serve`."""

    def __init__(self, directory: Path, *arguments: str, python: tuple[str, ...] = (), **extra: str) -> None:
        flags = ("--data-directory", str(directory), "--listen", "127.0.0.1:0", *arguments)
        self.running = subprocess.Popen(
            command("serve", *flags, python=python), stderr=subprocess.PIPE, text=True, env=environment(**extra)
        )
        self.line = self._ready()
        self.address = (directory / "address").read_text().strip() if "serving on" in self.line else ""

    def _ready(self) -> str:
        assert self.running.stderr is not None
        for line in self.running.stderr:
            if line.startswith("troth: "):
                return line.strip()
        return ""

    def ended(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Send a signal, wait for the end; exit code and what was said until then."""
        if number is not None:
            self.running.send_signal(number)
        _, said = self.running.communicate(timeout=SECONDS)
        return self.running.returncode, said

    def status(self) -> admin_pb2.GetStatusResponse:
        with grpc.insecure_channel(self.address) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            response: admin_pb2.GetStatusResponse = stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=SECONDS)
            return response


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    """Starts daemons, and ends those that a test leaves behind."""
    started: list[Process] = []

    def start(directory: str = "c1", *arguments: str, **options: Any) -> Process:
        started.append(Process(tmp_path / directory, *arguments, **options))
        return started[-1]

    yield start
    for one in started:
        if one.running.poll() is None:
            one.running.kill()
            one.running.communicate()
        with contextlib.suppress(AttributeError):
            one.running.stderr.close()  # type: ignore[union-attr]  # it may be closed by then


def test_serve_says_where_and_ends_cleanly(serve: Any, tmp_path: Path) -> None:
    process = serve("c1", "--name", "c7")
    assert process.line == f"troth: serving on {process.address} (coordinator c7, epoch 1)"
    assert process.status().coordinator == "c7"
    code, said = process.ended(signal.SIGTERM)
    assert code == 0
    assert "troth: stopped" in said
    assert not (tmp_path / "c1" / "address").exists()
    assert serve("c1", "--name", "c7").line.endswith("(coordinator c7, epoch 2)")


def test_sigint_ends_it_too(serve: Any) -> None:
    assert serve().ended(signal.SIGINT)[0] == 0


def test_it_serves_again_after_kill(serve: Any) -> None:
    assert serve().ended(signal.SIGKILL)[0] == -signal.SIGKILL
    assert serve().status().epoch == 2


def test_optimised_python_serves_and_checks_its_input(serve: Any) -> None:
    process = serve("c1", python=("-O",))
    with grpc.insecure_channel(process.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            client_pb2_grpc.TransactionServiceStub(channel).Run(client_pb2.RunRequest(), timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert process.ended(signal.SIGTERM)[0] == 0


def test_a_second_signal_ends_the_wait(serve: Any) -> None:
    process = serve("c1", "--drain-seconds", "3600")
    with grpc.insecure_channel(process.address) as channel:
        stub = client_pb2_grpc.TransactionServiceStub(channel)
        stub.Begin(client_pb2.BeginRequest(timeout_ms=600_000), timeout=SECONDS)
    process.running.send_signal(signal.SIGTERM)
    for line in process.running.stderr:
        if "draining" in line:
            break
    assert process.ended(signal.SIGTERM)[0] == 0


def test_a_taken_port_is_exit_2(serve: Any) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        process = serve("c1", "--listen", f"127.0.0.1:{holder.getsockname()[1]}")
        assert "PORT_TAKEN" in process.line
        assert process.ended()[0] == 2


def test_a_taken_directory_is_exit_3(serve: Any) -> None:
    serve()
    second = serve()
    assert "LOG_LOCKED" in second.line
    assert second.ended()[0] == 3


def test_the_directory_of_another_is_exit_3(serve: Any) -> None:
    serve().ended(signal.SIGTERM)
    other = serve("c1", "--name", "c2")
    assert "LOG_FOREIGN" in other.line
    assert other.ended()[0] == 3


@pytest.mark.parametrize(
    ("arguments", "extra", "told"),
    [
        ((), {"TROTH_KEYS_MX": "5"}, "TROTH_KEYS_MAX"),
        ((), {"TROTH_FAILPOINTS": "nonsense"}, "failpoint"),
        (("--set", "keys_mx=5"), {}, "keys_max"),
        (("--config", "/nowhere/troth.toml"), {}, "/nowhere/troth.toml"),
    ],
)
def test_wrong_settings_are_exit_2(serve: Any, arguments: tuple[str, ...], extra: dict[str, str], told: str) -> None:
    process = serve("c1", *arguments, **extra)
    assert told in process.line
    assert process.ended()[0] == 2


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(command("config", "show"), stdout=theirs, stdin=theirs, env=environment(COLUMNS="200")) as process:
        os.close(theirs)
        told = b""
        with contextlib.suppress(OSError):  # how a pty says that the other end is closed
            while part := os.read(ours, 65536):
                told += part
        assert process.wait(SECONDS) == 0
    os.close(ours)
    assert b"\t" not in told
    assert b"open_transactions_max" in told
