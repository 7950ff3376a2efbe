"""`troth backup` and `troth restore` on files, and the copy that they rest on."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.backup import copying
from tests.cli.test_cli_offline import decided, make_log, prepared
from troth.errors import LogDamaged, LogError, LogForeign
from troth.log import offline, schema
from troth.v1 import common_pb2, record_pb2

WRITER = """
import itertools, sqlite3, sys
from pathlib import Path
from troth.log import files, schema
from troth.log.contract import LogIdentity
path = Path(sys.argv[1])
lock = files.prepare(path, LogIdentity("coordinator", "c1", "ab" * 16, 1))
file = sqlite3.connect(path, isolation_level=None)
for pragma in ("locking_mode = EXCLUSIVE", "synchronous = OFF", "wal_autocheckpoint = 20"):
    file.execute(f"PRAGMA {pragma}")
body = bytes.fromhex(sys.argv[2])
for seq in itertools.count(1):
    file.execute("BEGIN IMMEDIATE")
    file.execute(schema.INSERT_SQL, (seq, schema.checksum(seq, body), body))
    if seq % 50 == 0:
        file.execute(schema.DROP_SQL, (seq - 30,))
    file.execute("COMMIT")
    if seq % 100 == 0:
        print(seq, flush=True)
"""
"""Writes as fast as it can, and begins its write-ahead log anew every few dozen records."""


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A log that another process has to itself, and writes."""
    path, body = tmp_path / "coordinator.db", decided().SerializeToString().hex()
    command = [sys.executable, "-c", WRITER, str(path), body]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield path, process
        process.kill()


def told(process: subprocess.Popen[str]) -> int:
    """A position that is in the log already."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_a_copy_of_a_log_that_is_written_is_sound_and_has_all_that_was_there_before(
    busy: tuple[Path, subprocess.Popen[str]], tmp_path: Path
) -> None:
    path, process = busy
    seen = 0
    for number in range(300):  # where the writer gets on between all looks of a copy, there is none: mostly one of two succeeds
        if seen == 6:
            break
        before = told(process)
        try:
            found = copying.copy_log(path, tmp_path / f"copy{number}.db")
        except LogError as error:
            assert "changed 20 times" in error.message, error
            continue
        seen += 1
        again = copying.verify(tmp_path / f"copy{number}.db")
        assert not again.problems and again.last_seq == found.last_seq >= before
    assert seen, "not one copy was made between two checkpoints"


@pytest.mark.parametrize("last, copies", [(4, 2), (5, 4)])
async def test_what_a_checkpoint_does_between_the_two_copies(
    last: int, copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that moves pages is in the second copy, too. Where the write-ahead log is begun anew both are copied again."""
    path, copied = await log(tmp_path / "coordinator.db"), []
    writer, body = sqlite3.connect(path, isolation_level=None), decided().SerializeToString()

    def write(*seqs: int) -> None:
        for seq in seqs:
            writer.execute(schema.INSERT_SQL, (seq, schema.checksum(seq, body), body))

    def copy(source: Path, target: Path) -> None:
        real(source, target)
        copied.append(source)
        if len(copied) == 1:
            write(3, 4)
            writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            write(*range(5, last + 1))  # the first write after a checkpoint that moved all begins the write-ahead log anew

    real = copying._copy
    monkeypatch.setattr(copying, "_copy", copy)
    write(2)
    found = copying.copy_log(path, tmp_path / "copy.db")
    writer.close()
    assert (found.last_seq, len(copied)) == (last, copies)
    assert not copying.verify(tmp_path / "copy.db").problems


async def log(path: Path, *more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    await make_log(path, "coordinator", "c1", decided(), *more)
    return path


async def test_a_backup_is_whole_and_is_put_back_where_it_came_from(troth: Any, tmp_path: Path) -> None:
    path = await log(tmp_path / "c1" / "coordinator.db")
    made = await troth("backup", str(path.parent), "--to", str(tmp_path / "b"), "--json")
    assert made.code == 0, made.err
    (entry,) = made.json()["files"]
    assert (entry["role"], entry["name"], entry["last_seq"]) == ("coordinator", "c1", 1)
    assert sorted(one.name for one in (tmp_path / "b").iterdir()) == ["backup.json", "coordinator.db"]
    shutil.rmtree(path.parent)
    unasked = await troth("restore", str(tmp_path / "b"))
    assert unasked.code == 2 and not path.exists(), "nobody could be asked"
    assert "1 of its commits wait for acknowledgements" in unasked.err
    done = await troth("restore", str(tmp_path / "b"), "--yes")
    assert done.code == 0 and "troth participants accept-loss" in done.out
    assert not offline.verify(path).problems
    assert sorted(one.name for one in (tmp_path / "b").iterdir()) == ["backup.json", "coordinator.db"], "nothing is left there"


async def test_a_restore_replaces_nothing_that_is_sound_and_has_as_much(troth: Any, tmp_path: Path) -> None:
    path = await log(tmp_path / "c1" / "coordinator.db")
    await troth("backup", str(path), "--to", str(tmp_path / "b"))
    same = await troth("restore", str(tmp_path / "b"), "--yes")
    assert same.code == 3 and "It has all that the backup has: start it." in same.err
    offline.append_offline(path, decided().SerializeToString())
    assert (await troth("restore", str(tmp_path / "b"), "--yes")).code == 3, "newer"
    other = await log(tmp_path / "c2" / "coordinator.db")
    refused = await troth("restore", str(tmp_path / "b"), "--to", str(other.parent), "--yes")
    assert refused.code == 3 and "is another log" in refused.err


async def test_an_older_log_is_moved_aside(troth: Any, tmp_path: Path) -> None:
    path = await log(tmp_path / "c1" / "coordinator.db")
    shutil.copyfile(path, tmp_path / "older")
    offline.append_offline(path, decided().SerializeToString())
    await troth("backup", str(path), "--to", str(tmp_path / "b"))
    shutil.copyfile(tmp_path / "older", path)
    done = await troth("restore", str(tmp_path / "b"), "--yes", "--json")
    (aside,) = done.json()["moved_aside"]
    assert Path(aside).read_bytes() == (tmp_path / "older").read_bytes()  # noqa: ASYNC240 - nothing else runs here
    assert offline.verify(path).last_seq == 2


def ended_for_its_result() -> record_pb2.CoordinatorRecord:
    """The end of a commit of nobody."""
    claim = record_pb2.KeyClaim(key="k", result=b"paid")
    return record_pb2.CoordinatorRecord(ended=record_pb2.Ended(outcome=common_pb2.OUTCOME_COMMITTED, claim=claim))


@pytest.mark.parametrize("make", [decided, ended_for_its_result])
async def test_what_a_damaged_log_still_tells_and_the_backup_lacks_is_named(troth: Any, tmp_path: Path, make: Any) -> None:
    path = await log(tmp_path / "c1" / "coordinator.db")
    await troth("backup", str(path), "--to", str(tmp_path / "b"))
    later = make()
    getattr(later, later.WhichOneof("kind")).transaction_id = "c1.1.0badcafe.3.9"
    offline.append_offline(path, later.SerializeToString())
    with sqlite3.connect(path) as file:
        file.execute("UPDATE troth_records SET body = x'ff' WHERE seq = 1")
    file.close()
    done = await troth("restore", str(tmp_path / "b"), "--yes")
    assert done.code == 0
    assert "1 commits are in what is moved aside and not in the backup: c1.1.0badcafe.3.9" in done.err


async def test_a_peer_tells_what_the_backup_does_not_know(troth: Any, tmp_path: Path) -> None:
    path, bank = await log(tmp_path / "c1" / "coordinator.db"), tmp_path / "bank.db"
    await troth("backup", str(path), "--to", str(tmp_path / "b"))
    unknown = prepared()
    unknown.branch_prepared.transaction_id = "c1.1.0badcafe.3.9"
    await make_log(bank, "participant", "bank", prepared(), unknown)
    path.unlink()
    done = await troth("restore", str(tmp_path / "b"), "--peer", str(bank), "--yes")
    assert "the backup does not know c1.1.0badcafe.3.9: prepared in bank" in done.err
    assert "0badcafe.3.4" not in done.err, "this one is known"


async def test_a_backup_that_was_touched_is_refused(troth: Any, tmp_path: Path) -> None:
    path = await log(tmp_path / "c1" / "coordinator.db")
    await troth("backup", str(path), "--to", str(tmp_path / "b"))
    path.unlink()
    copy, manifest = tmp_path / "b" / "coordinator.db", tmp_path / "b" / "backup.json"
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert (await troth("restore", str(tmp_path / "b"), "--yes")).code == 3
    copy.unlink()
    assert (await troth("restore", str(tmp_path / "b"), "--yes")).code == 3
    copy.write_bytes(whole)
    document = json.loads(manifest.read_text())
    for wrong in (document | {"format": 2}, document | {"files": [{"file": "x"}]}, []):
        manifest.write_text(json.dumps(wrong))
        assert (await troth("restore", str(tmp_path / "b"), "--yes")).code == 3
    manifest.unlink()
    assert (await troth("restore", str(tmp_path / "b"), "--yes")).code == 3
    assert not path.exists()


async def test_a_damaged_log_is_not_backed_up_and_nothing_is_left(troth: Any, tmp_path: Path) -> None:
    path = await log(tmp_path / "c1" / "coordinator.db")
    with sqlite3.connect(path) as file:
        file.execute("UPDATE troth_records SET body = x'ff'")
    file.close()
    refused = await troth("backup", str(path), "--to", str(tmp_path / "b"))
    assert refused.code == 3 and "LOG_DAMAGED" in refused.err
    assert not (tmp_path / "b").exists() and not (tmp_path / "b.building").exists()
    with pytest.raises(LogDamaged):
        copying.copy_log(path, tmp_path / "copy.db")


async def test_what_is_no_log_is_left_out_of_a_directory_and_refused_by_name(troth: Any, tmp_path: Path) -> None:
    path = await log(tmp_path / "c1" / "coordinator.db")
    other = path.with_name("other.db")
    with sqlite3.connect(other) as file:
        file.execute("CREATE TABLE t (x)")
    file.close()
    made = await troth("backup", str(path.parent), "--to", str(tmp_path / "b"))
    assert made.code == 0 and "other.db holds no log of Troth, and was left out" in made.err
    assert (await troth("backup", str(other), "--to", str(tmp_path / "c"))).code == 3
    with pytest.raises(LogForeign):
        copying.copy_log(other, tmp_path / "copy.db")


@pytest.mark.parametrize("source", ["postgresql://db/bank", "mysql://db/bank"])
async def test_a_database_is_told_its_own_way(troth: Any, tmp_path: Path, source: str) -> None:
    refused = await troth("backup", source, "--to", str(tmp_path / "b"))
    assert refused.code == 2 and "own backup is the way" in refused.err


async def test_what_cannot_be_named_is_told(troth: Any, tmp_path: Path) -> None:
    path = await log(tmp_path / "c1" / "coordinator.db")
    twin = await log(tmp_path / "c2" / "coordinator.db")
    (tmp_path / "empty").mkdir()
    for sources in (("nowhere",), ("empty",), (str(path), str(twin))):
        assert (await troth("backup", *sources, "--to", str(tmp_path / "b"))).code == 2
    (tmp_path / "b").mkdir()
    assert (await troth("backup", str(path), "--to", str(tmp_path / "b"))).code == 2, "it is there"
