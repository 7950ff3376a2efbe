"""Flipped, cut and spliced files: the author's file with the resource's log in it, and what `troth log verify` says of all.

`tests/log` does the same, byte by byte, for the logs of the coordinator and of the SDK. What must hold here as well: opening
ends with whole records up to some point or with a `LogError`; no record in the middle is missing or changed; nothing else is
raised, and the participant's core takes what was opened or says `LogError` too.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from participant_sdk.core.branches import Config
from participant_sdk.core.core import ParticipantCore
from participant_sdk.core.work import ResourceKind
from participant_sdk.resources.sqlite import SqliteResource
from participant_sdk.resources.sqlite_file import SqliteFile
from tests.fuzz.budget import FACTOR
from troth.errors import LogError
from troth.log import offline
from troth.log.contract import StoredRecord
from troth.log.schema import checksum
from troth.ready import Append, Instant, Opened
from troth.v1 import common_pb2, record_pb2

POSITIONS = int(120 * (FACTOR or 1))
SCHEMA = "CREATE TABLE accounts (id TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL)"
RECORDS = 24


def record(number: int) -> record_pb2.ParticipantRecord:
    name = f"c1.1.0123abcd.1.{number // 2}"
    if number % 2:
        return record_pb2.ParticipantRecord(
            branch_finished=record_pb2.BranchFinished(transaction_id=name, order=number, outcome=common_pb2.OUTCOME_COMMITTED)
        )
    work = record_pb2.BranchWork(undo=[b"undo" * 60], rows=[b"row"], keys=["key"])
    return record_pb2.ParticipantRecord(branch_prepared=record_pb2.BranchPrepared(transaction_id=name, order=number, work=work))


async def filled(path: Path, *, closed: bool) -> list[bytes]:
    """A resource's file with records in several batches; its bodies. Not closed, it has a write-ahead log beside it."""
    resource = SqliteResource(path, schema=SCHEMA)
    resource.bind("bank", object())  # type: ignore[arg-type]  # no operation runs
    await resource.open()
    for first in range(0, RECORDS, 3):
        await resource.write([Append(record(number)) for number in range(first, first + 3)], sync=True, drop_below=0)
    if not closed:
        copy_files(path, path.with_name("kept.db"))
    await resource.close()
    if not closed:
        copy_files(path.with_name("kept.db"), path)
    return bodies(path if closed else variant(path))


def copy_files(source: Path, target: Path) -> None:
    for suffix in ("", "-wal"):
        source_file, target_file = source.with_name(source.name + suffix), target.with_name(target.name + suffix)
        target_file.unlink(missing_ok=True)
        if source_file.exists():
            shutil.copy(source_file, target_file)


def variant(source: Path, suffix: str = "", content: bytes | None = None) -> Path:
    """A copy, with other content in one of its files."""
    target = source.with_name("variant.db")
    copy_files(source, target)
    if content is not None:
        target.with_name(target.name + suffix).write_bytes(content)
    return target


def bodies(path: Path) -> list[bytes]:
    """The records that opening finds."""
    return [stored.body for stored in loaded(path)]


def loaded(path: Path) -> list[StoredRecord]:
    """What opening finds; as the resource does it, without its thread."""
    file = SqliteFile(path)
    try:
        file.identify("bank")
        records, _ = file.records()
    finally:
        file.close()
    core = ParticipantCore(Config(participant="bank", resource=ResourceKind.ATOMIC))
    core.recover([stored.body for stored in records], Instant(0.0, 0), Opened("log", len(records)))
    return records


def judged(path: Path, whole: list[bytes]) -> int | None:
    """How many records were found, or `None` for a refusal. Fails when one in the middle is missing or changed."""
    verified = found = None
    with suppress(LogError):
        verified = offline.verify(path)
    try:
        found = bodies(path)
    except LogError:
        return None
    assert found == whole[: len(found)]
    assert verified is not None, "opened, but `troth log verify` cannot even read it"
    return len(found)


def damages(content: bytes, seed: int) -> list[bytes]:
    """The content with bytes flipped, runs overwritten, parts exchanged, and cut."""
    chance = random.Random(seed)
    made = []
    for _ in range(POSITIONS):
        at = chance.randrange(len(content))
        made.append(content[:at] + bytes([content[at] ^ chance.choice((1, 0x80, 0xFF))]) + content[at + 1 :])
    for _ in range(POSITIONS // 5):
        at, length = chance.randrange(len(content)), chance.choice((2, 16, 600, 4096))
        piece = chance.choice((b"\x00" * length, chance.randbytes(length), content[:length]))
        made.append((content[:at] + piece + content[at + length :])[: len(content)])
        made.append(content[: chance.randrange(1, len(content))])  # of length 0 it would be a new file
    return made


def shuffles(content: bytes, seed: int) -> list[bytes]:
    """The content with its pages in another order."""
    chance = random.Random(seed)
    pages = [content[at : at + 4096] for at in range(0, len(content), 4096)]
    made = []
    for _ in range(POSITIONS // 5):
        chance.shuffle(pages)
        made.append(b"".join(pages))
    return made


async def test_the_sample_opens(tmp_path: Path) -> None:
    assert len(await filled(tmp_path / "a.db", closed=True)) == RECORDS
    assert len(await filled(tmp_path / "b.db", closed=False)) == RECORDS
    assert (tmp_path / "b.db-wal").stat().st_size > 8 * 4096


async def test_damage_to_a_closed_file_loses_nothing_silently(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    whole = await filled(path, closed=True)
    results = [judged(variant(path, "", content), whole) for content in damages(path.read_bytes(), 1)]
    assert set(results) <= {None, RECORDS}, "records at the end of a closed file vanished"
    assert None in results


async def test_exchanged_pages_are_no_accident(tmp_path: Path) -> None:
    """SQLite's pages have no checksums: an empty table's page in place of ours is an empty table. Nothing else may happen."""
    path = tmp_path / "bank.db"
    whole = await filled(path, closed=True)
    results = [judged(variant(path, "", content), whole) for content in shuffles(path.read_bytes(), 3)]
    assert set(results) <= {None, 0, RECORDS}


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_damage_beside_a_write_ahead_log(tmp_path: Path, suffix: str) -> None:
    """What SQLite cuts from its write-ahead log are whole batches at its end, never one in the middle."""
    path = tmp_path / "bank.db"
    whole = await filled(path, closed=False)
    content = path.with_name(path.name + suffix).read_bytes()
    results = [judged(variant(path, suffix, one), whole) for one in damages(content, 2)]
    assert all(result is None or result % 3 == 0 for result in results)


async def test_a_file_beside_the_write_ahead_log_of_another(tmp_path: Path) -> None:
    path, other = tmp_path / "bank.db", tmp_path / "other" / "bank.db"
    other.parent.mkdir()
    whole = await filled(path, closed=True)
    await filled(other, closed=False)
    spliced = variant(path, "-wal", other.with_name("bank.db-wal").read_bytes())
    judged(spliced, whole)


def delete_middle(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM troth_records WHERE seq = 5")


def change_body(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE troth_records SET body = x'00' WHERE seq = 5")


def body_of_another_type(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE troth_records SET body = 'text' WHERE seq = 5")


def undecodable(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE troth_records SET body = ?, crc = ? WHERE seq = 5", (b"\xff\xff", checksum(5, b"\xff\xff")))


def unknown_kind(connection: sqlite3.Connection) -> None:
    body = b"\xd2\x3e\x00"
    connection.execute("UPDATE troth_records SET body = ?, crc = ? WHERE seq = 5", (body, checksum(5, body)))


def version(value: str) -> Callable[[sqlite3.Connection], None]:
    def change(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE troth_meta SET value = ? WHERE name = 'format_version'", (value,))

    return change


def no_identity(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM troth_meta")


def no_table(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TABLE troth_records")


def next_seq_of_letters(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT OR REPLACE INTO troth_meta VALUES ('next_seq', 'many')")


@pytest.mark.parametrize(
    "change",
    [
        delete_middle, change_body, body_of_another_type, undecodable, unknown_kind, version("2"), version("x"),
        version(""), no_identity, no_table, next_seq_of_letters,
    ],
)  # fmt: skip
async def test_changes_by_sql_are_refused(tmp_path: Path, change: Callable[[sqlite3.Connection], None]) -> None:
    path = tmp_path / "bank.db"
    whole = await filled(path, closed=True)
    connection = sqlite3.connect(path, isolation_level=None)
    change(connection)
    connection.close()
    found = judged(path, whole)
    assert found is None
