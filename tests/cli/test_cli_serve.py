"""`troth serve` as a process of its own: what it says, what it writes, and how it ends."""

from __future__ import annotations

import contextlib
import json
import logging
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

from coordinator.cli.serve import _format_asked, configure_logging
from troth.logs import get_logger
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120


def command(*arguments: str, python: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *python, "-m", "coordinator.cli", *arguments]


def environment(**extra: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
    return {**clean, "PYTHONPATH": str(ROOT), "TROTH_LOG_FORMAT": "console", **extra}


class Process:
    """One `troth serve`."""

    def __init__(self, directory: Path, *arguments: str, python: tuple[str, ...] = (), **extra: str) -> None:
        flags = ("--data-directory", str(directory), "--listen", "127.0.0.1:0", *arguments)
        self.running = subprocess.Popen(
            command("serve", *flags, python=python), stderr=subprocess.PIPE, text=True, env=environment(**extra)
        )
        self.line, self.allows, self.address = self._ready(), "", ""
        if "serving on" in self.line:
            self.address = (directory / "address").read_text().strip()
            self.allows = self.running.stderr.readline().strip()  # type: ignore[union-attr]  # it is a pipe

    def _ready(self) -> str:
        assert self.running.stderr is not None
        for line in self.running.stderr:
            if line.startswith(("troth: ", "{")):
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


def test_serve_says_how_many_keyed_transactions_it_allows(serve: Any) -> None:
    allows = serve("c1", "--set", "keys_max=39000").allows
    assert allows == "troth: allows 10 keyed transactions a second (keys_max 39000, each kept 3900 s)"


JSON = {"TROTH_LOG_FORMAT": "json"}


def test_a_log_in_json_holds_nothing_else(serve: Any, tmp_path: Path) -> None:
    """A start, a second daemon on the directory, a drain that is broken off, the end, and wrong settings."""
    first = serve("c1", "--set", "log_level=error", **JSON)
    second = serve("c1", **JSON)
    said = [first.line, second.line, first.allows]
    assert second.ended() == (3, "")
    with grpc.insecure_channel(first.address) as channel:
        stub = client_pb2_grpc.TransactionServiceStub(channel)
        stub.Begin(client_pb2.BeginRequest(timeout_ms=600_000), timeout=SECONDS)
        first.running.send_signal(signal.SIGTERM)
        for line in first.running.stderr:
            said.append(line)
            if "draining" in line:
                break
        code, rest = first.ended(signal.SIGTERM)
    said.append(rest)
    assert code == 0
    for arguments in (("--set", "keys_mx=5"), ("--listen", "nowhere")):
        wrong = serve("c1", *arguments, **JSON)
        said.append(wrong.line)
        assert wrong.ended() == (2, "")
    lines = [json.loads(line) for text in said for line in text.splitlines()]
    events = [line["event"].split(":")[0].split(" ")[0] for line in lines]
    assert events == ["serving", "LOG_LOCKED", "allows", "draining", "stopped", "CONFIG", "CONFIG"]
    assert [line["level"] for line in lines if line["event"].startswith(("LOG", "CONFIG"))] == ["error"] * 3


@pytest.mark.parametrize(("given", "form"), [((), "auto"), (("log_format=json",), "json"), (("log_format=x", "a=b"), "console")])
def test_wrong_settings_are_told_in_the_format_that_was_asked_for(given: tuple[str, ...], form: str) -> None:
    environment = {"TROTH_LOG_FORMAT": "console"} if form == "console" else {}
    assert _format_asked(given, environment) == form


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    root, hook = logging.getLogger(), sys.excepthook
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("", "troth", "troth.serve")}
    yield
    sys.excepthook, root.handlers = hook, handlers
    logging.captureWarnings(False)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_what_nobody_caught_is_a_line_of_json_too(logging_as_it_was: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "error")
    sys.excepthook(ValueError, ValueError("odd"), None)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["exception"] == "ValueError: odd"


@pytest.mark.parametrize("form", ["console", "json"])
def test_what_a_peer_has_said_moves_no_cursor_in_the_log(
    form: str, logging_as_it_was: None, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b[2J\x9b31m\u202e\r"
    configure_logging(form, "info")
    get_logger("troth.tried").error("said", exc_info=ValueError(hostile), why=hostile, many=[hostile], forged="a\nb")
    logging.getLogger("a.library").error("two lines, of\n%s", hostile)
    said = capsys.readouterr().err
    assert all(one == "\n" or one.isprintable() for one in said)
    assert said.count("[2J") == 4 and len(said.splitlines()) == (4 if form == "console" else 2)


def test_what_speaks_another_protocol_is_seen_by_grpcs_own_trace_and_harms_nobody(serve: Any) -> None:
    """As the page for operators says: gRPC has no hook for connections, but a trace."""
    process = serve("c1", GRPC_VERBOSITY="debug", GRPC_TRACE="http")
    host, _, port = process.address.rpartition(":")
    for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes.fromhex("16030100c8010000c40303") + bytes(200)):
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(said)
            while stranger.recv(4096):
                pass
    assert process.status().epoch == 1
    told = process.ended(signal.SIGTERM)[1]
    for first in ("'G' (71)", "(22)"):
        line = next(line for line in told.splitlines() if "Connect string mismatch" in line and first in line)
        assert "Failed parsing HTTP/2" in line and "mismatch: expected 'P' (80) got " in line and "at byte 0" in line


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
