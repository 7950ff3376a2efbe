"""Secrets are planted in everything that a run is given, and then looked for in everything that it has written or said.

Of what is kept on disk for the protocol's sake: the coordinator's log has idempotency keys, and no arguments, results or tokens; a
participant's has results and undo data. Nothing else has any of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from closed_world import PATIENCE_SECONDS, Start, connected
from private_authority import Pki

from coordinator.cli.main import run
from coordinator.server import Daemon
from participant_sdk import LogResource, Participant, Refuse, SqliteResource
from participant_sdk.client import Client, call
from troth.errors import Aborted, TrothError
from troth.log import offline
from troth.v1 import admin_pb2, admin_pb2_grpc

ARGUMENT, RESULT, KEY, TOKEN, FAULT = (f"planted-{name}-8f14e45f" for name in ("argument", "result", "key", "token", "fault"))
NOTES, WEB, ADA = (f"spiffe://example.org/{one}" for one in ("notes", "web", "people/ada"))


def make_vault(directory: Path, daemon: Daemon, pki: Pki) -> Participant:
    """A participant that gets secrets, gives some back, refuses, and breaks."""
    vault = Participant(
        "notes", resource=SqliteResource(directory / "notes.db", schema="CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)"),
        data_directory=directory / "notes", coordinator=daemon.address, tls=pki.tls("notes", NOTES),
    )  # fmt: skip

    @vault.operation
    def keep(db: Any, *, text: str) -> str:
        db.execute("INSERT INTO notes (text) VALUES (?)", (text,))
        return RESULT

    @vault.operation
    def refuse(db: Any, *, text: str) -> None:
        raise Refuse("NO_FUNDS")

    @vault.operation
    def broken(db: Any, *, text: str) -> None:
        raise ValueError("it broke")

    return vault


async def test_nothing_says_what_it_was_given(
    guarded: Daemon, pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    async with make_vault(tmp_path, guarded, pki) as vault, Client(guarded.address, tls=pki.tls("web", WEB)) as web:
        await connected(vault)
        done = await web.run(call("notes", "keep", text=ARGUMENT), key=KEY, timeout=PATIENCE_SECONDS)
        assert done.results == {"notes": [RESULT]}
        assert (await web.run(call("notes", "keep", text=ARGUMENT), key=KEY, timeout=PATIENCE_SECONDS)).replayed
        for name in ("refuse", "broken", "nothing", "keep"):
            arguments: dict[str, object] = {"text": ARGUMENT} if name != "keep" else {"other": ARGUMENT}
            with pytest.raises((Aborted, TrothError)) as caught:
                await web.run(call("notes", name, **arguments), timeout=PATIENCE_SECONDS, attempts=1)
            said.append(str(caught.value))
        said += await _told_to_operators(guarded, pki, capsys)
    said += [caplog.text, *capsys.readouterr()]
    for secret in (ARGUMENT, RESULT, TOKEN):
        assert not [text for text in said if secret in text], f"{secret} was said"
    assert KEY not in caplog.text
    await guarded.stop()
    for path, content in _files(tmp_path):
        allowed = {KEY} if path.name.startswith("coordinator.db") else set()
        if "notes" in path.parts[len(tmp_path.parts)]:
            allowed = {ARGUMENT, RESULT, KEY}
        found = {secret for secret in (ARGUMENT, RESULT, KEY, TOKEN) if secret.encode() in content}
        assert found <= allowed, f"{path} has {found - allowed}"


async def test_with_payload_keys_no_file_has_what_it_was_given(start: Start, pki: Pki, tmp_path: Path) -> None:
    """A service whose branches are in its log alone: that holds arguments and results until the hook has run, and they are sealed.
    Its keys come by a command, the coordinator's from a file."""
    ring = tmp_path / "keys.toml"
    assert run(("keys", "init", "--file", str(ring))) == 0
    daemon = await start(payload_keys=str(ring))
    hooked: list[Any] = []

    async def on_commit(transaction_id: str, operations: Any) -> None:
        hooked.extend(operations)

    service = Participant(
        "notes", resource=LogResource(on_commit=on_commit), data_directory=tmp_path / "notes", coordinator=daemon.address,
        tls=pki.tls("notes", NOTES), payload_keys=f"exec:cat {ring}",
    )  # fmt: skip

    @service.operation
    def keep(branch: Any, *, text: str) -> str:
        return RESULT

    async with service, Client(daemon.address, tls=pki.tls("web", WEB)) as web:
        await connected(service)
        done = await web.run(call("notes", "keep", text=ARGUMENT), key=KEY, timeout=PATIENCE_SECONDS, wait="complete")
        assert (await web.run(call("notes", "keep", text=ARGUMENT), key=KEY, timeout=PATIENCE_SECONDS)).replayed
        assert done.results == {"notes": [RESULT]}
        assert [one.arguments for one in hooked] == [{"text": ARGUMENT}]
    await daemon.stop()
    for secret in (ARGUMENT, RESULT, KEY):
        assert [path for path, content in _files(tmp_path) if secret.encode() in content] == []
    for log in (tmp_path / "c1" / "coordinator.db", tmp_path / "notes" / "participant.db"):
        assert any(record.keys for record in offline.dump(log).records), "something was sealed"


async def _told_to_operators(daemon: Daemon, pki: Pki, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What people read, but for the key, which they look for by it."""
    tls = pki.tls("ada", ADA)
    flags = ("--tls-authorities", str(tls.authorities), "--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key))
    for arguments in (("participants",), ("status", "--json"), ("txn", "list")):
        assert await asyncio.to_thread(run, (*arguments, "--coordinator", daemon.address, *flags)) == 0
    told = [*capsys.readouterr()]
    async with grpc.aio.secure_channel(daemon.address, tls.channel_credentials()) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Explain(admin_pb2.ExplainRequest(transaction_id="x"), metadata=(("authorization", f"Bearer {TOKEN}"),))
        told.append(str(caught.value))
    return told


def _files(directory: Path) -> Iterator[tuple[Path, bytes]]:
    for path in directory.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()
