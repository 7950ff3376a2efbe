"""A coordinator and a participant whose payload keys are gone: what is decided is settled all the same."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from closed_world import PATIENCE_SECONDS, connected, make_notes

from coordinator.cli.main import run
from coordinator.config import load
from coordinator.server import Daemon, make_daemon
from participant_sdk import LogResource, Participant
from participant_sdk.client import AlreadyCommitted, Client, call
from troth import payload_keys
from troth.errors import ConfigError, OutcomeUnknown, Reason
from troth.log import offline
from troth.payload_keys import Ring


def make_keys(directory: Path, mode: int = 0o600) -> str:
    path = directory / "keys.toml"
    assert run(("keys", "init", "--file", str(path))) == 0
    path.chmod(mode)
    return str(path)


@asynccontextmanager
async def started(directory: Path, keys: str) -> AsyncIterator[Daemon]:
    flags = {"listen": "127.0.0.1:0", "data_directory": str(directory / "c1"), "drain_seconds": 1.0, "payload_keys": keys}
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()


def make_mail(directory: Path, daemon: Daemon, keys: str, sent: list[Any], *, ready: bool = True) -> Participant:
    async def on_commit(transaction_id: str, operations: Any) -> None:
        if not ready:
            raise ConnectionError("the mail server is away")
        sent.extend(one.arguments for one in operations)

    mail = Participant(
        "mail", resource=LogResource(on_commit=on_commit), data_directory=directory / "mail", coordinator=daemon.address,
        payload_keys=keys,
    )  # fmt: skip

    @mail.operation
    def send(branch: Any, *, to: str) -> None:
        return None

    return mail


async def test_without_keys_decisions_settle_and_nothing_runs_under_a_key_until_they_are_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = make_keys(tmp_path)
    sent: list[Any] = []
    work = (call("notes", "note", text="one"), call("mail", "send", to="ada"))
    async with started(tmp_path, keys) as daemon:
        notes, mail = make_notes(tmp_path, daemon, payload_keys=keys), make_mail(tmp_path, daemon, keys, sent, ready=False)
        async with notes, mail, Client(daemon.address) as client:
            await connected(notes, mail)
            done = await client.run(*work, key="k1", timeout=PATIENCE_SECONDS)
            assert done.pending
    assert "PAYLOAD_KEY_MISSING" not in caplog.text
    async with started(tmp_path, "") as daemon:
        (warning,) = [line for line in caplog.messages if "PAYLOAD_KEY_MISSING" in line]
        assert Reason.PAYLOAD_KEY_MISSING.hint in warning
        notes, mail = make_notes(tmp_path, daemon), make_mail(tmp_path, daemon, "", sent)
        async with notes, mail, Client(daemon.address) as client:
            await connected(notes, mail)
            for key in ("k1", "k2"):
                with pytest.raises(OutcomeUnknown) as caught:
                    await client.run(*work, key=key, timeout=PATIENCE_SECONDS, first_attempt_ms=done_at(daemon))
                assert caught.value.reason is Reason.PAYLOAD_KEY_MISSING
            alone = await client.run(call("notes", "note", text="two"), timeout=PATIENCE_SECONDS)
            assert alone.results == {"notes": [2]}, "the commit of before is settled here, once"
            assert sent == [], "the mail cannot be written without its address, and waits"
    async with started(tmp_path, keys) as daemon:
        notes, mail = make_notes(tmp_path, daemon, payload_keys=keys), make_mail(tmp_path, daemon, keys, sent)
        async with notes, mail, Client(daemon.address) as client:
            await connected(notes, mail)
            again = await client.run(*work, key="k1", timeout=PATIENCE_SECONDS, wait="complete", first_attempt_ms=done_at(daemon))
            assert (again.transaction_id, again.replayed) == (done.transaction_id, True)
            assert sent == [{"to": "ada"}]


def done_at(daemon: Daemon) -> int:
    return daemon.context.now_ms()


async def test_after_a_rotation_old_records_are_read_and_the_old_key_is_shown_as_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = make_keys(tmp_path)
    for key, replayed in (("k1", False), ("k1", True), ("k2", False)):
        async with started(tmp_path, keys) as daemon:
            notes = make_notes(tmp_path, daemon, payload_keys=keys)
            async with notes, Client(daemon.address) as client:
                await connected(notes)
                done = await client.run(call("notes", "note", text=key), key=key, timeout=PATIENCE_SECONDS)
                assert done.replayed is replayed
        if not replayed:
            assert run(("keys", "rotate", "--file", keys)) == 0
    capsys.readouterr()
    log = str(tmp_path / "c1" / "coordinator.db")
    assert run(("keys", "show", "--file", keys, "--log", log)) == 0
    newest, used, oldest = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert (newest[2], newest[-1]) == ("seals", "0")
    assert (used[2], used[-1] != "0") == ("opens", True)
    assert (oldest[2], oldest[-1] != "0") == ("opens", True)


async def test_a_rotation_while_everything_runs_and_starts_with_the_old_the_new_and_both_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(payload_keys, "LOOK_SECONDS", 0.0)
    keys = make_keys(tmp_path)
    old = payload_keys.read(keys).text()
    async with (
        started(tmp_path, keys) as daemon,
        make_notes(tmp_path, daemon, payload_keys=keys) as notes,
        Client(daemon.address) as client,
    ):
        await connected(notes)
        await client.run(call("notes", "note", text="one"), key="k1", timeout=PATIENCE_SECONDS)
        assert run(("keys", "rotate", "--file", keys)) == 0
        await client.run(call("notes", "note", text="two"), key="k2", timeout=PATIENCE_SECONDS)
    both = payload_keys.read(keys)
    new, first = both.keys
    for log in (tmp_path / "c1" / "coordinator.db", tmp_path / "notes.db"):
        assert {key for record in offline.dump(log).records for key in record.keys} == {new.id, first.id}
    for name, text, missing in (("old", old, new.id), ("new", Ring((new,)).text(), first.id), ("both", both.text(), "")):
        alone = tmp_path / f"{name}.toml"
        alone.touch(0o600)
        alone.write_text(text)
        caplog.clear()
        async with started(tmp_path, str(alone)) as daemon, Client(daemon.address) as client:
            assert ("PAYLOAD_KEY_MISSING" in caplog.text, missing in caplog.text) == (bool(missing), True)
            if not missing:
                notes = make_notes(tmp_path, daemon, payload_keys=keys)
                async with notes:
                    await connected(notes)
                    for key, text in (("k1", "one"), ("k2", "two")):
                        done = await client.run(call("notes", "note", text=text), key=key, timeout=PATIENCE_SECONDS)
                        assert done.replayed


async def test_a_file_of_keys_that_others_can_read_keeps_either_side_from_starting(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, mode=0o644)
    with pytest.raises(ConfigError, match="open to others"):
        async with started(tmp_path, keys):
            pass
    with pytest.raises(ConfigError, match="open to others"):
        Participant("mail", resource=LogResource(), data_directory=tmp_path / "m", coordinator="127.0.0.1:1", payload_keys=keys)


async def test_what_is_left_under_a_key_is_sealed_with_it_and_told_to_nobody_but_who_comes_with_the_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys, secret = make_keys(tmp_path), "what-it-came-to-4711"

    async def again(daemon: Daemon) -> AlreadyCommitted:
        async with Client(daemon.address) as client:
            with pytest.raises(AlreadyCommitted) as caught:
                async with client.transaction(key="k1", timeout=PATIENCE_SECONDS):
                    pytest.fail("the body ran")
        return caught.value

    with caplog.at_level(logging.DEBUG):
        async with started(tmp_path, keys) as daemon:
            async with Client(daemon.address) as client, client.transaction(key="k1", timeout=PATIENCE_SECONDS) as tx:
                tx.result = {"told": secret}
            assert (await again(daemon)).result == {"told": secret}
        async with started(tmp_path, keys) as daemon:
            assert (await again(daemon)).result == {"told": secret}
        async with started(tmp_path, "") as daemon, Client(daemon.address) as client:
            with pytest.raises(OutcomeUnknown) as caught:
                async with client.transaction(key="k1", timeout=PATIENCE_SECONDS):
                    pytest.fail("the body ran")
            assert caught.value.reason is Reason.PAYLOAD_KEY_MISSING
    assert secret not in caplog.text
    files = [path.read_bytes() for path in (tmp_path / "c1").rglob("*") if path.is_file()]
    assert files and all(secret.encode() not in content for content in files)
