"""The audit log: whatever is done to it shows, it is whole after a crash, and what is in it says who, what and why."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from closed_world import connected, make_notes
from private_authority import Pki

from coordinator.cli.main import run
from coordinator.identity import audit, audit_keys
from coordinator.identity.audit import Audit, files_of, lines_of
from coordinator.identity.chain import verify
from coordinator.server import Daemon
from troth.errors import ConfigError, LogFailed
from troth.identity.peer import named
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc

ADA, EVE = "spiffe://example.org/people/ada", "spiffe://example.org/eve"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The key that signs."""
    audit_keys.make(tmp_path / "audit.key")
    return tmp_path / "audit.key"


@pytest.fixture
def written(tmp_path: Path, key: Path) -> list[bytes]:
    """The lines of a log with twelve entries, of which the last is a checkpoint."""
    log = Audit(tmp_path / "audit", "c1", 10**9, audit_keys.read_private(key))
    for number in range(9):
        log.write("asked", who="token:ada", action="Drain", object=f"o{number}")
    log.close()
    return list(lines_of(tmp_path / "audit"))


def problems(lines: list[bytes], key: Path, known: Any = None) -> list[str]:
    return verify(lines, audit_keys.read_public(f"{key}.pub"), known).problems


# ---- what is done to it shows


def test_what_nobody_touched_is_right(written: list[bytes], key: Path) -> None:
    verdict = verify(written, audit_keys.read_public(f"{key}.pub"), json.loads(written[-1]))
    assert (verdict.problems, verdict.entries, verdict.signed_through) == ([], 12, 12)


def test_every_changed_byte_shows(written: list[bytes], key: Path) -> None:
    for index, line in enumerate(written):
        for at in range(0, len(line) - 1, 7):
            changed = bytearray(line)
            changed[at] ^= 1
            lines = [*written[:index], bytes(changed), *written[index + 1 :]]
            assert problems(lines, key), f"byte {at} of entry {index + 1}"


@pytest.mark.parametrize("index", range(11))
def test_every_dropped_repeated_or_swapped_entry_shows(written: list[bytes], key: Path, index: int) -> None:
    known = json.loads(written[-1])
    without = [*written[:index], *written[index + 1 :]]
    assert problems(without, key, known)
    assert problems([*written[:index], written[index], *written[index:]], key, known)
    swapped = [*written[:index], written[index + 1], written[index], *written[index + 2 :]]
    assert problems(swapped, key, known)


@pytest.mark.parametrize("kept", range(12))
def test_every_cut_end_shows_by_the_last_checkpoint(written: list[bytes], key: Path, kept: int) -> None:
    assert problems(written[:kept], key, json.loads(written[-1]))


def test_a_chain_that_was_made_anew_shows_by_its_signatures(written: list[bytes], key: Path, tmp_path: Path) -> None:
    """Whoever can write the file can make all hashes anew; he has not the key."""
    audit_keys.make(tmp_path / "other.key")
    forger = Audit(tmp_path / "forged", "c1", 10**9, audit_keys.read_private(tmp_path / "other.key"))
    for number in range(9):
        forger.write("asked", who="token:eve", action="Drain", object=f"o{number}")
    forger.close()
    forged = list(lines_of(tmp_path / "forged"))
    assert not verify(forged).problems, "the chain alone is right"
    assert problems(forged, key)
    assert problems(forged, key, json.loads(written[-1]))


# ---- files


def test_it_goes_on_over_restarts_files_and_half_an_entry(tmp_path: Path, key: Path) -> None:
    directory = tmp_path / "audit"
    for _ in range(3):
        log = Audit(directory, "c1", 500, audit_keys.read_private(key))
        log.write("asked", who="token:ada", why="x" * 5_000)
        log.close()
        with files_of(directory)[-1].open("ab") as file:
            file.write(b'{"seq": 99, "half')
    log = Audit(directory, "c1", 500)
    log.close()
    assert len(files_of(directory)) > 3
    assert problems(list(lines_of(directory)), key) == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in files_of(directory))
    assert sum(b"cut_bytes" in line for line in lines_of(directory)) == 3


def test_an_end_that_is_no_entry_is_not_written_over(tmp_path: Path) -> None:
    Audit(tmp_path, "c1", 10**9).close()
    files_of(tmp_path)[-1].write_bytes(b"nonsense\n")
    with pytest.raises(ConfigError, match="no entry"):
        Audit(tmp_path, "c1", 10**9)


def test_two_do_not_write_into_one_directory(tmp_path: Path) -> None:
    log = Audit(tmp_path, "c1", 10**9)
    with pytest.raises(ConfigError, match="another process"):
        Audit(tmp_path, "c2", 10**9)
    log.close()
    Audit(tmp_path, "c1", 10**9).close()


def test_a_beginning_that_was_put_away_with_all_that_it_went_on_from_begins_no_second_chain(tmp_path: Path) -> None:
    """A crash between two files leaves the newest empty."""
    log = Audit(tmp_path, "c1", 500)
    log.write("asked", why="x" * 5_000)
    log.close()
    for path in files_of(tmp_path):
        path.unlink()
    (tmp_path / "audit-000000000007.jsonl").touch()
    with pytest.raises(ConfigError, match="nobody can say what it goes on from"):
        Audit(tmp_path, "c1", 500)


# ---- retention


class Days:
    """A clock that goes on by days."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def kept_for(tmp_path: Path, key: Path, days: int) -> Path:
    """The directory of a log with an entry on each of 30 days, and a retention."""
    clock, directory = Days(), tmp_path / "audit"
    for number in range(30):
        clock.now += timedelta(days=1)
        if number % 10 == 0:  # it is stopped and started now and then
            log = Audit(directory, "c1", 10**9, audit_keys.read_private(key), clock, days * 86_400.0)
        log.write("asked", who="token:ada", object=f"day {number}", durable=True)
        if number % 10 == 9:
            log.close()
    return directory


def test_entries_are_kept_so_long_and_then_dropped_which_the_log_says(tmp_path: Path, key: Path) -> None:
    directory = kept_for(tmp_path, key, 7)
    objects = [entry["object"] for line in lines_of(directory) if "object" in (entry := json.loads(line))]
    assert set(objects) >= {f"day {number}" for number in range(23, 30)}
    assert "day 20" not in objects
    assert problems(list(lines_of(directory)), key) == []


def test_a_beginning_that_the_retention_has_not_dropped_shows(tmp_path: Path, key: Path) -> None:
    directory = kept_for(tmp_path, key, 7)
    files_of(directory)[0].unlink()
    assert any("older ones were dropped" in one for one in problems(list(lines_of(directory)), key))


def test_nothing_is_dropped_without_a_retention(tmp_path: Path, key: Path) -> None:
    directory = kept_for(tmp_path, key, 0)
    assert len(files_of(directory)) == 1
    assert json.loads(next(iter(lines_of(directory))))["seq"] == 1


def test_a_checkpoint_of_what_was_dropped_since_is_told_apart_from_a_cut_end(tmp_path: Path, key: Path) -> None:
    directory = kept_for(tmp_path, key, 7)
    known = {"seq": 2, "hash": "00", "prev": "00", "chain": "c1", "signature": "00"}
    assert any("keep a newer one" in one for one in problems(list(lines_of(directory)), key, known))


def test_what_cannot_be_written_is_an_error_and_leaves_no_half_entry(tmp_path: Path) -> None:
    log = Audit(tmp_path, "c1", 10**9)
    before = list(lines_of(tmp_path))

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: bytes) -> int:
            return int(self._file.write(data[:9]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    log._file, real = Full(log._file), log._file
    with pytest.raises(LogFailed, match="No space left"):
        log.write("asked", durable=True)
    log.refused(named("token:eve"), "drain", "*", "no grant")
    assert list(lines_of(tmp_path)) == before
    log._file = real
    log.close()
    assert not verify(lines_of(tmp_path)).problems


def test_refusals_are_so_many_at_a_time_and_counted(tmp_path: Path) -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    log = Audit(tmp_path, "c1", 10**9, now=lambda: now)
    for number in range(audit.IDENTITIES_MAX + 5):
        for _ in range(3 if number else 500):
            log.refused(named(f"token:{number}"), "drain", "*", "no grant")
    now += timedelta(seconds=audit.REFUSALS_SECONDS)
    log.refused(named("token:0"), "drain", "*", "no grant")
    entries = [json.loads(line) for line in lines_of(tmp_path)]
    assert sum(one.get("who") == "token:0" for one in entries) == audit.REFUSALS_MAX + 1
    written = sum(one["kind"] == "refused" for one in entries)
    assert written + sum(one.get("left_out", 0) for one in entries) == 500 + 3 * (audit.IDENTITIES_MAX + 4) + 1
    log.close()


# ---- keys


def test_keys_that_are_refused(tmp_path: Path, key: Path, pki: Pki) -> None:
    with pytest.raises(ConfigError, match="there already"):
        audit_keys.make(key)
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        audit_keys.read_private(key)
    other = pki.authorities.with_suffix(".key")
    (tmp_path / "text").write_text("x")
    (tmp_path / "text").chmod(0o600)
    for read, path in ((audit_keys.read_private, other), (audit_keys.read_private, tmp_path / "text"),
                       (audit_keys.read_public, tmp_path / "text")):  # fmt: skip
        with pytest.raises(ConfigError, match="no"):
            read(path)


# ---- what a daemon writes


def entries_of(directory: Path, **wanted: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in lines_of(directory)]
    return [one for one in entries if all(one.get(name) == value for name, value in wanted.items())]


async def test_what_operators_do_and_who_is_refused(guarded: Daemon, pki: Pki, tmp_path: Path) -> None:
    directory = tmp_path / "c1" / "audit"
    tls = pki.tls("notes", "spiffe://example.org/notes")
    async with make_notes(tmp_path, guarded, tls) as notes:
        await connected(notes)
        async with (
            grpc.aio.secure_channel(guarded.address, pki.tls("ada", ADA).channel_credentials()) as ada,
            grpc.aio.secure_channel(guarded.address, pki.tls("eve", EVE).channel_credentials()) as eve,
            grpc.aio.secure_channel(guarded.address, pki.tls("web", "spiffe://example.org/web").channel_credentials()) as web,
        ):
            begun = await client_pb2_grpc.TransactionServiceStub(web).Begin(client_pb2.BeginRequest(timeout_ms=30_000))
            with pytest.raises(grpc.aio.AioRpcError):
                await admin_pb2_grpc.AdminServiceStub(eve).Drain(admin_pb2.DrainRequest())
            resolve = admin_pb2.ResolveRequest(
                transaction_id=begun.transaction_id, action=admin_pb2.RESOLVE_ACTION_ABORT, who="root@prod", why="told by phone"
            )
            await admin_pb2_grpc.AdminServiceStub(ada).Resolve(resolve)
    (participant,) = entries_of(directory, kind="participant")
    assert (participant["who"], participant["object"], participant["shown_by"]) == (tls_name(), "notes", "certificate")
    (refused,) = entries_of(directory, kind="refused")
    assert (refused["who"], refused["action"], "no grant" in refused["why"]) == (EVE, "drain", True)
    (asked,), (done,) = entries_of(directory, kind="asked"), entries_of(directory, kind="done")
    assert (asked["who"], asked["why"], asked["order"]) == (ADA, "told by phone", "ABORT")
    assert asked["object"] == begun.transaction_id
    assert (done["request"], done["before"], done["after"], done["result"]) == (asked["request"], "ACTIVE", "ABORTED", "done")
    assert not verify(lines_of(directory)).problems


def tls_name() -> str:
    return "spiffe://example.org/notes"


async def test_what_cannot_be_recorded_is_not_done(guarded: Daemon, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise LogFailed(audit.Reason.LOG_FAILED, "No space left on device")

    monkeypatch.setattr(Audit, "_add", full)
    async with grpc.aio.secure_channel(guarded.address, pki.tls("ada", ADA).channel_credentials()) as ada:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await admin_pb2_grpc.AdminServiceStub(ada).Drain(admin_pb2.DrainRequest())
    assert "LOG_FAILED" in str(caught.value.details())
    assert not guarded.context.core.is_draining


def test_the_commands(tmp_path: Path, written: list[bytes], key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--directory", str(tmp_path / "audit"))

    def call(*arguments: str) -> tuple[int, str]:
        return run(arguments), capsys.readouterr().out

    assert call("audit", "show", *where, "--who", "token:ada", "--kind", "asked")[1].count("Drain") == 9
    assert len(json.loads(call("audit", "show", *where, "--json")[1])["entries"]) == 12
    code, kept = call("audit", "checkpoint", *where)
    (tmp_path / "kept.json").write_text(kept)
    verifying = ("audit", "verify", *where, "--key", f"{key}.pub", "--checkpoint", str(tmp_path / "kept.json"))
    assert (code, call(*verifying)[0]) == (0, 0)
    assert json.loads(call(*verifying, "--json")[1])["signed_through"] == 12
    assert call("audit", "export", *where)[1].encode() == b"".join(written)
    assert call("audit", "export", *where, "--since", "2999")[1] == ""
    (path,) = files_of(tmp_path / "audit")
    path.write_bytes(path.read_bytes().replace(b"token:ada", b"token:eve", 1))
    code, out = call(*verifying)
    assert (code, "was changed" in out) == (1, True)
    assert call(*verifying, "--first", "2")[0] == 1
    (tmp_path / "kept.json").write_text("{}")
    assert call(*verifying)[0] == 2
    assert call("audit", "show", "--directory", str(tmp_path / "nowhere"))[0] == 2
    assert call("audit", "key", str(tmp_path / "new.key"))[0] == 0
