"""A coordinator with TLS both ways: who gets in, who does not, and what changes while it runs."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from closed_world import PATIENCE_SECONDS, connected, make_notes
from private_authority import Pki

from coordinator.cli.main import run
from coordinator.pki import authority
from coordinator.server import Daemon
from participant_sdk import LogResource, Participant, Tls
from participant_sdk.client import Client, call
from troth.errors import Aborted, ConfigError, OutcomeUnknown
from troth.v1 import admin_pb2, admin_pb2_grpc


async def test_a_transaction_over_tls(closed: Daemon, pki: Pki, tmp_path: Path) -> None:
    async with (
        make_notes(tmp_path, closed, pki.tls("notes", "spiffe://example.org/notes")) as notes,
        Client(closed.address, tls=pki.tls("web", "web.internal")) as client,
    ):
        await connected(notes)
        done = await client.run(call("notes", "note", text="hello"), attempts=20, timeout=PATIENCE_SECONDS)
        assert done.results == {"notes": [1]}


async def test_versions_of_tls_that_are_too_old_are_refused(closed: Daemon, pki: Pki) -> None:
    """By the server: this side would take them, and says so with a security level at which OpenSSL allows them."""
    mine = pki.tls("web", "web.internal")

    def spoken(version: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cafile=mine.authorities)
        context.load_cert_chain(mine.certificate, mine.key)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        host, port = closed.address.rsplit(":", 1)
        with (
            socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as line,
            context.wrap_socket(line, server_hostname=host) as wrapped,
        ):
            return wrapped.version()

    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises((ssl.SSLEOFError, ConnectionError)):  # what this side refuses by itself is another SSLError
            await asyncio.to_thread(spoken, version)
    assert await asyncio.to_thread(spoken, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert await asyncio.to_thread(spoken, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"


async def _ask(address: str, credentials: grpc.ChannelCredentials | None) -> Any:
    open_channel: Callable[..., Any] = grpc.aio.secure_channel if credentials is not None else grpc.aio.insecure_channel
    arguments = (address, credentials) if credentials is not None else (address,)
    async with open_channel(*arguments) as channel:
        return await admin_pb2_grpc.AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest(), timeout=PATIENCE_SECONDS)


async def test_who_does_not_get_in(closed: Daemon, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Tls(pki.authorities, *_files(_other_authority(tmp_path, "web.internal")))
    with monkeypatch.context() as two_days_ago:
        two_days_ago.setattr(authority, "BACKDATED", timedelta(days=3))
        two_days_ago.setattr(authority, "timedelta", lambda days: timedelta(days=days - 2 if days == 1 else days))
        expired = pki.tls("expired", "web.internal", days=1)
    for credentials in (
        None,  # no TLS
        grpc.ssl_channel_credentials(pki.authorities.read_bytes()),  # no certificate
        other.channel_credentials(),  # of another authority
        expired.channel_credentials(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _ask(closed.address, credentials)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    answer = await _ask(closed.address, pki.tls("web", "web.internal").channel_credentials())
    assert answer.coordinator == "c1"


def _other_authority(tmp_path: Path, name: str) -> Path:
    authority.init(tmp_path / "other", "others")
    return authority.issue(tmp_path / "other", "web", [name])


def _files(certificate: Path) -> tuple[Path, Path]:
    return certificate, certificate.with_suffix(".key")


async def test_whom_the_sdk_does_not_believe(closed: Daemon, pki: Pki, tmp_path: Path) -> None:
    """Of another authority, and of another name: a coordinator has to prove who it is, too."""
    foreign = _other_authority(tmp_path, "web.internal")
    wrong = Tls(foreign.with_name("authority.pem"), *_files(foreign))
    async with Client(closed.address, tls=wrong, grace_seconds=0.1) as client:
        with pytest.raises((Aborted, OutcomeUnknown)) as caught:
            await client.run(call("notes", "note", text="hello"), timeout=0.5, attempts=1)
        assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value)


async def test_a_new_certificate_is_taken_while_it_runs(closed: Daemon, pki: Pki, tmp_path: Path) -> None:
    """Server and SDK both: the old files are gone, and the next connection shows the new ones."""
    web = pki.tls("web", "web.internal")
    files = pki.tls("notes", "notes.internal")
    async with make_notes(tmp_path, closed, files) as notes, Client(closed.address, tls=web) as client:
        await connected(notes)
        await client.run(call("notes", "note", text="before"), attempts=20, timeout=PATIENCE_SECONDS)
        before = await _shown(closed.address)
        for file, *names in (("coordinator", "localhost", "127.0.0.1"), ("web", "web.internal"), ("notes", "notes.internal")):
            pki.tls(file, *names)
        after = await _shown(closed.address)
        assert after != before
        assert after == authority.show(pki.directory / "coordinator.pem").serial
        await client.run(call("notes", "note", text="after"), attempts=20, timeout=PATIENCE_SECONDS)


async def test_new_files_that_cannot_be_used_leave_the_last_good_ones(
    closed: Daemon, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    before = await _shown(closed.address)
    (pki.directory / "coordinator.pem").write_text("no certificate")
    assert await _shown(closed.address) == before
    assert "the last good ones stay" in caplog.text
    pki.tls("coordinator", "localhost", "127.0.0.1")
    assert await _shown(closed.address) not in ("", before)


async def _shown(address: str) -> str:
    """The serial number of the certificate that is shown to whoever connects now."""
    host, _, port = address.rpartition(":")
    command = f"openssl s_client -connect {host}:{port} -alpn h2 </dev/null 2>/dev/null | openssl x509 -noout -serial"
    process = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out.decode().strip().removeprefix("serial=").lower().lstrip("0")


async def test_the_command_line_over_tls(
    closed: Daemon, pki: Pki, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = pki.tls("ada", "spiffe://example.org/people/ada")
    where = ("--coordinator", closed.address)
    flags = ("--tls-authorities", str(tls.authorities), "--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key))
    assert await asyncio.to_thread(run, ("status", *where, *flags)) == 0
    for name, value in (("AUTHORITIES", tls.authorities), ("CERTIFICATE", tls.certificate), ("KEY", tls.key)):
        monkeypatch.setenv(f"TROTH_CLIENT_{name}", str(value))
    assert await asyncio.to_thread(run, ("status", *where)) == 0
    capsys.readouterr()
    monkeypatch.delenv("TROTH_CLIENT_CERTIFICATE")
    assert await asyncio.to_thread(run, ("status", *where)) == 2
    assert "named alone" in capsys.readouterr().err
    for name in ("AUTHORITIES", "KEY"):
        monkeypatch.delenv(f"TROTH_CLIENT_{name}")
    assert await asyncio.to_thread(run, ("status", *where)) == 4
    assert "--tls-authorities" in capsys.readouterr().err


def test_the_sdk_looks_at_files_at_once(tmp_path: Path) -> None:
    nowhere = Tls(tmp_path / "nowhere.pem")
    with pytest.raises(ConfigError, match="cannot be read"):
        Client("127.0.0.1:7420", tls=nowhere)
    with pytest.raises(ConfigError, match="cannot be read"):
        Participant("notes", resource=LogResource(), data_directory=tmp_path, coordinator="127.0.0.1:7420", tls=nowhere)
