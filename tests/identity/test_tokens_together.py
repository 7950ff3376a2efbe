"""Tokens against a running coordinator: from a file, from a command, renewed while everything runs; and what is refused."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from private_authority import Pki

from coordinator.cli.main import run
from coordinator.config import load
from coordinator.server import Daemon, make_daemon
from participant_sdk import Tls
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.errors import ConfigError
from troth.v1 import admin_pb2, admin_pb2_grpc


@pytest_asyncio.fixture
async def taking_tokens(pki: Pki, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon that asks for certificates at one port, and takes tokens at another."""
    tls = pki.tls("coordinator", "localhost", "127.0.0.1")
    (tmp_path / "tokens.toml").touch(0o600)
    flags = {
        "listen": "127.0.0.1:0", "token_listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "drain_seconds": 1.0,
        "tls_certificate": str(tls.certificate), "tls_key": str(tls.key), "tls_authorities": str(tls.authorities),
        "tokens": str(tmp_path / "tokens.toml"), "policy": "open",
    }  # fmt: skip
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


async def caller(address: str, tls: Tls) -> str:
    """Whom the coordinator sees."""
    async with grpc.aio.secure_channel(address, tls.channel_credentials()) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        answer = await stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=PATIENCE_SECONDS)
        return str(answer.caller)


async def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code of a command, and what it wrote to stdout."""
    capsys.readouterr()
    return await asyncio.to_thread(run, arguments), capsys.readouterr().out


async def test_everybody_is_seen_as_who_he_shows(
    taking_tokens: Daemon, pki: Pki, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, held = str(tmp_path / "tokens.toml"), tmp_path / "ada.token"
    code, token = await command(capsys, "token", "add", "ada", "--file", file)
    assert code == 0
    held.write_text(token)
    held.chmod(0o600)
    await _until_taken(taking_tokens, pki, held)
    assert await caller(taking_tokens.token_address, Tls(pki.authorities)) == ""
    assert await caller(taking_tokens.address, pki.tls("web", "web.internal")) == "web.internal"
    by_command = Tls(pki.authorities, token_command=(sys.executable, "-c", f"print({token.strip()!r})"))
    assert await caller(taking_tokens.token_address, by_command) == "token:ada"
    where = ("--coordinator", taking_tokens.token_address, "--tls-authorities", str(pki.authorities))
    code, out = await command(capsys, "status", "--json", *where, "--token-file", str(held))
    assert (code, '"token:ada"' in out) == (0, True)
    assert token.strip()[:20] not in out
    code, out = await command(capsys, "token", "list", "--file", file)
    assert (code, "token:ada" in out, token.strip() in out) == (0, True, False)
    assert (await command(capsys, "token", "remove", "ada", "--file", file))[0] == 0
    assert (await command(capsys, "token", "remove", "ada", "--file", file))[0] == 2
    assert (await command(capsys, "token", "add", "a b", "--file", file))[0] == 2


async def _until_taken(daemon: Daemon, pki: Pki, held: Path) -> None:
    """The daemon looks at the file once a second."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                assert await caller(daemon.token_address, Tls(pki.authorities, token_file=held)) == "token:ada"
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                await asyncio.sleep(0.05)
            else:
                return


@pytest.mark.parametrize(
    ("content", "mode", "told"), [("", 0o600, "no bearer token"), ("a b", 0o600, "no bearer"), ("x", 0o644, "open")]
)
def test_token_files_that_are_refused(tmp_path: Path, content: str, mode: int, told: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=told):
        Tls(token_file=file).check()


def test_commands_that_give_no_token(tmp_path: Path) -> None:
    for command in ((str(tmp_path / "nothing"),), (sys.executable, "-c", "raise SystemExit(3)"), (sys.executable, "-c", "print()")):
        with pytest.raises(ConfigError, match="token"):
            Tls(token_command=command).token()
    with pytest.raises(ConfigError, match="both"):
        Tls(token_file=tmp_path / "x", token_command=("y",)).check()


async def test_a_token_that_is_gone_when_it_is_needed_fails_that_call_and_says_why(
    taking_tokens: Daemon, pki: Pki, tmp_path: Path
) -> None:
    held = tmp_path / "ada.token"
    held.write_text("x")
    held.chmod(0o600)
    credentials = Tls(pki.authorities, token_file=held).channel_credentials()
    held.unlink()
    async with grpc.aio.secure_channel(taking_tokens.token_address, credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await admin_pb2_grpc.AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest(), timeout=PATIENCE_SECONDS)
    assert "cannot be read" in str(caught.value.details())


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Tls(token_file=tmp_path / "nowhere").check()
