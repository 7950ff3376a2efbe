"""Secrets are planted in everything that a run is given, and then looked for in everything that it has written or said.

Of what is kept on disk for the protocol's sake, where it is not sealed: the coordinator's log has idempotency keys, and no
arguments, results or tokens; a participant's has arguments, results and undo data. Nothing else has any of them."""

from __future__ import annotations

import asyncio
import logging
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from closed_world import PATIENCE_SECONDS, Start, connected
from private_authority import Pki

from coordinator.cli.main import run
from coordinator.server import Daemon
from participant_sdk import LogResource, Participant, Refuse, SqliteResource, Tls
from participant_sdk.client import Client, call
from troth.errors import Aborted, TrothError
from troth.log import offline
from troth.v1 import admin_pb2, admin_pb2_grpc

ARGUMENT, RESULT, KEY, TOKEN, FAULT = (f"planted-{name}-8f14e45f" for name in ("argument", "result", "key", "token", "fault"))
WHY = "planted-why-8f14e45f"
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


@pytest.mark.parametrize("sealed", [True, False])
async def test_a_full_run_leaves_nothing_behind_where_it_is_sealed_and_otherwise_in_the_logs_alone(
    sealed: bool, start: Start, pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A service whose branches are in its log alone: that holds arguments and results until the hook has run. The coordinator's
    keys are in a file, the service's come by a command; the token is a real one."""
    caplog.set_level(logging.DEBUG)
    ring, tokens, held = tmp_path / "given" / "keys.toml", tmp_path / "tokens.toml", tmp_path / "given" / "ada.token"
    assert run(("keys", "init", "--file", str(ring))) == 0
    assert run(("token", "add", "ada", "--file", str(tokens))) == 0
    held.touch(0o600)
    held.write_text(token := capfd.readouterr().out.splitlines()[-1].strip())
    daemon = await start(
        payload_keys=str(ring) if sealed else "", tokens=str(tokens), token_listen="127.0.0.1:0", metrics_listen="127.0.0.1:0",
    )  # fmt: skip
    hooked: list[Any] = []
    service = _make_service(tmp_path, daemon, pki, f"exec:cat {ring}" if sealed else "", hooked)
    asking = Tls(pki.authorities, token_file=held)
    async with service, Client(daemon.address, tls=pki.tls("web", WEB)) as web:
        await connected(service)
        said = await _worked(web)
        kept = list(_files(tmp_path))  # with the write-ahead logs as they are while everything runs
    assert [one.arguments for one in hooked] == [{"text": ARGUMENT}] * 2
    said += await _administered(daemon, pki, asking)
    await daemon.stop()
    kept += _files(tmp_path)
    assert {"coordinator.db", "coordinator.db-wal", "participant.db", "participant.db-wal"} <= {path.name for path, _ in kept}
    assert any("audit" in path.parts for path, _ in kept)
    secrets = (ARGUMENT, RESULT, KEY, token)
    for secret in secrets:
        assert not [text for text in (*said, caplog.text, *capfd.readouterr()) if secret in text], f"{secret} was said"
    found = {(path.name.partition(".")[0], one) for path, content in kept for one in secrets if one.encode() in content}
    assert found == (set() if sealed else {("coordinator", KEY), ("participant", ARGUMENT), ("participant", RESULT)})
    for log in (tmp_path / "c1" / "coordinator.db", tmp_path / "notes" / "participant.db"):
        assert any(record.keys for record in offline.dump(log).records) is sealed
    found_whys = {re.split("[-.]", path.name)[0] for path, content in kept if WHY.encode() in content}
    assert found_whys == ({"audit"} if sealed else {"audit", "coordinator"}), "a reason is what the audit log is for"


def _make_service(directory: Path, daemon: Daemon, pki: Pki, payload_keys: str, hooked: list[Any]) -> Participant:
    async def on_commit(transaction_id: str, operations: Any) -> None:
        hooked.extend(operations)

    service = Participant(
        "notes", resource=LogResource(on_commit=on_commit), data_directory=directory / "notes", coordinator=daemon.address,
        tls=pki.tls("notes", NOTES), payload_keys=payload_keys,
    )  # fmt: skip

    @service.operation
    def keep(branch: Any, *, text: str) -> str:
        return RESULT

    @service.operation
    def refuse(branch: Any, *, text: str) -> None:
        raise Refuse("NO_FUNDS")

    @service.operation
    def broken(branch: Any, *, text: str) -> None:
        raise ValueError("it broke")

    @service.operation
    def number(branch: Any, *, text: int) -> None: ...

    return service


async def _worked(web: Client) -> list[str]:
    """Work of every kind, and what was said of it."""
    said: list[str] = []

    async def refused(*calls: Any, **terms: Any) -> None:
        with pytest.raises((Aborted, TrothError)) as caught:
            await web.run(*calls, timeout=PATIENCE_SECONDS, attempts=1, **terms)
        said.extend((str(caught.value), repr(caught.value), caught.value.hint))

    done = await web.run(call("notes", "keep", text=ARGUMENT), key=KEY, timeout=PATIENCE_SECONDS, wait="complete")
    assert done.results == {"notes": [RESULT]}
    said.append(repr(done))
    assert (await web.run(call("notes", "keep", text=ARGUMENT), key=KEY, timeout=PATIENCE_SECONDS)).replayed
    await web.run(call("notes", "keep", text=ARGUMENT), timeout=PATIENCE_SECONDS, wait="complete")
    await refused(call("notes", "keep", text=ARGUMENT + "!"), key=KEY)
    for name in ("refuse", "broken", "nothing", "number"):
        await refused(call("notes", name, text=ARGUMENT))
    await refused(call("notes", "keep", other=ARGUMENT))
    with pytest.raises(TrothError) as caught:
        async with web.transaction(key=KEY, timeout=PATIENCE_SECONDS):
            pass
    return [*said, str(caught.value)]


async def _administered(daemon: Daemon, pki: Pki, asking: Tls) -> list[str]:
    """What operators ask and order, what they read, and the metrics."""
    tls = pki.tls("ada", ADA)
    told = []
    async with grpc.aio.secure_channel(daemon.address, tls.channel_credentials()) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        order = admin_pb2.ReplaceParticipantRequest(participant="notes", log_id="22" * 16, who="ada", why=WHY)
        told.append(str(await stub.ReplaceParticipant(order)).replace(WHY, ""))
    async with grpc.aio.secure_channel(daemon.token_address, asking.channel_credentials()) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="no grant gives token:ada") as caught:
            await stub.ListTransactions(admin_pb2.ListTransactionsRequest())
        told.append(str(caught.value))
    assert daemon.observing.exporter is not None
    url = f"http://{daemon.observing.exporter.address}/metrics"
    return [*told, (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()]


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
    """What is kept below a directory, but for what was given to a process to keep."""
    for path in directory.rglob("*"):
        if path.is_file() and path.parent.name != "given":
            yield path, path.read_bytes()
