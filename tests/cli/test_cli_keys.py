"""`troth keys`: payload keys in a file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from coordinator.cli.main import run
from troth import payload_keys
from troth.log.sealing import RecordCodec
from troth.log.sqlite import SqliteLog
from troth.payload_keys import Ring
from troth.ready import Append
from troth.v1 import record_pb2

TRANSACTION = "c1.1.0123abcd.1.1"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kept" / "keys.toml"
    assert run(("keys", "init", "--file", str(path))) == 0
    return path


def log_of(path: Path, ring: Ring | None) -> str:
    """A log with one record, sealed with the newest key."""

    async def write() -> None:
        log = SqliteLog(path, role="coordinator", name="c1")
        await log.open()
        log.seal = RecordCodec("coordinator", ring).seal
        await log.write([Append(record_pb2.CoordinatorRecord(loss=record_pb2.Loss(participant="a", why="w")))], sync=True)
        await log.close()

    asyncio.run(write())
    return str(path)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    capsys.readouterr()
    assert run(("keys", "show", *arguments)) == 0
    return [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()[1:]]


def test_a_file_is_made_for_its_owner_and_never_replaced(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    ring = payload_keys.read(file)
    assert run(("keys", "init", "--file", str(file))) == 2
    assert "rotate" in capsys.readouterr().err
    assert payload_keys.read(file) == ring


def test_a_rotation_puts_a_key_on_top_and_no_secret_is_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old,) = payload_keys.read(file).keys
    assert run(("keys", "rotate", "--file", str(file))) == 0
    new, kept = payload_keys.read(file).keys
    assert (kept, new.id != old.id) == (old, True)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [row[0::2] for row in shown(capsys, "--file", str(file))] == [[new.id, "seals"], [old.id, "opens"]]
    assert run(("keys", "show", "--file", str(file), "--json")) == 0
    told = capsys.readouterr().out
    assert [one["use"] for one in json.loads(told)["keys"]] == ["seals", "opens"]
    for secret in (line.partition('secret = "')[2].strip('"') for line in file.read_text().splitlines() if "secret" in line):
        assert secret not in told


def test_logs_tell_which_keys_they_need(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ring = payload_keys.read(file)
    ours, foreign = log_of(tmp_path / "ours.db", ring), log_of(tmp_path / "foreign.db", Ring((payload_keys.draw(),)))
    where = ("--file", str(file), "--log", ours, "--log", foreign)
    (seals, missing) = shown(capsys, *where)
    assert (seals[0], seals[2:]) == (ring.newest.id, ["seals", "1"])
    assert missing[1:] == ["missing", "missing", "1"]
    assert run(("log", "verify", ours)) == 0
    assert ring.newest.id in capsys.readouterr().out


def test_a_key_is_dropped_when_no_log_needs_it(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = payload_keys.read(file)
    needs, clear = log_of(tmp_path / "needs.db", old), log_of(tmp_path / "clear.db", None)
    named = ("--file", str(file))
    assert run(("keys", "drop", old.newest.id, "--log", clear, *named)) == 2, "it seals"
    assert run(("keys", "rotate", *named)) == 0
    both = payload_keys.read(file)
    for arguments, why in (
        ((old.newest.id,), "no log is named"), ((old.newest.id, "--log", clear, "--log", needs), "1 records need"),
        (("none", "--log", clear), "has no key none"),
    ):  # fmt: skip
        capsys.readouterr()
        assert run(("keys", "drop", *arguments, *named)) == 2
        assert why in capsys.readouterr().err
        assert payload_keys.read(file) == both
    assert "can go, as far as these logs tell" in " ".join(shown(capsys, "--log", clear, *named)[1])
    assert run(("keys", "drop", old.newest.id, "--log", clear, *named)) == 0
    assert payload_keys.read(file) == Ring((both.newest,))


@pytest.mark.parametrize("role", ["participant", "resource", "coordinator"])
def test_a_reason_that_is_written_offline_is_sealed_as_the_process_would(
    role: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.db"
    decided = record_pb2.Decided(transaction_id=TRANSACTION, participants=["a"], owing=[0])
    prepared = record_pb2.BranchPrepared(transaction_id=TRANSACTION)

    async def write() -> None:
        log = SqliteLog(path, role=role, name="c1")
        await log.open()
        record = record_pb2.CoordinatorRecord(decided=decided) if role == "coordinator" else None
        await log.write([Append(record or record_pb2.ParticipantRecord(branch_prepared=prepared))], sync=True)
        await log.close()

    asyncio.run(write())
    monkeypatch.setenv("TROTH_PAYLOAD_KEYS", str(file))
    action = "abandon" if role == "coordinator" else "commit"
    assert run(("log", "resolve", str(path), TRANSACTION, action, "--why", "planted-why", "--yes")) == 0
    assert b"planted-why" not in path.read_bytes()
    capsys.readouterr()
    assert run(("log", "dump", str(path))) == 0
    assert f"(sealed with {payload_keys.read(file).newest.id})" in capsys.readouterr().out


def test_a_log_that_stands_in_has_its_reason_sealed(file: Path, tmp_path: Path) -> None:
    path, keys = tmp_path / "log.db", str(file)
    named = ("--name", "c1", "--log-id", "22" * 16, "--why", "planted-why", "--yes", "--payload-keys", keys)
    assert run(("log", "stand-in", str(path), *named)) == 0
    assert b"planted-why" not in path.read_bytes()


def test_a_file_that_others_can_read_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.chmod(0o644)
    for command in ("show", "rotate"):
        assert run(("keys", command, "--file", str(file))) == 2
        assert "chmod 0600" in capsys.readouterr().err
